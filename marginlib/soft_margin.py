"""Soft-margin softmax: ask the target to win by a margin (chapter 3).

Take ``m`` away from the target's logit before the softmax.  To be as well off as before,
the target must now stand ``m`` higher; the odds against it are multiplied by e^m.

    loss = -log exp(f_y - m) / ( exp(f_y - m) + sum_{c != y} exp f_c )       Eq. (4)

With ``m = 1`` this is the modified loss of source 002, Eq. (15).  With a margin of its
own for each example it is also L-Softmax, CosFace, ArcFace, L-GM and Noisy Softmax.

Derived   chapters/03_soft_margin.ipynb, marginlib/symbolic/soft_margin.py
Source    X. Wang et al., "Ensemble Soft-Margin Softmax Loss for Image Classification",
          IJCAI 2018, section 3.1.  Equation numbers are the paper's.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rivals import odds_against, softplus


def soft_margin_loss(
    logits: Float[Tensor, "n c"],
    target: Int[Tensor, " n"],
    margin: float | Float[Tensor, ""] | Float[Tensor, " n"] = 1.0,
) -> Float[Tensor, " n"]:
    """The softmax loss after the target's logit has been lowered by ``margin``.  Eq. (4).

    Printed: subtract m from the target's logit, then softmax.  Computed: add m to the
    log-odds against the target, ``softplus( LSE(rivals) - f_y + m )``; the same, and a shift
    common to all logits costs no digits of m.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.
        margin: the paper's m, in units of the logits: a number, or one per example, (n,).
            The paper takes m >= 0.  A negative margin is allowed: it undoes a positive one
            (chapter 3), and some angular margins turn negative.

    Returns:
        One loss per example; float32 for half-precision logits.

    Raises:
        ValueError: as :func:`split`, if ``margin`` is not finite (a number) or not of shape
            (n,) (a tensor; its values are not read).
        TypeError: as :func:`split`, or if ``margin`` is neither a number nor a tensor.

    >>> logits, target = torch.tensor([[2., 1., 0.]]), torch.tensor([0])
    >>> soft_margin_loss(logits, target, margin=0.0), soft_margin_loss(logits, target)
    (tensor([0.4076]), tensor([0.8620]))
    """
    if isinstance(margin, Tensor):
        if margin.shape not in {torch.Size([]), target.shape}:
            raise ValueError(
                f"expected one margin, or one per example {tuple(target.shape)}; "
                f"got margin {tuple(margin.shape)}"
            )
    elif not isinstance(margin, (int, float)):
        raise TypeError(f"margin must be a number or a tensor; got {type(margin).__name__}")
    elif not -math.inf < margin < math.inf:
        raise ValueError(f"margin must be finite; got {margin}")
    odds = odds_against(logits, target)
    if isinstance(margin, Tensor):
        # The loss has the logits' precision, not the margins'.
        margin = margin.to(odds.dtype)
    return softplus(odds + margin)
