"""Angular margins: ask the target to win with its angle multiplied, or moved (chapter 5).

A logit is a product of two lengths and a cosine.  Put something smaller in the place of the
target's cosine, and to be as well off as before the feature must turn towards its class.

    f_y = |w_y| |x| psi(theta_y),   psi(theta) = (-1)^k cos(m theta) - 2k,
                                    k pi / m <= theta <= (k + 1) pi / m

The rest of the family changes what else stands in the logit: A-Softmax takes the class
vectors at length one; NormFace, CosFace and ArcFace the features too, times a scale.

Derived   chapters/05_angular.ipynb, marginlib/symbolic/angular.py
Source    Slides on W. Liu et al., "Large-Margin Softmax Loss for Convolutional Neural
          Networks", ICML 2016.  A-Softmax and NormFace are compared methods of source 001,
          section 4.2; CosFace and ArcFace came after the sources.
"""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rivals import (
    check_features,
    check_number,
    plain_form_serves,
    target_rows,
    widen,
    without_autocast,
)
from .soft_margin import soft_margin_loss

Features = Float[Tensor, "n d"]
Weight = Float[Tensor, "c d"]
Labels = Int[Tensor, " n"]
Logits = Float[Tensor, "n c"]
PerExample = Float[Tensor, " n"]

# Up to here, in (m theta)^2 / 2, the cosine of a multiple is summed as a series.
NEAR_ZERO = 0.05
SERIES_TERMS = 7
# Up to so many units of the last digit a feature counts as on the line of its class vector.
ON_THE_LINE = 8


# --- The margin function -------------------------------------------------------------------


def psi(cosine: Float[Tensor, "..."], margin: float) -> Float[Tensor, "..."]:
    """The source's psi at the angle that has this cosine: 1 at 0, falling to 1 - 2m at pi.

    Printed: ``(-1)^k cos(m theta) - 2k`` on the k-th of m equal parts of [0, pi].  Computed:
    for a whole m, cos(m theta) as Chebyshev's polynomial of the cosine; for any other, from
    the angle, and next to 0 as a series in 1 - cosine.  No arc cosine is taken, so no slope
    is infinite that need not be.

    For a whole m the slope by the cosine is finite everywhere, m^2 at both ends.  For any
    other m it grows without end towards pi (that is psi's own doing); at pi it is given as 0.

    Args:
        cosine: of any shape, from -1 to 1; a rounding error beyond is no trouble.
        margin: the source's m, a number of at least 1; with 1, psi is the cosine.

    Raises:
        ValueError: if ``margin`` is below 1 or not finite.
        TypeError: if ``margin`` is not a number.

    >>> psi(torch.tensor([1., 0.5, 0., -1.]), margin=2)
    tensor([ 1.0000, -0.5000, -1.0000, -3.0000])
    """
    _check_multiple(margin)
    c = widen(cosine)
    parts = torch.zeros_like(c)
    for j in range(1, math.ceil(margin)):
        parts = parts + (c < math.cos(j * math.pi / margin))
    multiple = _chebyshev(c, int(margin)) if margin == int(margin) else _multiple(c, margin)
    return (1 - 2 * (parts % 2)) * multiple - 2 * parts


def _chebyshev(c: Tensor, m: int) -> Tensor:
    """The cosine of m times the angle, for a whole m."""
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return now


def _multiple(c: Tensor, m: float) -> Tensor:
    """The cosine of m times the angle, for any m."""
    u = 1 - c
    near = u < NEAR_ZERO / m**2
    series = torch.ones_like(c)
    for k in reversed(range(SERIES_TERMS)):
        series = 1 + (k * k - m * m) / ((2 * k + 1) * (k + 1)) * u * series
    # Where the other branch is taken, this one sees a right angle: its slope stays finite.
    half_sine, half_cosine = _root(torch.where(near, 1, u)), _root(torch.where(near, 1, 2 - u))
    return torch.where(near, series, torch.cos(2 * m * torch.atan2(half_sine, half_cosine)))


def annealing_schedule(
    step: float,
    base: float = 1000.0,
    gamma: float = 2.5e-5,
    power: float = 35.0,
    least: float = 0.0,
) -> float:
    """The mixing lambda after ``step`` steps: max(least, base (1 + gamma step)^-power).

    The constants are those of the L-Softmax authors' published code for MNIST, over 20,000
    steps; they end with ``least`` between 5 and 10 where a net does not train otherwise.
    The slides print 0.1 for the start: psi then has 91 % of the weight from the first step.

    >>> [round(annealing_schedule(step), 1) for step in (0, 1000, 5000, 10000)]
    [1000.0, 421.4, 16.2, 0.4]
    """
    return max(least, base * (1 + gamma * step) ** -power)


# --- The losses ----------------------------------------------------------------------------


