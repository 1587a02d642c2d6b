"""Softmax cross-entropy, read as a margin loss (chapter 1).

Train a classifier until every example is right, and the softmax loss still falls.  It
asks for more than being right: it asks for a margin, and the size of that margin is
set by the rivals themselves.

    loss = softplus( f* - f_y + rho ),     f* the strongest rival            Eq. (6)
    rho  = log sum_{c != y} exp(f_c - f*),     0 <= rho <= log(c - 1)        Eq. (7)

Derived   chapters/01_softmax.ipynb, marginlib/symbolic/softmax.py
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019.
          Equation numbers are the paper's.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rivals import odds_against, softplus, split


def softmax_loss(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The softmax loss -log p_y, one number per example, in nats.  Eq. (2) and (3).

    Printed: ``-log( exp f_y / sum_c exp f_c )``.  Computed: the softplus of the
    log-odds against the target, ``softplus( LSE(rivals) - f_y )``.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.

    Returns:
        One loss per example; float32 for half-precision logits.  Take ``.mean()`` where
        you need a scalar.

    Raises:
        ValueError, TypeError: as :func:`split`.

    >>> softmax_loss(torch.tensor([[2., 1., 1., 1.], [2., 1., -9., -9.]]), torch.tensor([0, 0]))
    tensor([0.7437, 0.3133])
    """
    return softplus(odds_against(logits, target))


def margin(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How far the target's logit stands above the strongest rival's: f_y - f*.

    Positive just when the example is classified rightly.  Source 002, section 2.1.

    >>> margin(torch.tensor([[2., 1., 0.], [2., 5., 0.]]), torch.tensor([0, 0]))
    tensor([ 1., -3.])
    """
    f_y, rivals = split(logits, target)
    return f_y - rivals.amax(dim=1)


def implicit_bias(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The margin rho that the softmax loss asks for, LSE(rivals) - f*.  Eq. (7).

    It is 0 when one rival stands alone, and log(c - 1) when all rivals are equal.

    >>> implicit_bias(torch.tensor([[2., 1., 1., 1.], [2., 1., -1., -1.]]), torch.tensor([0, 0]))
    tensor([1.0986, 0.2395])
    """
    _, rivals = split(logits, target)
    return torch.logsumexp(rivals - rivals.amax(dim=1, keepdim=True), dim=1)
