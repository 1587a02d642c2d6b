"""The losses of this book, read a block of classes at a time (chapter 13).

A loss asks little of the rivals: a log-sum-exp, and where it prices their disagreement two
means.  These are running sums, so the (n, c) logits need never stand in memory together:

    top'        = max(top, max_b f_b)                   over the block's rivals b
    S'          = S e^(top - top') + sum_b e^(f_b - top')
    LSE(rivals) = top + log S

One pass over blocks of class vectors gives the sums and the target's logit; the backward makes
one more, computes each block's logits again and writes that block's gradient in its place.  The
memory is that of n x block numbers and of the weight's gradient.  Values and gradients are
those of the plain losses, to rounding.

Every function here has the name and the arguments of a plain loss, takes features and weight
where that takes logits, and ``bias`` and ``block`` by name.  A head that you have trains with it:

    >>> from marginlib import ArcFaceHead
    >>> class ArcFaceHeadByBlocks(ArcFaceHead):
    ...     def losses(self, features, target):
    ...         return arcface_loss(features, self.weight, target, self.scale, self.m)
    >>> head = ArcFaceHeadByBlocks(128, 20_000)
    >>> head(torch.randn(4, 128), torch.tensor([0, 7, 19_999, 7])).backward()

First derivatives by ``backward()`` and ``torch.autograd.grad`` alone: second ones, forward mode
and ``torch.func`` are refused, and the plain losses have them.  ``torch.compile`` leaves the pass
out of its graph, so ``fullgraph=True`` is refused by the compiler.

Source    The losses are those of chapters 1 and 3 to 6.  The running sum is M. Milakov and
          N. Gimelshein, "Online normalizer calculation for softmax", 2018.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..angular import a_softmax_margin, arcface_margin, l_softmax_margin
from ..gaussian_mixture import gaussian_margin
from ..large_margin import OF_CROWD as _DIVERGENCES
from ..large_margin import disagreement
from ..rivals import (
    check_features,
    check_number,
    plain_form_serves,
    target_rows,
    widen,
    without_autocast,
)
from ..soft_margin import soft_margin_loss as soft_margin_loss_of_logits
from ..softmax import softmax_loss as softmax_loss_of_logits

Features = Float[Tensor, "n d"]
Weight = Float[Tensor, "c d"]
Bias = Float[Tensor, " c"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]
Number = float | Float[Tensor, ""]

# In float32 the class vectors of a block are then 2 MiB at d = 128, its logits 1 MiB at n = 64:
# they stay in a processor's cache between one step and the next.
BLOCK = 4096


# --- The losses of logits ------------------------------------------------------------------


def softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    *,
    bias: Bias | None = None,
    block: int = BLOCK,
) -> PerExample:
    """The softmax loss of linear logits: :func:`marginlib.softmax_loss`.

    Args:
        features: one feature vector per example.
        weight: one class vector per row, as in :class:`torch.nn.Linear`; c >= 2.
        target: the true class of each row of ``features``, 0 <= target < c.
        bias: one offset per class, or None.
        block: how many classes are looked at together, 1 or more.  On a GPU a larger one, of
            65536 say, keeps it busier.

    Returns:
        One loss per example; float32 for half-precision input, and computed in float32 under
        autocast.

    Raises:
        ValueError: for shapes that do not fit, labels as :func:`marginlib.split`, a ``block``
            below 1.
        TypeError: for tensors or numbers of the wrong kind.
        NotImplementedError: under ``torch.func`` or forward mode, and when the gradient is itself
            differentiated.

    >>> features, target = torch.tensor([[1., 0.]]), torch.tensor([0])
    >>> softmax_loss(features, torch.tensor([[2., 0.], [1., 5.], [1., 7.]]), target, block=2)
    tensor([0.5514])
    """
    return soft_margin_loss(features, weight, target, 0.0, bias=bias, block=block)


def soft_margin_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float | Float[Tensor, ""] | Float[Tensor, " n"] = 1.0,
    *,
    bias: Bias | None = None,
    block: int = BLOCK,
) -> PerExample:
    """The soft-margin loss of linear logits: :func:`marginlib.soft_margin_loss`.

    ``margin`` and its errors are as there; the rest is as in :func:`softmax_loss`.

    >>> features, target = torch.tensor([[1., 0.]]), torch.tensor([0])
    >>> soft_margin_loss(features, torch.tensor([[2., 0.], [1., 5.], [1., 7.]]), target, block=2)
    tensor([1.0986])
    """
    check_features(features, weight, target)
    return _after_margin(_read(widen(features), weight, target, bias, block), margin)


def large_margin_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    strength: float = 0.3,
    divergence: Callable = disagreement,
    base: Callable = softmax_loss_of_logits,
    *,
    bias: Bias | None = None,
    block: int = BLOCK,
) -> PerExample:
    """A loss plus the rivals' disagreement: :func:`marginlib.large_margin_loss`.

    Args:
        features: as in :func:`softmax_loss`.
        weight: as in :func:`softmax_loss`.
        target: as in :func:`softmax_loss`.
        strength: the price of the divergence, not negative.
        divergence: the library's ``disagreement``, ``kl_to_uniform`` or ``kl_from_uniform``.
        base: the library's ``softmax_loss`` or ``soft_margin_loss``, with parameters fixed by
            :func:`functools.partial`.
        bias: as in :func:`softmax_loss`.
        block: as in :func:`softmax_loss`.

    Raises:
        ValueError: as :func:`softmax_loss`; if ``strength`` is negative; for another
            ``divergence`` or ``base``, which might ask more of the rivals than a pass keeps.
        TypeError, NotImplementedError: as :func:`softmax_loss`.

    >>> features, target = torch.tensor([[1., 0.]]), torch.tensor([0])
    >>> large_margin_loss(features, torch.tensor([[2., 0.], [1., 5.], [-1., 7.]]), target)
    tensor([0.4633])
    """
    check_features(features, weight, target)
    check_number("strength", strength)
    if divergence not in _DIVERGENCES:
        _refuse("divergence", divergence, _DIVERGENCES)
    if getattr(base, "func", base) not in _BASES:
        _refuse("base", base, _BASES)
    seen = _read(widen(features), weight, target, bias, block, means=True)
    return base(*seen.duel()) + strength * _DIVERGENCES[divergence](seen)


def label_smoothing_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    smoothing: float = 0.1,
    *,
    bias: Bias | None = None,
    block: int = BLOCK,
) -> PerExample:
    """The softmax loss against a smoothed label: :func:`marginlib.label_smoothing_loss`.

    ``smoothing`` and its errors are as there; the rest is as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[2., 0.], [0., 5.], [0., 7.]])
    >>> label_smoothing_loss(torch.tensor([[1., 0.]]), weight, torch.tensor([0]))
    tensor([0.3729])
    """
    check_features(features, weight, target)
    check_number("smoothing", smoothing, most=1.0)
    seen = _read(widen(features), weight, target, bias, block, means=True)
    price = smoothing * seen.count / (seen.count + 1)
    return softmax_loss_of_logits(*seen.duel()) + price * (seen.f_y - seen.mean)


# --- Angles and distances ------------------------------------------------------------------


def l_softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: Number = 0.0,
    *,
    block: int = BLOCK,
) -> PerExample:
    """L-Softmax: :func:`marginlib.l_softmax_loss`, and its arguments and errors.

    ``block`` and what is refused are as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> l_softmax_loss(torch.tensor([[2., 1.]]), weight, torch.tensor([0]))
    tensor([1.8057])
    """
    check_features(features, weight, target)
    x = widen(features)
    seen = _read(x, weight, target, None, block)
    return _after_margin(seen, _of_rows(l_softmax_margin, x, seen, margin, annealing))


def a_softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    margin: float = 4,
    annealing: Number = 0.0,
    *,
    block: int = BLOCK,
) -> PerExample:
    """A-Softmax: :func:`marginlib.a_softmax_loss`, and its arguments and errors.

    ``block`` and what is refused are as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[1., 0.], [0., 3.]])
    >>> a_softmax_loss(torch.tensor([[2., 1.]]), weight, torch.tensor([0]))
    tensor([1.8057])
    """
    check_features(features, weight, target)
    x = widen(features)
    seen = _read(x, weight, target, None, block, form=_COSINES)
    return _after_margin(seen, _of_rows(a_softmax_margin, x, seen, margin, annealing))


def normface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: Number = 16.0,
    *,
    block: int = BLOCK,
) -> PerExample:
    """NormFace: :func:`marginlib.normface_loss`, and its arguments and errors.

    ``block`` and what is refused are as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> normface_loss(torch.tensor([[2., 1.]]), weight, torch.tensor([0]), scale=4.0)
    tensor([0.1546])
    """
    return cosface_loss(features, weight, target, scale, 0.0, block=block)


def cosface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: Number = 30.0,
    margin: Number = 0.35,
    *,
    block: int = BLOCK,
) -> PerExample:
    """CosFace: :func:`marginlib.cosface_loss`, and its arguments and errors.

    ``block`` and what is refused are as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> cosface_loss(torch.tensor([[2., 1.]]), weight, torch.tensor([0]), scale=4.0)
    tensor([0.5175])
    """
    check_features(features, weight, target)
    check_number("scale", scale)
    check_number("margin", margin)
    x = widen(features)
    seen = _read(scale * _turned(x), weight, target, None, block, form=_COSINES)
    return _after_margin(seen, scale * margin)


def arcface_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    scale: Number = 30.0,
    margin: float = 0.5,
    *,
    block: int = BLOCK,
) -> PerExample:
    """ArcFace: :func:`marginlib.arcface_loss`, and its arguments and errors.

    ``block`` and what is refused are as in :func:`softmax_loss`.

    >>> weight = torch.tensor([[1., 0.], [0., 1.]])
    >>> arcface_loss(torch.tensor([[2., 1.]]), weight, torch.tensor([0]), scale=4.0)
    tensor([0.4766])
    """
    check_features(features, weight, target)
    check_number("scale", scale)
    # Widened once, so that the two ways back to the features are added before they are rounded.
    x = widen(features)
    seen = _read(scale * _turned(x), weight, target, None, block, form=_COSINES)
    return _after_margin(seen, _of_rows(arcface_margin, x, seen, scale, margin))


def gaussian_mixture_loss(
    features: Features,
    means: Weight,
    target: Labels,
    variances: None = None,
    priors: Bias | None = None,
    alpha: Number = 0.0,
    margin: float | Float[Tensor, ""] | Float[Tensor, " n"] = 0.0,
    *,
    block: int = BLOCK,
) -> PerExample:
    """The mixture with unit variances: :func:`marginlib.gaussian_mixture_loss`.

    Arguments and errors are those there, but ``variances`` is None, the identity; ``block`` and
    what is refused are as in :func:`softmax_loss`.

    >>> means, x = torch.tensor([[0., 0.], [4., 0.]]), torch.tensor([[1., 0.]])
    >>> gaussian_mixture_loss(x, means, torch.tensor([0]), alpha=1.0)
    tensor([0.0298])
    """
    check_features(features, means, target)
    if variances is not None:
        raise ValueError(
            "by blocks there is the identity covariance alone: expected variances None; "
            f"got {type(variances).__name__}.  marginlib.gaussian_mixture_loss takes them"
        )
    _check_offsets("priors", priors, means, positive=True)
    offset = None if priors is None else widen(priors).log()
    # As in the plain loss: far from the origin the squares would drown the distances.
    origin = means.detach().mean(dim=0, dtype=widen(means[:0]).dtype)
    x = widen(features) - origin
    seen = _read(x, means, target, offset, block, form=_DISTANCES, origin=origin)
    return _after_margin(seen, _of_rows(gaussian_margin, x, seen, None, alpha, margin))


# --- What is asked of the rivals -----------------------------------------------------------


class _Seen(NamedTuple):
    """What one pass keeps of each example, measured from its strongest rival, a constant.

    A loss depends on differences of logits, in which the constant cancels, and its gradient too.
    """

    rows: Tensor  # (n, d), the target's class vector
    count: int  # r, how many rivals there are
    f_y: Tensor  # (n,) the target's logit
    lse: Tensor  # (n,) LSE(rivals)
    weighted: Tensor | None = None  # (n,) E_q[f], the rivals' softmax-weighted mean
    mean: Tensor | None = None  # (n,) E_u[f], their plain mean

    def duel(self) -> tuple[Tensor, Tensor]:
        """Two classes, the target and one rival who is worth all: logits (n, 2) and target.

        The softmax loss cannot tell this rival from the crowd, Eq. (3).
        """
        logits = torch.stack([self.f_y, self.lse], dim=1)
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


_BASES = {soft_margin_loss_of_logits, softmax_loss_of_logits}


def _refuse(name: str, given: Any, known: Any) -> None:
    names = " or ".join(sorted(function.__name__ for function in known))
    said = getattr(given, "__name__", None) or repr(given)
    raise ValueError(f"by blocks, {name} must be marginlib's {names}; got {said}")


def _after_margin(seen: _Seen, margin: float | Tensor) -> Tensor:
    return soft_margin_loss_of_logits(*seen.duel(), margin)


def _of_rows(margin: Callable, x: Tensor, seen: _Seen, *parameters: Any) -> Tensor:
    """The margins of examples whose targets' class vectors are known, one row each."""
    # A margin function asks for rivals, and looks at none: two rows of zeros are enough.
    rows = torch.cat([seen.rows, seen.rows.new_zeros(2, x.shape[1])])
    return margin(x, rows, torch.arange(len(x), device=x.device), *parameters)


