"""What does a constant margin change: the error, or the probabilities?  Source 001, section 4.

The source tries margins of 0.1, 0.5, 1, 5 and 10 and prints the accuracy of the best.  Here
every margin is shown, with the softmax loss (margin 0) as one of them, and the probabilities
are measured twice: as the softmax tells them, and recalibrated by theorem 4 of chapter 3.
"""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ...soft_margin import soft_margin_loss
from ...softmax import softmax_loss
from .. import measures
from ..evidence import Run
from ..train import Steps
from . import Loss, Setting, run_named

MARGINS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
METHODS: dict[str, Loss] = {f"margin-{m:g}": partial(soft_margin_loss, margin=m) for m in MARGINS}

FIVE = (0, 1, 2, 3, 4)
FALLING = (0.05, 1e-3)
DESK = partial(Setting, "fashion-mnist", "tiny", seeds=FIVE)
# Theorem 4 speaks of a whole population.  "plain" is seen five times, which is near enough to
# one; "few" is a thousand images, seen until the network all but knows them by heart.  A margin
# makes gradients larger, and so does "faster", by a doubled learning rate.
SCALES = {
    "pocket": {"plain": Setting("pocket", "tiny", epochs=6, rate=FALLING)},
    "desk": {
        "plain": DESK(epochs=5, rate=FALLING, per_class=1500),
        "few": DESK(
            epochs=60, rate=FALLING, per_class=100, methods=("margin-0", "margin-1", "margin-5")
        ),
        "faster": DESK(
            epochs=5, rate=(0.1, 2e-3), per_class=1500, methods=("margin-0", "margin-2")
        ),
    },
    "colab": {
        "plain": Setting("fashion-mnist", "liunet-28", epochs=8, rate=FALLING, seeds=FIVE),
    },
    # Source 001, section 4.3: 20,000 steps, the rate divided by ten at 8,000 and 14,000.
    "full": {
        name: Setting(
            name, net, epochs=epochs, rate=Steps(0.1, at=(0.4, 0.7)), decay=5e-4, seeds=FIVE
        )
        for name, net, epochs in (("mnist", "liunet-28", 47), ("cifar10", "liunet-32", 57))
    },
}


def margin_of(method: str) -> float:
    """The margin that a method asks for.

    >>> margin_of("margin-0.5")
    0.5
    """
    return METHODS[method].keywords["margin"]


def recalibrated(logits: Float[Tensor, "n c"], margin: float) -> Float[Tensor, "n c"]:
    """Logits of the probabilities that the ones given stand for.  Theorem 4 of chapter 3.

    A network that minimises the soft-margin loss tells s = softmax(logits) where the truth is
    proportional to ``s (1 - a s)``, with ``a = 1 - exp(-margin)``.  The order of the classes
    stays as it is.

    >>> recalibrated(torch.tensor([[0.9, 0.1]]).log(), margin=1.0).softmax(dim=1)
    tensor([[0.8055, 0.1945]], dtype=torch.float64)
    """
    # In float64: with margin 10 and a share near one, 1 - a s is a small difference.
    logits = logits.double()
    return logits + torch.log1p(math.expm1(-margin) * logits.softmax(dim=1))


def told_and_true(margin: float) -> measures.Measure:
    """Measure the default, and calibration once more after :func:`recalibrated`."""

    def measure(logits: Tensor, target: Tensor, features: Tensor) -> dict[str, float]:
        true = recalibrated(logits, margin)
        return measures.default(logits, target, features) | {
            "nll_recalibrated": softmax_loss(true, target).mean().item(),
            "ece_recalibrated": measures.calibration_error(true, target),
        }

    return measure


def study(method: str, seed: int, scale: str = "pocket", regime: str = "plain", **options) -> Run:
    """Train once: ``METHODS[method]`` under ``SCALES[scale][regime]``, with this seed."""
    options = {"measure": told_and_true(margin_of(method)), **options}
    return run_named(METHODS, SCALES, method, seed, scale, regime, **options)
