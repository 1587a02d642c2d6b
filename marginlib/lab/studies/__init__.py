"""Studies: one module a stem, each with METHODS, SCALES and ``study``.

A setting says everything about a run but its loss and its seed.  ``SCALES`` gives, for each
scale, the settings to run under, by the regime's name::

    SCALES = {"pocket": {"clean": Setting("pocket", "tiny", epochs=4)}, ...}

Scales: ``pocket`` (embedded images, seconds), ``desk`` (real images at a size that a desk
computer's CPU finishes), ``colab`` (one T4, ten minutes), ``full`` (the source's protocol).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ...heads import LinearHead
from .. import data, evidence, nets
from ..evidence import Run
from ..train import Rate, seeded, train

Loss = Callable[[Tensor, Tensor], Tensor]
# What a study calls a method: a loss of logits, or a head's class, either with its parameters
# fixed by functools.partial.
Method = Loss | Callable[..., nn.Module]


@dataclass(frozen=True)
class Setting:
    """All of a run but its loss and its seed.

    ``classes`` keeps that many of the classes (all by default), ``per_class`` or ``fraction``
    some of the training images; ``noise`` is the share of them that get a wrong label, the
    validation images among them.  ``size`` is the height and width to which a folder of
    images is resized.  ``seeds`` and ``methods`` are what the runner takes when it is told
    nothing else (no methods: all of them).
    """

    data: str
    net: str
    epochs: int
    width: float = 1.0
    batch: int = 128
    rate: tuple[float, float] | Rate = (0.1, 1e-4)
    decay: float = 1e-4
    augment: bool = False
    validation: float = 0.1
    half: bool | None = None
    per_class: int | None = None
    fraction: float | None = None
    noise: float = 0.0
    classes: int | None = None
    size: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = ()

    def config(self) -> dict[str, Any]:
        """What the record says of this setting."""
        said = asdict(self) | {
            "rate": self.rate if isinstance(self.rate, tuple) else repr(self.rate)
        }
        for chosen_by_the_runner in ("seeds", "methods"):
            del said[chosen_by_the_runner]
        if self.half is None:  # decided by the device, which the record names
            del said["half"]
        for decided_by_the_data in ("classes", "size"):
            if said[decided_by_the_data] is None:
                del said[decided_by_the_data]
        return evidence.plain(said)


def names() -> list[str]:
    """Return the stems that have a study, in order."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")


def find(stem: str) -> ModuleType:
    """Return the study of ``stem``.

    Raises:
        ValueError: for a name without a study; the message lists those that have one.
    """
    if stem not in names():
        raise ValueError(f"there is no study {stem!r}; there are {', '.join(names())}")
    return import_module(f"{__name__}.{stem}")


def setting_of(scales: Mapping[str, Mapping[str, Setting]], scale: str, regime: str) -> Setting:
    """Look a setting up.

    Raises:
        ValueError: for a scale or regime that the study does not have; the message lists
            those it has.
    """
    if scale not in scales:
        raise ValueError(f"there is no scale {scale!r}; there are {', '.join(scales)}")
    if regime not in scales[scale]:
        raise ValueError(
            f"scale {scale!r} has no regime {regime!r}; it has {', '.join(scales[scale])}"
        )
    return scales[scale][regime]


def is_head(method: Method) -> bool:
    """Whether a method is a head's class and not a loss of logits."""
    return isinstance(method.func if isinstance(method, partial) else method, type)


def parameters(method: Method) -> dict[str, Any]:
    """Name the method and what it was given, as the record should: functions by their names.

    A head is one text, since a head's scale is not the study's.

    >>> parameters(partial(LinearHead, bias=False))
    {'head': 'LinearHead(bias=False)'}
    """
    if is_head(method):
        return {"head": written(method)}
    if not isinstance(method, partial):
        return {"loss": method.__name__}
    given = {
        key: parameters(value)["loss"] if callable(value) else value
        for key, value in method.keywords.items()
    }
    return {"loss": method.func.__name__} | given


def written(value: Any) -> str:
    """Write a function, a class or a value as a reader would, with what was fixed of it."""
    if not isinstance(value, partial):
        return value.__name__ if callable(value) else repr(value)
    given = ", ".join(f"{key}={written(item)}" for key, item in value.keywords.items())
    return f"{value.func.__name__}({given})"


def described(loss: Method, setting: Setting, named: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of a run before it is made: loss, setting; method, scale, regime."""
    return evidence.plain({**parameters(loss), **setting.config(), **named})


def run(
    loss: Method,
    setting: Setting,
    seed: int,
    *,
    named: Mapping[str, Any],
    progress: bool = False,
    **options: Any,
) -> Run:
    """Train a fresh net and head under ``loss`` as ``setting`` says.

    One seed means the same images, the same starting weights and the same order for every
    loss, so that methods can be compared seed by seed.

    Args:
        loss: a loss of logits, which :class:`LinearHead` then trains; or a head's class,
            called as ``loss(features, classes)``.
        setting: all the rest.
        seed: decides everything that is drawn.
        named: method, scale and regime.
        progress: as in :func:`train.train`.
        options: what else :func:`train.train` takes: ``measure``, ``before_step``,
            ``examine``, ``device``.
    """
    images = data.load(setting.data, setting.size)
    if setting.classes:
        images = images.only(setting.classes, seed)
    if setting.per_class or setting.fraction:
        images = images.fewer(setting.per_class, fraction=setting.fraction, seed=seed)
    if setting.noise:
        images = images.noisy(setting.noise, seed)
    with seeded(seed):
        net = nets.build(setting.net, images.channels, images.size, setting.width)
        make_head = loss if is_head(loss) else partial(LinearHead, loss=loss)
        head = make_head(net.features, images.classes)
    return train(
        net,
        head,
        images,
        seed=seed,
        epochs=setting.epochs,
        batch=setting.batch,
        rate=setting.rate,
        decay=setting.decay,
        augment=setting.augment,
        validation=setting.validation,
        half=setting.half,
        progress=progress,
        config=described(loss, setting, named),
        **options,
    )


def run_named(
    methods: Mapping[str, Method],
    scales: Mapping[str, Mapping[str, Setting]],
    method: str,
    seed: int,
    scale: str,
    regime: str,
    **options: Any,
) -> Run:
    """:func:`run` the method and the setting of these names, and keep the names in the record."""
    named = {"method": method, "scale": scale, "regime": regime}
    setting = setting_of(scales, scale, regime)
    return run(methods[method], setting, seed, named=named, **options)
