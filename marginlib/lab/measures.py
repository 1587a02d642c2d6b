"""What a classifier's logits say about it, as plain numbers.

A measure is a function of ``logits (n, c)``, ``target (n,)`` and ``features (n, d)`` that
returns a dictionary of floats.  :func:`default` is the one that every run keeps::

    error           share of wrong predictions                               %
    nll             softmax loss, the negative log likelihood                nats
    ece             expected calibration error of the winning class          %
    bias            mean implicit bias rho, at most log(c - 1)               logits
    margin          mean margin f_y - f*                                     logits
    margin_low, margin_median, margin_high   its 10 %, 50 % and 90 % quantiles
    feature_norm    mean Euclidean length of a feature vector                length
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..softmax import implicit_bias, margin, softmax_loss

Logits = Float[Tensor, "n c"]
Labels = Int[Tensor, " n"]
Features = Float[Tensor, "n d"]
PerExample = Callable[[Logits, Labels], Float[Tensor, " n"]]
Measure = Callable[[Logits, Labels, Features], dict[str, float]]

UNITS = {
    "error": "%",
    "nll": "nats",
    "nll_recalibrated": "nats",
    "ece": "%",
    "ece_recalibrated": "%",
    "nll_scaled": "nats",
    "ece_scaled": "%",
    "accepted_cosine": "%",
    "accepted_distance": "%",
    "bias": "logits",
    "margin": "logits",
    "margin_low": "logits",
    "margin_median": "logits",
    "margin_high": "logits",
    "feature_norm": "length",
    "disagreement": "logits",
    "silent": "%",
    "active": "%",
    "reversed": "%",
    "own_error": "%",
    "member_error": "%",
    "differ": "%",
    "own_angle": "degrees",
    "nearest_angle": "degrees",
    "loss": "nats",
}
# Of these, less is better; of the others, neither direction is good in itself.
LESS_IS_BETTER = frozenset(
    {"error", "nll", "nll_recalibrated", "nll_scaled", "ece", "ece_recalibrated", "ece_scaled"}
)


def default(logits: Logits, target: Labels, features: Features) -> dict[str, float]:
    """Measure all that the table above names.

    >>> logits, target = torch.tensor([[2., 0., 0.], [0., 1., 0.]]), torch.tensor([0, 2])
    >>> taken = default(logits, target, features=torch.ones(2, 4))
    >>> taken["error"], taken["feature_norm"], round(taken["bias"], 4)
    (50.0, 2.0, 0.5032)
    """
    margins = margin(logits, target)
    low, median, high = torch.quantile(margins, torch.tensor([0.1, 0.5, 0.9]).to(margins)).tolist()
    return {
        "error": error(logits, target),
        "nll": softmax_loss(logits, target).mean().item(),
        "ece": calibration_error(logits, target),
        "bias": implicit_bias(logits, target).mean().item(),
        "margin": margins.mean().item(),
        "margin_low": low,
        "margin_median": median,
        "margin_high": high,
        "feature_norm": features.norm(dim=1).mean().item(),
    }


def also(**measures: PerExample) -> Measure:
    """Measure the default, and the mean of each further function of logits and target.

    >>> wide = also(twice=lambda logits, target: 2 * logits[:, 0])
    >>> wide(torch.ones(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(4, 2))["twice"]
    2.0
    """

    def measure(logits: Logits, target: Labels, features: Features) -> dict[str, float]:
        more = {name: f(logits, target).mean().item() for name, f in measures.items()}
        return default(logits, target, features) | more

    return measure


def error(logits: Logits, target: Labels) -> float:
    """Share of examples whose largest logit is not the target's, in per cent."""
    return 100 * (logits.argmax(dim=1) != target).double().mean().item()


def calibration_error(logits: Logits, target: Labels, bins: int = 15) -> float:
    """Expected calibration error of the winning class, in per cent.

    Examples are sorted into ``bins`` equal intervals of confidence (the largest softmax
    probability).  In each, mean confidence is compared with the share that is right; the
    gaps are averaged, weighted by how many examples fall there (Guo et al. 2017).

    >>> sure_and_wrong_half_the_time = torch.tensor([[99., 0.], [99., 0.]])
    >>> calibration_error(sure_and_wrong_half_the_time, torch.tensor([0, 1]))
    50.0
    """
    confidence, winner = logits.double().softmax(dim=1).max(dim=1)
    right = (winner == target).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    gap.index_add_(0, place, confidence - right)
    return 100 * gap.abs().sum().item() / len(logits)
