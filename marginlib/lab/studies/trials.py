"""How every method was tuned before it was compared: six trials each, on validation images.

A method's trials are three values of its own parameter at two learning rates.  A method
without a parameter of its own is given three weight decays instead, so that nobody has more
chances than another.  Each trial trains one network, with a seed that no other run has; the
trial with the lowest validation error is chosen, the smaller number where two tie.  Everything
else of a setting was fixed before the first trial, by looking at the softmax loss alone.

:mod:`side_by_side` trains what is chosen here again, with other seeds.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from ...angular import annealing_schedule
from ...heads import (
    ArcFaceHead,
    ASoftmaxHead,
    CenterHead,
    CosFaceHead,
    DropoutHead,
    EnsembleHead,
    GaussianHead,
    GroupHead,
    LSoftmaxHead,
    NoisySoftmaxHead,
    NormFaceHead,
    VirtualSoftmaxHead,
)
from ...hinge import dense_hinge_loss, hinge_loss, sparsemax_loss
from ...large_margin import label_smoothing_loss, large_margin_loss
from ...perturbed import sigsoftmax_loss
from ...soft_margin import soft_margin_loss
from ...softmax import softmax_loss
from .. import evidence, measures
from ..evidence import FINISHED, Record, Run
from . import Method, Setting, run_named
from .gaussian_mixture import follow, rise
from .large_margin import SupersymmetricHead
from .pairs import EmbeddingHead, every_pair, semi_hard_triplets

SEED = 100
CURVES = frozenset({"error", "nll", "loss"})
STEPS = 20_000  # over which L-Softmax's authors let the mixing lambda fall
RATES = (0.03, 0.1)
DECAYS = (1e-4, 1e-3, 5e-3)
SCALE = 16.0  # of the cosines


def heads(make: Callable, name: str, values: Iterable, **fixed) -> tuple[Method, ...]:
    """One method for each value of the parameter ``name``."""
    return tuple(partial(make, **{name: value}, **fixed) for value in values)


EM = partial(EnsembleHead, classifiers=2)
GROUPS = ((1, 2), (1, 2, 4), (1, 2, 4, 8))
MEAN = partial(EmbeddingHead, objective=every_pair)
# The three candidates of every method, mildest first; one where the weight decay is tried instead.
CANDIDATES: dict[str, tuple[Method, ...]] = {
    "softmax": (softmax_loss,),
    "smoothing": heads(label_smoothing_loss, "smoothing", (0.05, 0.1, 0.3)),
    "super-symmetry": heads(SupersymmetricHead, "strength", (0.01, 0.1, 1.0)),
    "hinge": heads(hinge_loss, "bias", (0.5, 1.0, 4.0)),
    "dense-hinge": heads(dense_hinge_loss, "bias", (0.5, 1.0, 4.0)),
    "sparsemax": (sparsemax_loss,),
    "soft-margin": heads(soft_margin_loss, "margin", (0.5, 1.0, 3.0)),
    "large-margin": heads(large_margin_loss, "strength", (0.1, 0.3, 1.0)),
    "l-softmax": heads(LSoftmaxHead, "margin", (2, 3, 4)),
    "a-softmax": heads(ASoftmaxHead, "margin", (2, 3, 4)),
    "normface": heads(NormFaceHead, "scale", (8.0, 16.0, 32.0)),
    "cosface": heads(CosFaceHead, "margin", (0.1, 0.2, 0.35), scale=SCALE),
    "arcface": heads(ArcFaceHead, "margin", (0.1, 0.3, 0.5), scale=SCALE),
    "center": heads(CenterHead, "strength", (0.001, 0.01, 0.1)),
    "lgm": heads(GaussianHead, "alpha", (0.1, 0.3, 1.0)),
    "group-1": heads(GroupHead, "groups", GROUPS, kind=1),
    "group-2": heads(GroupHead, "groups", GROUPS, kind=2),
    "e-softmax": heads(EM, "diversity", (0.01, 0.1, 1.0)),
    "em-softmax": heads(EM, "diversity", (0.01, 0.1, 1.0), margin=1.0),
    "dropout": heads(DropoutHead, "rate", (0.2, 0.5, 0.7)),
    "adversarial": heads(DropoutHead, "rate", (0.02, 0.05, 0.1), adversarial=True),
    "sigsoftmax": (sigsoftmax_loss,),
    "virtual": (VirtualSoftmaxHead,),
    "noisy": heads(NoisySoftmaxHead, "strength", (0.1, 0.5, 1.0)),
    "contrastive": heads(MEAN, "weight", (1.0, 3.0, 10.0)),
    "triplet": heads(
        partial(EmbeddingHead, objective=semi_hard_triplets), "weight", (1.0, 3.0, 10.0)
    ),
}
FAMILIES = tuple(CANDIDATES)


def names_of(family: str) -> tuple[str, ...]:
    """The names of a method's candidates: its own, with a number where there are three."""
    count = len(CANDIDATES[family])
    return (family,) if count == 1 else tuple(f"{family}/{k}" for k in range(1, count + 1))


METHODS: dict[str, Method] = {
    name: method
    for family in FAMILIES
    for name, method in zip(names_of(family), CANDIDATES[family], strict=True)
}
WITH_A_PARAMETER = tuple(name for name in METHODS if "/" in name)
WITHOUT = tuple(name for name in METHODS if "/" not in name)