def _turned(x: Tensor) -> Tensor:
    """Features of length one; a vector of length zero stays, and has no gradient."""
    return x * _inverse(torch.linalg.vector_norm(x, dim=1, keepdim=True))


def _inverse(x: Tensor) -> Tensor:
    """1 / x, but 0, with the slope 0, where x is 0."""
    return torch.where(x > 0, x, math.inf).reciprocal()


def _check_offsets(name: str, value: Any, weight: Tensor, positive: bool = False) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point tensor; got {kind}")
    if value.shape != weight.shape[:1]:
        raise ValueError(f"expected {name} {tuple(weight.shape[:1])}; got {tuple(value.shape)}")
    if positive and value.device.type == "cpu" and not value.detach().amin() > 0:
        least = value.detach().amin().item()
        raise ValueError(f"{name} must be positive; the least is {least:g}")


# --- The pass over blocks ------------------------------------------------------------------


class _Form(NamedTuple):
    """How a block's logits come from its class vectors v, and how their gradient goes back."""

    logits: Callable[[Tensor, Tensor], Tensor]  # x, v -> (n, b)
    back: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # by_logits, x, v


def _products(x: Tensor, v: Tensor) -> Tensor:
    return x @ v.mT


def _products_back(by: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return by @ v, by.mT @ x


def _cosines(x: Tensor, v: Tensor) -> Tensor:
    """As if every class vector had length one."""
    return (x @ v.mT).mul_(_inverse(torch.linalg.vector_norm(v, dim=1)))


def _cosines_back(by: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    shrink = _inverse(torch.linalg.vector_norm(v, dim=1))
    to_x, to_v = _products_back(by * shrink, x, v)
    # Turn only: take out what would make the class vectors longer.
    along = torch.linalg.vecdot(to_v, v) * shrink.square()
    return to_x, to_v.addcmul_(along[:, None], v, value=-1)


def _distances(x: Tensor, v: Tensor) -> Tensor:
    """Minus half the squared distances, without |x|^2 / 2, which all classes share."""
    return (x @ v.mT).sub_(0.5 * torch.linalg.vector_norm(v, dim=1).square())


def _distances_back(by: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    to_x, to_v = _products_back(by, x, v)
    return to_x, to_v.addcmul_(by.sum(0)[:, None], v, value=-1)


_PRODUCTS = _Form(_products, _products_back)
_COSINES = _Form(_cosines, _cosines_back)
_DISTANCES = _Form(_distances, _distances_back)


# In a graph the compiler would see each block's logits computed twice and keep the first ones:
# all (n, c) of them.
@torch.compiler.disable
def _read(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    offset: Tensor | None,
    block: int,
    *,
    means: bool = False,
    form: _Form = _PRODUCTS,
    origin: Tensor | None = None,
) -> _Seen:
    """Make the pass; ``x`` is wide already, and class vectors are measured from ``origin``."""
    _check_offsets("bias", offset, weight)
    if not isinstance(block, int):
        raise TypeError(f"block must be a whole number of classes; got {type(block).__name__}")
    if block < 1:
        raise ValueError(f"expected a block of 1 class or more; got {block}")
    if plain_form_serves():
        raise NotImplementedError(
            "a loss by blocks has first derivatives by backward() alone; under torch.func and "
            "forward mode take the plain loss of the same name in marginlib"
        )
    with without_autocast(x):
        read = partial(_Pass.apply, form, block, means)
        rows, *row_values = read(target.long(), x, weight, offset, origin)
    return _Seen(rows, len(weight) - 1, *row_values)


class _Pass(torch.autograd.Function):
    """The target's rows and what :class:`_Seen` tells of the logits, none of which are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        form: _Form,
        block: int,
        means: bool,
        target: Tensor,
        x: Tensor,
        weight: Tensor,
        offset: Tensor | None,
        origin: Tensor | None,
    ) -> tuple[Tensor, ...]:
        y = target[:, None]
        rows = _vectors(target_rows(weight, target), origin)
        # Not -inf, whose difference from itself is nothing; a half, so that no difference is.
        top = x.new_full(y.shape, 0.5 * torch.finfo(x.dtype).min)
        f_y, mass, moment, total = (x.new_zeros(y.shape) for _ in range(4))
        for part, place, here in _blocks(len(weight), block, y):
            z = _block_logits(form, part, x, weight, offset, origin)
            own = z.gather(1, place)
            f_y = torch.where(here, own, f_y)
            z.scatter_(1, place, own.masked_fill(here, -math.inf))
            higher = torch.maximum(top, z.amax(dim=1, keepdim=True))
            drop, top = top - higher, higher
            z -= top
            q = z.exp()
            if means:
                z.scatter_(1, place, z.gather(1, place).masked_fill(here, 0))
                rivals_before = part.start - (y < part.start).to(x.dtype)
                total = total + rivals_before * drop + z.sum(dim=1, keepdim=True)
                moment = (moment + mass * drop) * drop.exp() + z.mul_(q).sum(dim=1, keepdim=True)
            mass = mass * drop.exp() + q.sum(dim=1, keepdim=True)
        seen = [f_y - top, mass.log()]
        if means:
            seen += [moment / mass, total / (len(weight) - 1)]
        ctx.save_for_backward(y, x, weight, offset, origin, top, *seen[1:])
        ctx.form, ctx.block, ctx.means = form, block, means
        return rows, *(value.squeeze(1) for value in seen)

    @staticmethod
    def backward(ctx: Any, by_rows: Tensor, *by: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "a loss by blocks cannot be differentiated twice (create_graph=True); "
                "take the plain loss of the same name in marginlib"
            )
        y, x, weight, offset, origin, top, lse, *averages = ctx.saved_tensors
        by_f_y, by_lse, *by_averages = (b[:, None] for b in by)
        to_x, to_weight = torch.zeros_like(x), torch.empty_like(weight)
        to_offset = None if offset is None else torch.empty_like(offset)
        with without_autocast(x):
            for part, place, here in _blocks(len(weight), ctx.block, y):
                z = _block_logits(ctx.form, part, x, weight, offset, origin).sub_(top)
                step = (z - lse).exp_()
                if ctx.means:
                    (weighted, _), (by_weighted, by_mean) = averages, by_averages
                    step *= z.sub_(weighted - 1).mul_(by_weighted).add_(by_lse)
                    step += by_mean / (len(weight) - 1)
                else:
                    step *= by_lse
                step.scatter_(1, place, torch.where(here, by_f_y, step.gather(1, place)))
                v = _vectors(weight[part], origin)
                more_to_x, to_v = ctx.form.back(step, x, v)
                to_x += more_to_x
                # Added while it is wide: a half-precision gradient is then rounded once.
                to_v.index_add_(0, place.squeeze(1), torch.where(here, by_rows, 0))
                to_weight[part] = to_v
                if to_offset is not None:
                    to_offset[part] = step.sum(dim=0)
        return None, None, None, None, to_x, to_weight, to_offset, None


def _blocks(c: int, block: int, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each block of classes, the place in it that is nearest the target, and if that is it."""
    for start in range(0, c, block):
        stop = min(start + block, c)
        place = y.clamp(start, stop - 1)
        yield slice(start, stop), place - start, place == y


def _block_logits(
    form: _Form,
    part: slice,
    x: Tensor,
    weight: Tensor,
    offset: Tensor | None,
    origin: Tensor | None,
) -> Tensor:
    z = form.logits(x, _vectors(weight[part], origin))
    return z if offset is None else z.add_(widen(offset[part]))


def _vectors(rows: Tensor, origin: Tensor | None) -> Tensor:
    return widen(rows) if origin is None else widen(rows) - origin
