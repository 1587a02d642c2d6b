"""Do hinges train a convolutional network?  Source 002, sections 3 and 4.3.

The source blames sparse gradients, and two things make them: a hinge that rests, and a maximum
that hears one rival.  Here each is changed alone, at two learning rates, with ten classes and a
hundred, and with labels so doubtful that no class has a majority.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...hinge import dense_hinge_loss, hard_bias_loss, hinge_loss, sparsemax_loss
from ...rivals import log_odds, split
from ...soft_margin import soft_margin_loss
from ...softmax import softmax_loss
from .. import measures
from ..evidence import Run
from . import Loss, Setting, run_named

Logits = Float[Tensor, "n c"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]


def odds_hinge_loss(logits: Logits, target: Labels) -> PerExample:
    """max(0, LSE(rivals) - f_y + 1): all rivals are heard, and the loss can rest.

    >>> odds_hinge_loss(torch.tensor([[2., 1., 1.], [2., 0., 0.]]), torch.tensor([0, 0]))
    tensor([0.6931, 0.0000])
    """
    f_y, rivals = split(logits, target)
    return (log_odds(f_y, rivals) + 1).relu()


def summed_hinge_loss(logits: Logits, target: Labels) -> PerExample:
    """Sum, where Eq. (14) has the mean: what each rival is worth no longer falls with c.

    >>> summed_hinge_loss(torch.tensor([[2., 1.5, 1.5]]), torch.tensor([0]))
    tensor([1.])
    """
    return (logits.shape[1] - 1) * dense_hinge_loss(logits, target)


METHODS: dict[str, Loss] = {
    "softmax": softmax_loss,
    "hinge": hinge_loss,
    "hard-bias": hard_bias_loss,
    "odds-hinge": odds_hinge_loss,
    "soft-margin": soft_margin_loss,
    "dense-hinge": dense_hinge_loss,
    "summed-hinge": summed_hinge_loss,
    "sparsemax": sparsemax_loss,
}
TABLE = ("hinge", "hard-bias", "odds-hinge", "soft-margin")
FIVE = (0, 1, 2, 3, 4)


def at(rate: float, name: str, net: str, **options) -> Setting:
    """One setting whose learning rate starts at ``rate`` and falls a hundredfold."""
    return Setting(name, net, rate=(rate, rate / 100), **options)


TEN = {"epochs": 5, "per_class": 400}
HUNDRED = {"epochs": 5, "per_class": 80, "methods": (*TABLE, "dense-hinge", "summed-hinge")}
SCALES = {
    "pocket": {
        f"ten-{rate}": at(rate, "pocket", "tiny", epochs=3, methods=TABLE, seeds=(0,))
        for rate in (0.1, 0.01)
    }
    | {"doubt-0.1": at(0.1, "pocket", "tiny", epochs=3, methods=TABLE, noise=0.6, seeds=(0,))},
    "desk": {
        "ten-0.1": at(0.1, "fashion-mnist", "tiny", seeds=FIVE, **TEN),
        "ten-0.01": at(0.01, "fashion-mnist", "tiny", **TEN),
    }
    | {"doubt-0.1": at(0.1, "fashion-mnist", "tiny", noise=0.6, seeds=FIVE, **TEN)}
    | {f"hundred-{rate}": at(rate, "cifar100", "tiny", **HUNDRED) for rate in (0.1, 0.01)},
    "colab": {
        f"ten-{rate}": at(rate, "fashion-mnist", "liunet-28", epochs=5, methods=TABLE, seeds=(0,))
        for rate in (0.1, 0.01)
    }
    | {
        "doubt-0.1": at(
            0.1, "fashion-mnist", "liunet-28", epochs=5, methods=TABLE, noise=0.6, seeds=(0,)
        )
    },
    # The source says of its first trials only that they failed; section 4.1's protocol, then,
    # at its own rate and at a tenth of it.
    "full": {
        f"hundred-{rate}": Setting("cifar100", "cnn13", 50, rate=(rate, 1e-4), augment=True)
        for rate in (0.1, 0.01)
    },
}


def touched(loss: Loss) -> measures.PerExample:
    """How many logits of an example receive a gradient from ``loss``."""

    def count(logits: Logits, target: Labels) -> PerExample:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            (pull,) = torch.autograd.grad(loss(leaf, target).sum(), leaf)
        return (pull != 0).sum(dim=1).float()

    return count


def study(method: str, seed: int, scale: str = "pocket", regime: str = "ten-0.1", **options) -> Run:
    """Train once: ``METHODS[method]`` under ``SCALES[scale][regime]``, with this seed."""
    options = {"measure": measures.also(touched=touched(METHODS[method])), **options}
    return run_named(METHODS, SCALES, method, seed, scale, regime, **options)
