"""Hinge losses, and what lies between them and the softmax loss (chapter 2).

A hinge is satisfied: once the target is ``bias`` above the strongest rival, the loss and
its gradient are zero.  The softmax loss differs in two places, and each can be changed
alone: softplus for the hinge, and all the rivals (LSE) for the strongest one (max).

    hinge        max(0, f* - f_y + rho)                                      Eq. (1)
    dense hinge  mean over rivals of max(0, f_c - f_y + rho)                 Eq. (14)
    hard bias    softplus(f* - f_y + rho)                                    section 3
    sparsemax    the softmax loss with a squared norm in place of entropy

Derived   chapters/02_hinge.ipynb, marginlib/symbolic/hinge.py
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019 (equation
          numbers); K. Crammer and Y. Singer, JMLR 2001; A. Martins and R. Astudillo, "From
          Softmax to Sparsemax", ICML 2016.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rivals import check_number, in_place, softplus, split, widen


def hinge_loss(
    logits: Float[Tensor, "n c"], target: Int[Tensor, " n"], bias: float = 1.0
) -> Float[Tensor, " n"]:
    """Crammer and Singer's hinge: max(0, f* - f_y + bias), f* the strongest rival.  Eq. (1).

    Its gradient touches two logits, the target's and the strongest rival's.  Rivals that
    tie for strongest share it equally.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.
        bias: the margin at which the loss reaches zero, in units of the logits.

    Returns:
        One loss per example; float32 for half-precision logits.

    Raises:
        ValueError: as :func:`split`, or if ``bias`` is negative.
        TypeError: as :func:`split`, or if ``bias`` is not a number.

    >>> hinge_loss(torch.tensor([[2., 1.5, 0.], [2., 0., 0.]]), torch.tensor([0, 0]))
    tensor([0.5000, 0.0000])
    """
    return (_excess(logits, target, bias)).relu()


def hard_bias_loss(
    logits: Float[Tensor, "n c"], target: Int[Tensor, " n"], bias: float = 1.0
) -> Float[Tensor, " n"]:
    """softplus(f* - f_y + bias): softplus kept, the rivals' bias made a constant.  002, section 3.

    Arguments, errors and the two-logit gradient as in :func:`hinge_loss`; never quite zero.

    >>> hard_bias_loss(torch.tensor([[2., 1.5, 0.], [2., 0., 0.]]), torch.tensor([0, 0]))
    tensor([0.9741, 0.3133])
    """
    return softplus(_excess(logits, target, bias))


def dense_hinge_loss(
    logits: Float[Tensor, "n c"], target: Int[Tensor, " n"], bias: float = 1.0
) -> Float[Tensor, " n"]:
    """The mean over all rivals of max(0, f_c - f_y + bias).  Eq. (14).

    The mean is over the c - 1 rivals; :func:`torch.nn.functional.multi_margin_loss` divides
    the same sum by c.  Every rival inside the margin receives a gradient.  Arguments and
    errors as in :func:`hinge_loss`.

    >>> dense_hinge_loss(torch.tensor([[2., 1.5, 0.], [2., 0., 0.]]), torch.tensor([0, 0]))
    tensor([0.2500, 0.0000])
    """
    check_number("bias", bias)
    f_y, rivals = in_place(logits, target)
    return (rivals - f_y[:, None] + bias).relu().sum(dim=1) / (logits.shape[1] - 1)


def sparsemax_loss(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Softmax's sibling: entropy replaced by half of one minus the squared norm.

    Both are ``max over probabilities p of <p, f> + Omega(p) - f_y``.  The softmax loss has
    the entropy for Omega; here ``Omega(p) = (1 - |p|^2) / 2``, the best p is the projection
    of the logits onto the simplex, and the loss is zero once the margin is 1.

    Arguments and errors as in :func:`split`.  Source: Martins and Astudillo (2016).

    >>> sparsemax_loss(torch.tensor([[2., 1.5, 0.], [2., 0., 0.]]), torch.tensor([0, 0]))
    tensor([0.0625, 0.0000])
    """
    # Widened once, so that the two terms' gradients are added before they are rounded.
    f = widen(logits)
    f_y, _ = split(f, target)
    top = f.amax(dim=1, keepdim=True).detach()
    # A logit more than 1 below the largest gets no probability.  Raising such logits to
    # that line changes nothing, and squares of large numbers never arise.
    f = torch.maximum(f - top, -torch.ones_like(f))
    high_to_low = f.sort(dim=1, descending=True).values
    rank = torch.arange(1, f.shape[1] + 1, device=f.device, dtype=f.dtype)
    excess = high_to_low.cumsum(dim=1) - 1
    support = (rank * high_to_low > excess).sum(dim=1, keepdim=True)
    p = (f - excess.gather(1, support - 1) / support).relu()
    omega = (1 - p.square().sum(dim=1)) / 2
    return (p * f).sum(dim=1) + omega + (top.squeeze(1) - f_y)


def _excess(logits: Tensor, target: Tensor, bias: float) -> Float[Tensor, " n"]:
    """f* - f_y + bias: by how much the strongest rival breaks the margin."""
    check_number("bias", bias)
    f_y, rivals = in_place(logits, target)
    return rivals.amax(dim=1) - f_y + bias
