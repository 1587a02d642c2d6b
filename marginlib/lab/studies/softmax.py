"""Why does the loss go on falling, and what becomes of the bias?  Source 002, section 4.1, Fig. 3.

One method, the softmax loss, watched at every epoch.  Beside the default measures stand the
spread of the rivals and the bias that they would have if their spread were one logit: the
bias of a crowd by its shape alone, whatever its size.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...rivals import split
from ...softmax import softmax_loss
from .. import measures
from ..evidence import Run
from ..train import Falling
from . import Loss, Setting, run_named

METHODS: dict[str, Loss] = {"softmax": softmax_loss}

# Few enough images that the network can learn them all, and a rate that does not fall so far
# that training stops before it has.
LONG = {"rate": Falling(0.1, 0.005), "validation": 0.2}
SCALES = {
    "pocket": {"clean": Setting("pocket", "tiny", epochs=8, **LONG, seeds=(0,))},
    "desk": {
        "clean": Setting("fashion-mnist", "tiny", 60, per_class=500, **LONG, seeds=(0, 1, 2, 3, 4)),
        "digits": Setting("mnist", "tiny", 60, per_class=500, **LONG, seeds=(0, 1, 2, 3, 4)),
    },
    "colab": {"clean": Setting("fashion-mnist", "liunet-28", 40, per_class=1000, **LONG)},
    # The source's own protocol for its Fig. 3.
    "full": {"clean": Setting("cifar100", "cnn13", epochs=50, augment=True)},
}


def spread(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Standard deviation of the rivals around their mean, in logits.

    >>> spread(torch.tensor([[9., 1., 3., 5.]]), torch.tensor([0]))
    tensor([1.6330])
    """
    return split(logits, target)[1].std(dim=1, correction=0)


def shape_bias(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The implicit bias of the rivals after division by their spread.

    It does not change when all logits grow in proportion; equal rivals keep log r.

    >>> rivals = torch.tensor([[0., 1., 3., 5.], [0., 2., 6., 10.]])
    >>> shape_bias(rivals, torch.tensor([0, 0]))
    tensor([0.3222, 0.3222])
    """
    _, rivals = split(logits, target)
    wide = spread(logits, target)[:, None]
    unit = (rivals - rivals.amax(dim=1, keepdim=True)) / torch.where(wide > 0, wide, 1.0)
    return unit.logsumexp(dim=1)


MEASURE = measures.also(spread=spread, shape_bias=shape_bias)


def study(method: str, seed: int, scale: str = "pocket", regime: str = "clean", **options) -> Run:
    """Train once: ``METHODS[method]`` under ``SCALES[scale][regime]``, with this seed."""
    options = {"measure": MEASURE, **options}
    return run_named(METHODS, SCALES, method, seed, scale, regime, **options)
