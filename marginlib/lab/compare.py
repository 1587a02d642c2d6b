"""Your own images: which loss makes fewer mistakes on them?  One call, one table.

    from marginlib.lab import compare
    found = compare.compare("my/pictures", minutes=10)
    found                # the table
    found.plot()         # every run, and what can be told apart

    python -m marginlib.lab.compare my/pictures --minutes 10

Every method trains the same network from the same starting weights on the same batches.  Its
learning rate is chosen on images held out; then it is trained again with other seeds, and the
test images are looked at once.  How many epochs fit into the minutes is measured first.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..heads import CosFaceHead, EnsembleHead, GroupHead, LinearHead
from ..large_margin import label_smoothing_loss, large_margin_loss
from ..soft_margin import soft_margin_loss
from ..softmax import softmax_loss
from . import data, nets
from .evidence import FINISHED, Difference, Record, Run, Table, plain
from .studies import Method, is_head, parameters
from .train import seeded, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS: dict[str, Method] = {
    "softmax": softmax_loss,
    "smoothing": partial(label_smoothing_loss, smoothing=0.1),
    "soft-margin": partial(soft_margin_loss, margin=1.0),
    "large-margin": partial(large_margin_loss, strength=0.3),
    "cosface": partial(CosFaceHead, scale=16.0, margin=0.2),
    "group": partial(GroupHead, groups=(1, 2, 4), kind=2),
    "em-softmax": partial(EnsembleHead, classifiers=2, margin=1.0, diversity=0.1),
}
RATES = (0.03, 0.1)
CHOOSING = 1000  # the seed of the runs that choose, which no run that is shown has
MOST_EPOCHS = 30
TIMED = 1000  # training images of the trials that tell how long an epoch takes
TESTED, CHOSEN = "tested", "chosen"


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found: every run, and the method that the others are measured by."""

    record: Record
    baseline: str
    methods: tuple[str, ...]

    @property
    def tested(self) -> Record:
        """The runs that are shown, without those that chose a rate on validation images."""
        return self.record.select(regime=TESTED)

    def differences(self, measure: str = "error") -> list[Difference]:
        """Each method's paired difference to the baseline, where two seeds or more have both.

        One comparison in twenty is off by chance alone, so each interval is widened until that
        holds for all of them together (Bonferroni).
        """
        others = [name for name in self.methods if name != self.baseline]
        found = []
        for name in others:
            values = [self.tested.select(method=m).values(measure) for m in (name, self.baseline)]
            if min(map(len, values)) >= 2:
                found.append(
                    self.tested.paired(name, self.baseline, measure, share=1 - 0.05 / len(others))
                )
        return found

    def table(self) -> Table:
        """One row a method: test error, likelihood loss, calibration, seconds, and the verdict."""
        verdicts = dict.fromkeys(self.methods, "too few runs finished")
        verdicts |= {d.first: d.verdict for d in self.differences()} | {self.baseline: "baseline"}
        beside = {
            "seconds": {name: f"{self.seconds(name):.0f}" for name in self.methods},
            f"error, beside {self.baseline}": verdicts,
        }
        return self.tested.table(measure=("error", "nll", "ece"), beside=beside, order=self.methods)

    def seconds(self, method: str) -> float:
        """How long one run took, in the mean."""
        times = [run.seconds for run in self.tested.select(method=method).runs]
        return sum(times) / len(times)

    def plot(self) -> "Figure":
        """Left every run's test error; right the differences that the table judges.

        A notebook shows the figure as a cell's last value; a script may ``savefig`` it.
        """
        import matplotlib.pyplot as plt

        from . import show

        figure, (left, right) = plt.subplots(
            1, 2, figsize=(9, 0.9 + 0.42 * len(self.methods)), sharey=True
        )
        places = {name: -row for row, name in enumerate(self.methods)}
        for name, y in places.items():
            errors = self.tested.select(method=name).values()
            left.plot(errors, [y] * len(errors), "o", color=show.GREY, alpha=0.6)
            if errors:
                left.plot(sum(errors) / len(errors), y, "|", color=show.TARGET, ms=16, mew=2.5)
        left.set_yticks(list(places.values()), list(places), color="#222222")
        left.set_xlabel("test error, %: each run, and the mean")
        right.axvline(0, color=show.GREY, lw=1)
        for found in self.differences():
            clear = found.detectable
            look = {"color": show.MARGIN if clear else show.GREY, "mfc": None if clear else "w"}
            right.plot([found.low, found.high], [places[found.first]] * 2, color=look["color"])
            right.plot(found.mean, places[found.first], "o", **look)
        right.set_xlabel(f"difference to {self.baseline}, points; filled: detectable")
        figure.tight_layout()
        plt.close(figure)  # or a notebook would show it twice
        return figure

    def save(self, path: str | Path) -> None:
        """Write every run to a JSON file, one run on a line, as the book's records are."""
        lines = ",\n".join(json.dumps(plain(asdict(run))) for run in self.record.runs)
        Path(path).write_text(f'{{"study":"compare","runs":[\n{lines}\n]}}\n')

    def __str__(self):
        return str(self.table())

    __repr__ = __str__

    def _repr_html_(self):
        return self.table()._repr_html_()