def family_of(method: str) -> str:
    """The method that a candidate belongs to: ``"lgm"`` for ``"lgm/2"``."""
    return method.partition("/")[0]


def plain_name(regime: str) -> str:
    """A regime without its learning rate and decay: ``"few"`` for ``"few/0.1/0.001"``."""
    return regime.partition("/")[0]


# --- Regimes ------------------------------------------------------------------------------------

DESK = partial(Setting, net="tiny", half=True, batch=64)
BASES = {
    "desk": {
        # Every image of a set; few images a class, as many to choose by as to train on; two
        # labels in five wrong; and many classes, with fifteen drawings of each, of which sixty
        # classes are left out to be verified on.
        "full": DESK("fashion-mnist", width=0.5, epochs=1),
        "few": DESK("mnist", epochs=30, batch=32, per_class=60, validation=0.5),
        "noisy": DESK("fashion-mnist", width=0.5, epochs=5, per_class=500, noise=0.4),
        "many": DESK("omniglot", epochs=10, classes=182, validation=0.2),
    },
    "colab": {
        "hundred": Setting("cifar100", "cnn13", width=0.5, epochs=6, augment=True),
    },
    "full": {
        "full": Setting("cifar100", "cnn13", epochs=50, augment=True),
        "few": Setting("cifar100", "cnn13", epochs=150, augment=True, per_class=100),
        "noisy": Setting("cifar100", "cnn13", epochs=50, augment=True, noise=0.4),
        "many": Setting("omniglot", "cnn13", epochs=60, classes=182, validation=0.2),
    },
}
POCKET = Setting(
    "pocket", "tiny", epochs=3, batch=64, rate=(0.1, 0.002), methods=("softmax", "soft-margin/2")
)


def spread(bases: dict[str, Setting]) -> dict[str, Setting]:
    """Every regime at every rate and decay, with the candidates that are tried there."""
    regimes = {}
    for name, base in bases.items():
        for rate in RATES:
            for decay in DECAYS:
                methods = METHODS if decay == DECAYS[0] else WITHOUT
                regimes[f"{name}/{rate:g}/{decay:g}"] = replace(
                    base,
                    rate=(rate, rate / 50),
                    decay=decay,
                    seeds=(SEED,),
                    methods=tuple(methods),
                )
    return regimes


SCALES = {
    "pocket": {"clean": POCKET},
    **{scale: spread(bases) for scale, bases in BASES.items()},
}


# --- Running and choosing ----------------------------------------------------------------------


def anneal(head: nn.Module, share: float) -> None:
    """Let the mixing lambda of L- and A-Softmax fall as the authors' does."""
    head.annealing = annealing_schedule(STEPS * share)


SCHEDULES = {"l-softmax": anneal, "a-softmax": anneal, "center": follow}


def schedule_of(method: str) -> Callable[[nn.Module, float], None] | None:
    """What is set on the head before each step, if anything."""
    family = family_of(method)
    if family == "lgm":
        return partial(rise, alpha=METHODS[method].keywords["alpha"])
    return SCHEDULES.get(family)


def brief(logits: Tensor, target: Tensor, features: Tensor) -> dict[str, float]:
    """What a trial is judged by, and what a table shows; the rest would be kept for nothing."""
    found = measures.default(logits, target, features)
    return {name: found[name] for name in ("error", "nll", "ece", "bias")}


def briefly(run: Run) -> Run:
    """Of what each epoch brought, error and losses alone: the rest would double the record."""
    kept = {
        part: {name: per_epoch for name, per_epoch in found.items() if name in CURVES}
        for part, found in run.measures.items()
        if part != "test"
    }
    return replace(run, measures=run.measures | kept)


def study(method: str, seed: int, scale: str = "pocket", regime: str = "clean", **options) -> Run:
    """Train once: ``METHODS[method]`` under ``SCALES[scale][regime]``, with this seed."""
    options = {"measure": brief, "before_step": schedule_of(method), **options}
    return briefly(run_named(METHODS, SCALES, method, seed, scale, regime, **options))


def chosen(scale: str, record: Record | None = None) -> dict[tuple[str, str], tuple[str, str]]:
    """The winning trial of each method in each regime, of those that are whole.

    Returns:
        For (method, plain regime) the (candidate, regime) with the lowest validation error after
        the last epoch.  A method with a trial that has not been made yet is left out.
    """
    if record is None:
        try:
            record = evidence.recall("trials")
        except FileNotFoundError:
            return {}
    made = {
        (run.config["method"], run.config["regime"]): run
        for run in record.runs
        if run.config["scale"] == scale and run.seed == SEED
    }
    best: dict[tuple[str, str], tuple[str, str]] = {}
    for plain in BASES.get(scale, {}):
        for family in FAMILIES:
            tried = [
                (method, regime)
                for regime, setting in SCALES[scale].items()
                for method in setting.methods
                if (family_of(method), plain_name(regime)) == (family, plain)
            ]
            if made.keys() >= set(tried):
                finished = [key for key in tried if made[key].ended == FINISHED]
                if finished:
                    best[family, plain] = min(finished, key=lambda key: last_error(made[key]))
    return best


def last_error(run: Run) -> float:
    """Validation error after the last epoch, in per cent."""
    return run.measures["validation"]["error"][-1]