def l_softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: float | Float[Tensor, ""] = 0.0,
) -> PerExample:
    """L-Softmax: the target's angle counts ``margin`` times.

    Printed: ``f_y = (lambda |w_y| |x| cos(theta) + |w_y| |x| psi(theta)) / (1 + lambda)``, then
    softmax.  Computed: the soft-margin loss of the plain logits with the margin
    ``|w_y| |x| (cos(theta) - psi(theta)) / (1 + lambda)``; the same.

    Args:
        features: one feature vector per row.
        weight: one class vector per row, as in :class:`torch.nn.Linear`; there is no bias.
        target: the true class of each row of ``features``, 0 <= target < c.
        margin: the source's m; a whole number there, any number of at least 1 here.
        annealing: the source's lambda, 0 or more; 0 is the pure loss.  See
            :func:`annealing_schedule`.

    Returns:
        One loss per example; float32 for half-precision input, and computed in float32 under
        autocast.  A vector of length zero has the margin 0, and no gradient through it.

    Raises:
        ValueError: for shapes that do not fit, labels as :func:`split`, a ``margin`` below 1,
            a negative ``annealing``.
        TypeError: for tensors or numbers of the wrong kind.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> features, target = torch.tensor([[2., 1.]]), torch.tensor([0])
    >>> l_softmax_loss(features, weight, target, margin=1), l_softmax_loss(features, weight, target)
    (tensor([0.3133]), tensor([1.8057]))
    """
    x, w, y = _checked(features, weight, target, margin, annealing)
    logits, at = _scores(x, w, y, unit=False)
    return soft_margin_loss(logits, target, margin=_l_margin(at, margin, annealing))


def l_softmax_margin(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: float | Float[Tensor, ""] = 0.0,
) -> PerExample:
    """What :func:`l_softmax_loss` takes off the target's logit, one number per example."""
    x, w, y = _checked(features, weight, target, margin, annealing)
    return _l_margin(_geometry(x, target_rows(w, y)), margin, annealing)


def a_softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: float | Float[Tensor, ""] = 0.0,
) -> PerExample:
    """A-Softmax: L-Softmax with every class vector at length one.

    The logits are :func:`a_softmax_logits`; arguments, result and errors are those of
    :func:`l_softmax_loss`.
    """
    x, w, y = _checked(features, weight, target, margin, annealing)
    logits, at = _scores(x, w, y)
    return soft_margin_loss(logits, target, margin=_a_margin(at, margin, annealing))


def a_softmax_margin(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: float | Float[Tensor, ""] = 0.0,
) -> PerExample:
    """What :func:`a_softmax_loss` takes off the target's logit, one number per example."""
    x, w, y = _checked(features, weight, target, margin, annealing)
    return _a_margin(_geometry(x, target_rows(w, y)), margin, annealing)


def a_softmax_logits(features: Features, weight: Weight) -> Logits:
    """``|x| cos(theta_c)``: linear logits with class vectors of length one, and no margin.

    >>> a_softmax_logits(torch.tensor([[3., 4.]]), torch.tensor([[2., 0.], [0., 5.]]))
    tensor([[3., 4.]])
    """
    return _scores(*_with_some_target(features, weight))[0]


def cosine_logits(
    features: Features, weight: Weight, scale: float | Float[Tensor, ""] = 1.0
) -> Logits:
    """``scale`` times the cosines between features and class vectors, and no margin.

    A vector of length zero is at right angles to all others, and has no gradient.  The
    classes' lengths divide the columns of the product: no normalised copy of the weight
    is made, and its gradient is gathered in one buffer.

    >>> cosine_logits(torch.tensor([[3., 4.]]), torch.tensor([[2., 0.], [0., 0.]]), scale=10.0)
    tensor([[6., 0.]])
    """
    check_number("scale", scale)
    return _cosines(*_with_some_target(features, weight), scale)[0]


def normface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: float | Float[Tensor, ""] = 16.0,
) -> PerExample:
    """NormFace, source 001's N-Softmax: the softmax loss of ``scale`` times the cosines.

    Arguments, result and errors are those of :func:`arcface_loss`, without a margin.
    """
    return cosface_loss(features, weight, target, scale, margin=0.0)


def cosface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: float | Float[Tensor, ""] = 30.0,
    margin: float | Float[Tensor, ""] = 0.35,
) -> PerExample:
    """CosFace: the target's cosine counts ``margin`` less.  A soft margin of scale * margin.

    Arguments, result and errors are those of :func:`arcface_loss`; ``margin`` is in units of
    the cosine, 0 or more.
    """
    check_features(features, weight, target)
    check_number("margin", margin)
    return soft_margin_loss(cosine_logits(features, weight, scale), target, margin=scale * margin)