def compare(
    images: str | Path | data.Data,
    methods: Sequence[str] | Mapping[str, Method] = tuple(METHODS),
    *,
    minutes: float = 10.0,
    seeds: Sequence[int] = (0, 1, 2),
    rates: Sequence[float] = RATES,
    baseline: str = "softmax",
    net: str | None = None,
    size: int = 64,
    batch: int = 64,
    augment: bool = True,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Comparison:
    """Train every method on your images and say which differences can be detected.

    Args:
        images: a folder as :func:`marginlib.lab.data.load` takes it (``train/<class>/*`` beside
            ``test/``, or class folders alone), the name of a set, or a :class:`Data`.
        methods: names out of :data:`METHODS`, or your own: a loss of logits or a head's class
            by name.
        minutes: for everything.  The number of epochs follows from it.
        seeds: of the runs that are shown; two or more.
        rates: learning rates to choose from, for each method by its validation error.
        baseline: the method that the others are compared with.
        net: a name of :func:`marginlib.lab.nets.build`; by default ``"tiny"`` on a CPU, on CUDA
            ``"resnet18"`` for colour and ``"cnn13"`` for grey.
        size: height and width that a folder's images are resized to, in pixels.
        batch: images per step.
        augment: shift and mirror training images.  Not for digits and letters.
        device: by default CUDA where there is one.
        progress: whether to show a bar.

    Raises:
        ValueError: for unknown names, fewer than two methods or seeds, a baseline that is not
            among the methods, minutes that are not positive or too few for one epoch each, or
            images that :func:`marginlib.lab.data.load` refuses.
        TypeError: for a method of your own that is neither a loss nor a head's class.

    >>> few = data.load("pocket").fewer(20)
    >>> found = compare(few, ("softmax", "smoothing"), minutes=0.1, seeds=(0, 1), progress=False)
    >>> [difference.first for difference in found.differences()]
    ['smoothing']
    """
    named = chosen_methods(methods, baseline)
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"a spread needs two different seeds or more; got {tuple(seeds)}")
    if CHOOSING in seeds:
        raise ValueError(f"seed {CHOOSING} is kept for choosing the rates; take another")
    if not rates:
        raise ValueError("expected one learning rate or more; got none")
    if not minutes > 0:
        raise ValueError(f"minutes must be positive; got {minutes}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not isinstance(images, data.Data):
        images = data.load(images, size)
    if net is None:
        net = "tiny" if device.type == "cpu" else "resnet18" if images.channels == 3 else "cnn13"
    once = partial(one_run, net=net, batch=batch, augment=augment, device=device)
    count = len(named) * (len(rates) + len(seeds))
    epochs = epochs_that_fit(once, named, images, count, 60 * minutes)
    once = partial(once, images=images)
    tick = ticker(count, progress)
    runs: list[Run] = []
    best: dict[str, float] = {}
    for name, method in named.items():
        tried = {}
        for rate in rates:
            run = once(name, method, CHOOSING, rate, epochs, f"{CHOSEN} {rate:g}")
            tick(f"{name}, rate {rate:g}")
            runs.append(run)
            if run.ended == FINISHED:
                tried[rate] = run.measures["validation"]["error"][-1]
        best[name] = min(tried, key=tried.get) if tried else min(rates)
    # Seed by seed, so that a machine that slows down slows all methods alike.
    for seed in seeds:
        for name, method in named.items():
            runs.append(once(name, method, seed, best[name], epochs, TESTED))
            tick(f"{name}, seed {seed}")
    return Comparison(Record("compare", tuple(runs)), baseline, tuple(named))


def chosen_methods(
    methods: Sequence[str] | Mapping[str, Method], baseline: str
) -> dict[str, Method]:
    """Look the methods up by name; the baseline comes first."""
    if isinstance(methods, str):
        raise ValueError(f"expected several methods; got the one name {methods!r}")
    if not isinstance(methods, Mapping):
        if unknown := [name for name in methods if name not in METHODS]:
            raise ValueError(
                f"there is no method {', '.join(unknown)}; there are {', '.join(METHODS)}"
            )
        methods = {name: METHODS[name] for name in methods}
    for name, method in methods.items():
        if not callable(method):
            raise TypeError(f"expected a loss or a head's class for {name!r}; got {method!r}")
    if baseline not in methods:
        raise ValueError(f"the baseline {baseline!r} is not among {', '.join(methods)}")
    if len(methods) < 2:
        raise ValueError(f"a comparison needs two methods; got {', '.join(methods)} alone")
    return {baseline: methods[baseline], **methods}


def one_run(
    name: str,
    method: Method,
    seed: int,
    rate: float,
    epochs: int,
    regime: str,
    *,
    images: data.Data,
    net: str,
    batch: int,
    augment: bool,
    device: torch.device,
) -> Run:
    """Train once; one seed means the same start, split and batches for every method."""
    with seeded(seed):
        body = nets.build(net, images.channels, images.size)
        make = method if is_head(method) else partial(LinearHead, loss=method)
        head = make(body.features, images.classes)
    return train(
        body,
        head,
        images,
        seed=seed,
        epochs=epochs,
        batch=batch,
        rate=(rate, rate / 50),
        augment=augment,
        device=device,
        half=True if device.type == "cpu" else None,
        progress=False,
        config={**parameters(method), "method": name, "scale": "own", "regime": regime},
    )


def epochs_that_fit(
    once: Callable[..., Run],
    named: Mapping[str, Method],
    images: data.Data,
    runs: int,
    seconds: float,
) -> int:
    """How many epochs each run can have, from short trials of every method on some images."""
    begun = time.perf_counter()
    share = min(1.0, TIMED / len(images.train_images))
    some = images.fewer(fraction=share, seed=CHOOSING)
    epoch = start = 0.0
    once(*next(iter(named.items())), CHOOSING, RATES[0], 1, "warm", images=some)
    for name, method in named.items():
        one, two = (
            once(name, method, CHOOSING, RATES[0], epochs, "timed", images=some).seconds
            for epochs in (1, 2)
        )
        epoch += max(two - one, 1e-3) / share / len(named)
        start += max(2 * one - two, 0.0) / len(named)
    left = seconds - (time.perf_counter() - begun)
    epochs = math.floor((left / runs - start) / epoch)
    if epochs < 1:
        need = (runs * (start + epoch) + time.perf_counter() - begun) / 60
        raise ValueError(
            f"{runs} runs of one epoch need about {need:.1f} minutes here; give more minutes, or "
            "fewer methods, seeds or rates"
        )
    return min(epochs, MOST_EPOCHS)


def ticker(count: int, progress: bool) -> Callable[[str], Any]:
    """A bar that says what was done last, if wanted."""
    if not progress:
        return lambda said: None
    from tqdm import tqdm

    bar = tqdm(total=count, unit="run")

    def tick(said: str) -> None:
        bar.set_postfix_str(said)
        bar.update()
        if bar.n == count:
            bar.close()

    return tick


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m marginlib.lab.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", help="a folder of images, or the name of a set")
    parser.add_argument("--methods", nargs="+", default=tuple(METHODS), help="by default, all")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--net", help="by default one that suits the device and the images")
    parser.add_argument("--size", type=int, default=64, help="pixels that images are resized to")
    parser.add_argument("--plain", action="store_true", help="do not shift and mirror images")
    parser.add_argument("--device", help="by default CUDA where there is one")
    parser.add_argument("--save", metavar="FILE", help="keep every run as JSON")
    asked = parser.parse_args(words)
    try:
        found = compare(
            asked.images,
            asked.methods,
            minutes=asked.minutes,
            seeds=asked.seeds,
            net=asked.net,
            size=asked.size,
            augment=not asked.plain,
            device=asked.device,
        )
    except ValueError as error:
        parser.error(str(error))
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return 1
    print(found)
    if asked.save:
        found.save(asked.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
