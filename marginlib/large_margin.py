"""Large margin in softmax cross-entropy (chapter 4).

The softmax loss already carries a margin, the bias rho, and it is largest when the
rivals' logits are all equal.  So demand no margin of a fixed size: ask the rivals to
agree, and the softmax loss widens its own margin.

    loss = softmax loss + strength * divergence(rivals)                      Eq. (11)

Derived   chapters/04_large_margin.ipynb, marginlib/symbolic/large_margin.py
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019.
          Equation numbers are the paper's.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rivals import check_number, check_rivals, crowd, softplus, split, widen
from .softmax import softmax_loss

Logits = Float[Tensor, "n c"]
Labels = Int[Tensor, " n"]
Rivals = Float[Tensor, "n r"]
PerExample = Float[Tensor, " n"]


def kl_to_uniform(rivals: Rivals) -> PerExample:
    """D(q || u), where q = softmax(rivals) and u = 1/r, in nats.  Eq. (10), left.

    At most log r, however far the rivals are from agreeing.

    >>> kl_to_uniform(torch.tensor([[2., 2., 2.], [0., 0., 30.]]))
    tensor([0.0000, 1.0986])
    """
    check_rivals(rivals)
    log_q = widen(rivals).log_softmax(dim=1)
    return (log_q.exp() * log_q).sum(dim=1) + math.log(rivals.shape[1])


def kl_from_uniform(rivals: Rivals) -> PerExample:
    """D(u || q), in nats.  Eq. (10), right.  It grows without end, and is convex.

    >>> kl_from_uniform(torch.tensor([[2., 2., 2.], [0., 0., 30.]]))
    tensor([ 0.0000, 18.9014])
    """
    check_rivals(rivals)
    return -widen(rivals).log_softmax(dim=1).mean(dim=1) - math.log(rivals.shape[1])


def disagreement(rivals: Rivals) -> PerExample:
    """The mean of D(q || u) and D(u || q): zero just when all rivals are equal.  Eq. (8).

    Printed: ``1/2 sum_c (q_c - u_c) log q_c``.  Since ``sum_c (q_c - u_c) = 0``, the
    normaliser inside ``log q_c`` cancels and only the logits remain.  Computed:

        disagreement = 1/2 (E_q[f] - E_u[f]),

    half the way from the rivals' plain mean to their softmax-weighted mean.  Chapter 4
    proves the step.

    >>> disagreement(torch.tensor([[2., 2., 2.], [0., 0., 3.]]))
    tensor([0.0000, 0.8642])
    """
    check_rivals(rivals)
    f = widen(rivals)
    # Both means move with the logits, so measure the logits from the strongest rival:
    # a shift common to all classes then costs no precision.
    f = f - f.amax(dim=1, keepdim=True)
    return 0.5 * ((f.softmax(dim=1) * f).sum(dim=1) - f.mean(dim=1))


# The three again, from what one reading of the logits tells of the rivals.
OF_CROWD = {
    disagreement: lambda seen: 0.5 * (seen.weighted - seen.mean),
    kl_to_uniform: lambda seen: seen.weighted - seen.lse + math.log(seen.count),
    kl_from_uniform: lambda seen: seen.lse - seen.mean - math.log(seen.count),
}


def large_margin_loss(
    logits: Logits,
    target: Labels,
    strength: float = 0.3,
    divergence: Callable[[Rivals], PerExample] = disagreement,
    base: Callable[[Logits, Labels], PerExample] = softmax_loss,
) -> PerExample:
    """The softmax loss plus ``strength`` times the divergence among the rivals.  Eq. (11).

    With two classes there is one rival, which cannot disagree with itself: the loss is then
    the base loss.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.
        strength: the paper's lambda.  Its experiments use 0.3; 0 gives the base loss.
        divergence: :func:`disagreement`, or one of its two halves (the paper's Table 1).
        base: the loss of logits that the divergence is added to.

    Returns:
        One loss per example; float32 for half-precision logits.

    Raises:
        ValueError: as :func:`split`, or if ``strength`` is negative, which would reward a
            strong rival.
        TypeError: as :func:`split`, or if ``strength`` is not a number.

    >>> logits = torch.tensor([[2., 0., 0.], [2., 1., -1.]])
    >>> large_margin_loss(logits, torch.tensor([0, 0]))
    tensor([0.2395, 0.4633])
    """
    check_number("strength", strength)
    # Widened once, so that the two terms' gradients are added before they are rounded.
    wide = widen(logits)
    if divergence not in OF_CROWD:
        return base(wide, target) + strength * divergence(split(wide, target)[1])
    # One reading of the logits for both terms.
    seen = crowd(wide, target)
    own = softplus(seen.lse - seen.f_y) if base is softmax_loss else base(wide, target)
    return own + strength * OF_CROWD[divergence](seen)


def label_smoothing_loss(logits: Logits, target: Labels, smoothing: float = 0.1) -> PerExample:
    """The softmax loss against a label mixed with the uniform distribution.  Eq. (13).

    Printed: ``-(1 - s) log p_y - (s / c) sum_c log p_c``.  Computed: the softmax loss plus a
    price on the mean margin, ``s (c - 1) / c * (f_y - mean of rivals)``; chapter 4 proves
    that they are the same.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.
        smoothing: the share s of the label that is spread over all c classes, from 0 to 1.

    Returns:
        One loss per example; float32 for half-precision logits.

    Raises:
        ValueError: as :func:`split`, or if ``smoothing`` lies outside [0, 1].
        TypeError: as :func:`split`, or if ``smoothing`` is not a number.

    >>> label_smoothing_loss(torch.tensor([[2., 0., 0.]]), torch.tensor([0]))
    tensor([0.3729])
    """
    check_number("smoothing", smoothing, most=1.0)
    seen = crowd(logits, target, weighted=False)
    price = smoothing * seen.count / logits.shape[1]
    return softplus(seen.lse - seen.f_y) + price * (seen.f_y - seen.mean)


def supersymmetry_gap(weight: Float[Tensor, "c d"]) -> Float[Tensor, ""]:
    """How far a classifier is from super-symmetry, from 0 (it is) to 1.  002, section 3.

    A super-symmetric classifier has ``w_c . w_c = v`` and ``w_c . w_k = -v / (c - 1)``: its
    class vectors point to the corners of a regular simplex.  The gap is the part of the Gram
    matrix that the nearest such pattern leaves over, as a share of its squared norm; it does
    not change when the weight is scaled or rotated.  With d features it is at least
    ``1 - d / (c - 1)``.

    Args:
        weight: one class vector per row; at least two classes.

    Returns:
        A scalar.  A weight of zeros, which has no shape, is given 0.

    Raises:
        ValueError: unless ``weight`` is (c, d) with c >= 2.
        TypeError: if ``weight`` is not floating point.

    >>> triangle = torch.tensor([[1., 0.], [-0.5, 0.75 ** 0.5], [-0.5, -0.75 ** 0.5]])
    >>> supersymmetry_gap(triangle), supersymmetry_gap(torch.eye(3))
    (tensor(0.), tensor(0.3333))
    """
    if weight.ndim != 2 or weight.shape[0] < 2:
        raise ValueError(f"expected weight (c, d) with c >= 2; got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise TypeError(f"weight must be floating point; got {weight.dtype}")
    w, c = widen(weight), weight.shape[0]
    # The gap is free of scale, so choose the scale at which fourth powers neither overflow
    # nor vanish.
    tiny = torch.finfo(w.dtype).tiny
    w = w / w.detach().abs().amax().clamp_min(tiny)
    gram = w @ w.mT
    simplex = c * torch.eye(c, dtype=w.dtype, device=w.device) - 1  # its scale cancels below
    nearest = (gram * simplex).sum() / simplex.square().sum() * simplex
    return (gram - nearest).square().sum() / gram.square().sum().clamp_min(tiny)