def arcface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: float | Float[Tensor, ""] = 30.0,
    margin: float = 0.5,
) -> PerExample:
    """ArcFace: ``margin`` is added to the target's angle.

    Its logit is ``scale * cos(theta + margin)`` up to theta = pi - margin.  Past that the cosine
    would rise again, and a feature that points away would be told to turn farther; there
    the logit is ``scale * (-2 - cos(theta + margin))``, which goes on falling and joins in value
    and slope.

    Args:
        features: one feature vector per row; its length does not matter.
        weight: one class vector per row; its length does not matter.
        target: the true class of each row of ``features``, 0 <= target < c.
        scale: what the cosines are multiplied by, 0 or more.
        margin: in radians, from 0 to pi.

    Returns:
        One loss per example; float32 for half-precision input, and computed in float32 under
        autocast.  A vector of length zero is at right angles to all, and has no gradient.

    Raises:
        ValueError: for shapes that do not fit, labels as :func:`split`, or a ``scale`` or
            ``margin`` out of range.
        TypeError: for tensors or numbers of the wrong kind.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> features, target = torch.tensor([[2., 1.]]), torch.tensor([0])
    >>> arcface_loss(features, weight, target, scale=4.0)
    tensor([0.4766])
    """
    x, w, y = _checked_arc(features, weight, target, scale, margin)
    logits, at = _cosines(x, w, y, scale)
    return soft_margin_loss(logits, target, margin=_arc_margin(at, scale, margin))


def arcface_margin(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: float | Float[Tensor, ""] = 30.0,
    margin: float = 0.5,
) -> PerExample:
    """What :func:`arcface_loss` takes off the target's logit, one number per example.

    For theta > pi - margin / 2 the plain ``cos(theta) - cos(theta + margin)`` would be negative;
    this one is never.
    """
    x, w, y = _checked_arc(features, weight, target, scale, margin)
    return _arc_margin(_geometry(x, target_rows(w, y)), scale, margin)


# --- Their parts ---------------------------------------------------------------------------

# What a margin depends on: the lengths of x and w_y, their product x . w_y, and how far x is
# from the line through w_y; one number per example each.
Geometry = tuple[Tensor, Tensor, Tensor, Tensor]


def _l_margin(at: Geometry, margin: float, annealing: float | Tensor) -> Tensor:
    _, axis, _, _ = at
    return axis * _a_margin(at, margin, annealing)


def _a_margin(at: Geometry, margin: float, annealing: float | Tensor) -> Tensor:
    length, axis, product, _ = at
    cosine = product * _inverse(length) * _inverse(axis)
    return length * (cosine - psi(cosine, margin)) / (1 + annealing)


def _arc_margin(at: Geometry, scale: float | Tensor, margin: float) -> Tensor:
    length, axis, product, distance = at
    cosine = product * _inverse(length) * _inverse(axis)
    # Not the root of 1 - cosine^2, which next to 0 and pi has no digits left.
    sine = torch.where(length > 0, distance * _inverse(length), 1)
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    past = cosine < -math.cos(margin)
    return scale * (cosine - torch.where(past, -2 - moved, moved))


def _geometry(x: Tensor, rows: Tensor) -> Geometry:
    length, axis, product = _length(x), _length(rows), (x * rows).sum(1)
    beside = _length(torch.addcmul(x, -(product * _inverse(axis) ** 2)[:, None], rows))
    # On the line itself rounding leaves a distance, with a direction that means nothing.
    told = beside > ON_THE_LINE * torch.finfo(x.dtype).eps * length
    return length, axis, product, torch.where(told, beside, 0)


def _length(x: Tensor) -> Tensor:
    """The length of each row; a row of zeros has the gradient 0, at any order."""
    if torch.is_grad_enabled():
        return _root(x.square().sum(1))
    return torch.linalg.vector_norm(x, dim=1)  # without a copy, but 0 / 0 in a second gradient


def _root(x: Tensor) -> Tensor:
    """The square root, with the slope 0 where x is 0."""
    return x * torch.where(x > 0, x, math.inf).rsqrt()


def _inverse(x: Tensor) -> Tensor:
    """1 / x, but 0, with the slope 0, where x is 0."""
    return torch.where(x > 0, x, math.inf).reciprocal()


def _scores(
    x: Tensor, w: Tensor, y: Tensor, scale: float | None = None, unit: bool = True
) -> tuple[Tensor, Geometry]:
    """The logits x w^T and the geometry of the targets.

    With a ``scale`` the features count as if they had that length; if ``unit``, the class
    vectors as if they had length one.
    """
    with without_autocast(w):
        if plain_form_serves():
            logits, *at = _plain(x, w, y, scale, unit)
        else:
            logits, *at = _Scores.apply(x, w, y, scale, unit)
    return logits, tuple(at)


def _plain(x: Tensor, w: Tensor, y: Tensor, scale: float | None, unit: bool) -> tuple[Tensor, ...]:
    at = _geometry(x, target_rows(w, y))
    if scale is not None:
        x = x * (scale * _inverse(at[0]))[:, None]
    logits = x @ w.mT
    return (logits * _inverse(_length(w)) if unit else logits), *at


def _cosines(x: Tensor, w: Tensor, y: Tensor, scale: float | Tensor) -> tuple[Tensor, Geometry]:
    if isinstance(scale, Tensor):  # scheduled or learnt
        logits, at = _scores(x, w, y, scale=1.0)
        return scale * logits, at
    return _scores(x, w, y, scale)


def _with_some_target(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.zeros(len(features), dtype=torch.long, device=features.device)
    check_features(features, weight, y)
    return widen(features), widen(weight), y


class _Scores(torch.autograd.Function):
    """What :func:`_plain` computes, with the weight's gradients gathered in one buffer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, y: Tensor, scale: float | None, unit: bool
    ) -> tuple:
        shrink = _inverse(_length(w)) if unit else w.new_ones(len(w))
        logits, *at = _plain(x, w, y, scale, unit=False)
        if unit:
            logits *= shrink
        ctx.save_for_backward(x, w, y, logits, *at, shrink)
        ctx.scale, ctx.unit = scale, unit
        return logits, *at

    @staticmethod
    def backward(ctx: Any, by_logits: Tensor, *by_at: Tensor) -> tuple:
        x, w, y, logits, length, axis, product, distance, shrink = ctx.saved_tensors
        with without_autocast(w):
            if torch.is_grad_enabled():  # somebody will differentiate this again
                plain = partial(_plain, y=y, scale=ctx.scale, unit=ctx.unit)
                pull = torch.func.vjp(plain, x, w)[1]
                return *pull((by_logits, *by_at)), None, None, None
            grow = 1 if ctx.scale is None else ctx.scale * _inverse(length)[:, None]
            to_x, to_w = _back_from_logits(by_logits, logits, x * grow, w, shrink, ctx.unit)
            if ctx.scale is not None:  # turn only: take out what would make x longer
                to_x *= grow
                to_x.addcmul_(x, -((x * to_x).sum(1) * _inverse(length) ** 2)[:, None])
            at = (length, axis, product, distance)
            to_rows = _back_from_geometry(by_at, at, x, target_rows(w, y), to_x)
            return to_x, to_w.index_add_(0, y, to_rows), None, None, None


def _back_from_logits(
    by_logits: Tensor, logits: Tensor, x: Tensor, w: Tensor, shrink: Tensor, unit: bool
) -> tuple[Tensor, Tensor]:
    by_products = by_logits * shrink if unit else by_logits
    to_x, to_w = by_products @ w, by_products.mT @ x
    if unit:  # turn only: take out what would make the class vectors longer
        to_w.addcmul_(w, -(by_products.mul_(logits).sum(0) * shrink)[:, None])
    return to_x, to_w


def _back_from_geometry(
    by_at: tuple[Tensor, ...], at: Geometry, x: Tensor, rows: Tensor, to_x: Tensor
) -> Tensor:
    """Add to the features' gradient in place; return that of the targets' rows."""
    by_length, by_axis, by_product, by_distance = (by[:, None] for by in by_at)
    length, axis, product, distance = (value[:, None] for value in at)
    part = product * _inverse(axis) ** 2
    aside = torch.addcmul(x, -part, rows).mul_(by_distance * _inverse(distance))
    to_x.addcmul_(rows, by_product).addcmul_(x, by_length * _inverse(length)).add_(aside)
    return (x * by_product).addcmul_(rows, by_axis * _inverse(axis)).addcmul_(aside, -part)


def _checked(
    features: Tensor, weight: Tensor, target: Tensor, margin: float, annealing: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    check_features(features, weight, target)
    _check_multiple(margin)
    check_number("annealing", annealing)
    return widen(features), widen(weight), target.long()


def _checked_arc(
    features: Tensor, weight: Tensor, target: Tensor, scale: float | Tensor, margin: float
) -> tuple[Tensor, Tensor, Tensor]:
    check_features(features, weight, target)
    check_number("scale", scale)
    if isinstance(margin, Tensor):
        raise TypeError("margin must be a number, in radians; got Tensor")
    check_number("margin", margin, most=math.pi)
    return widen(features), widen(weight), target.long()


def _check_multiple(margin: float) -> None:
    if not isinstance(margin, (int, float)):
        raise TypeError(f"margin must be a number; got {type(margin).__name__}")
    if not 1 <= margin < math.inf:
        raise ValueError(f"margin must be at least 1 and finite; got {margin}")
