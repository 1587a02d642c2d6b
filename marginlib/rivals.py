"""Target and rivals: the one distinction that every loss in this book is built on.

A classifier gives each of ``c`` classes a logit.  One class is the *target*; the
other ``r = c - 1`` are its *rivals*.  A margin is a statement about the two, and the
softmax loss is one sentence about them:

    loss = softplus( LSE(rivals - f_y) )                                     Eq. (3)

Derived   chapters/01_softmax.ipynb, marginlib/symbolic/softmax.py
Source    T. Kobayashi, "Large Margin In Softmax Cross-Entropy Loss", BMVC 2019.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


def widen(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half precision as float32; float32 and float64 as they are.

    A loss is a small number made of large ones.  In float16 the sum of two finite terms
    can overflow, and in bfloat16 a loss keeps two digits.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Where a product is taken in the precision of its factors, also under autocast.

    A margin compares logits: in bfloat16 a logit of 30 would be off by up to 0.06.
    """
    kind = x.device.type
    # The compiler of torch 2.4 does not know the question.
    if torch.compiler.is_compiling() or torch.amp.is_autocast_available(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()  # such as on the meta device


def plain_form_serves() -> bool:
    """Whether to leave a backward of one's own aside.

    A compiler fuses the plain form by itself.  Under torch.func, a Function of one's own is
    given a second forward derivative of 0, without a word (torch 2.4 to 2.15); and for a forward
    derivative of either kind it would have to say its formula a second time.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def check_batch(logits: Tensor, target: Tensor) -> None:
    """Raise unless ``logits`` is a float (n, c) with c >= 2 and ``target`` an integer (n,)."""
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "expected logits (n, c) and target (n,); "
            f"got logits {tuple(logits.shape)} and target {tuple(target.shape)}"
        )
    if logits.shape[1] < 2:
        raise ValueError(
            f"a margin needs a rival: expected c >= 2 classes; got c = {logits.shape[1]}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point; got {logits.dtype}")
    _check_labels(target)


def _check_labels(target: Tensor) -> None:
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class indices (int64), (n,); got {target.dtype}")


def check_features(features: Tensor, weight: Tensor, target: Tensor) -> None:
    """Raise unless ``features`` (n, d), ``weight`` (c, d), c >= 2, and ``target`` (n,) fit."""
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            "expected features (n, d) and weight (c, d); "
            f"got features {tuple(features.shape)} and weight {tuple(weight.shape)}"
        )
    if target.shape != features.shape[:1]:
        raise ValueError(
            "expected features (n, d) and target (n,); "
            f"got features {tuple(features.shape)} and target {tuple(target.shape)}"
        )
    if weight.shape[0] < 2:
        raise ValueError(
            f"a margin needs a rival: expected c >= 2 classes; got c = {weight.shape[0]}"
        )
    for name, value in (("features", features), ("weight", weight)):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {value.dtype}")
    _check_labels(target)


def check_number(name: str, value: float | Tensor, most: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number from 0 to ``most``.

    A tensor (a scheduled or learnt value) passes unread: reading it would wait for the GPU.
    """
    if isinstance(value, Tensor):
        return
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not 0 <= value <= most or value == math.inf:
        limits = "non-negative and finite" if most == math.inf else f"between 0 and {most:g}"
        raise ValueError(f"{name} must be {limits}; got {value}")


def split(
    logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n r"]]:
    """Part the target's logit from its rivals', with r = c - 1; half precision is widened.

    Raises:
        ValueError: if the shapes do not match, if there are fewer than two classes, or, on
            the CPU, if a label lies outside 0..c-1.  On a GPU torch itself stops at such a
            label, later and with a device-side message: to look sooner we would have to wait.
        TypeError: if ``logits`` is not floating point or ``target`` not integer.

    >>> split(torch.tensor([[5., 6., 7.]]), torch.tensor([1]))
    (tensor([6.]), tensor([[5., 7.]]))
    """
    check_batch(logits, target)
    wide, y = widen(logits), target.long()[:, None]
    f_y = _target_logit(wide, y)
    # Step over the target: those before it stay, those behind it move up by one.  Unlike a boolean
    # index, this never waits for the GPU; unlike an index tensor, it takes a byte a logit.
    before = torch.arange(logits.shape[1] - 1, device=logits.device) < y
    return f_y, torch.where(before, wide[:, :-1], wide[:, 1:])


def in_place(
    logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
    """:func:`split` with the rivals where they stand, and -inf in the target's place.

    For what never looks at the smallest: a maximum, or a sum of parts above a threshold.

    >>> in_place(torch.tensor([[5., 6., 7.]]), torch.tensor([1]))
    (tensor([6.]), tensor([[5., -inf, 7.]]))
    """
    check_batch(logits, target)
    wide, y = widen(logits), target.long()[:, None]
    return _target_logit(wide, y), wide.scatter(1, y, -math.inf)


def _target_logit(wide: Tensor, y: Tensor) -> Tensor:
    """f_y (n,), or the full sentence about a label that is none."""
    if torch.compiler.is_compiling():
        return wide.gather(1, y).squeeze(1)
    # Looking at every label first would cost a pass; gather looks anyway.
    try:
        return wide.gather(1, y).squeeze(1)
    except (IndexError, RuntimeError) as error:
        raise _outside(y[:, 0], wide.shape[1]) or error from None


def target_rows(table: Float[Tensor, "c ..."], target: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
    """Each example's target's row of a table with a row per class.

    Raises:
        ValueError: as :func:`split` for a label outside 0..c-1.

    >>> target_rows(torch.tensor([[1., 2.], [3., 4.]]), torch.tensor([1, 1, 0]))
    tensor([[3., 4.],
            [3., 4.],
            [1., 2.]])
    """
    if torch.compiler.is_compiling():
        return table.index_select(0, target.long())
    try:
        return table.index_select(0, target.long())
    except (IndexError, RuntimeError) as error:
        raise _outside(target, len(table)) or error from None


def _outside(target: Tensor, classes: int) -> ValueError | None:
    """The full sentence about labels outside 0..c-1, if that is what went wrong."""
    where = ((target < 0) | (target >= classes)).nonzero()
    if len(where) == 0:
        return None
    first = where[0].item()
    return ValueError(
        f"expected labels from 0 to {classes - 1}, as there are {classes} classes; "
        f"got {target[first].item()} in row {first} ({len(where)} such of {len(target)})"
    )


def check_rivals(rivals: Tensor) -> None:
    """Raise unless ``rivals`` is a float (n, r) with r >= 1."""
    if rivals.ndim != 2 or rivals.shape[1] < 1:
        raise ValueError(f"expected rivals (n, r) with r >= 1; got {tuple(rivals.shape)}")
    if not rivals.is_floating_point():
        raise TypeError(f"rivals must be floating point; got {rivals.dtype}")


def softplus(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log(1 + e^x), with the gradient of log(1 + e^x)."""
    # Not torch's softplus: past 20 it returns its argument, and its gradient is off by exp(-20).
    return -logsigmoid(-x)


def log_odds(f_y: Float[Tensor, " n"], rivals: Float[Tensor, "n r"]) -> Float[Tensor, " n"]:
    """LSE(rivals) - f_y: the logarithm of the odds against the target, (1 - p_y) / p_y.

    Its softplus is the softmax loss, Eq. (3).
    """
    # Measured from the strongest rival, as in Eq. (6).  As printed, a shift common to all
    # logits would stay in both terms and cost digits; measured from the target, rivals that
    # lie close together and far above it would lose what parts them.
    top = rivals.amax(dim=1, keepdim=True).detach()
    return torch.logsumexp(rivals - top, dim=1) + (top.squeeze(1) - f_y)


def odds_against(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """``log_odds(*split(logits, target))`` in one reading of the logits; what the losses call.

    The rivals are not copied out: the target is masked, and the bias rho of Eq. (7) is their
    min-entropy, ``-log max q`` with q = softmax(rivals).  The gradient is q on the rivals and
    -1 on the target; that one tensor is all that is kept.

    Raises:
        ValueError, TypeError: as :func:`split`.

    >>> odds_against(torch.tensor([[5., 6., 7.]]), torch.tensor([1]))
    tensor([1.1269])
    """
    if plain_form_serves():
        return log_odds(*split(logits, target))
    check_batch(logits, target)
    try:
        return _OddsAgainst.apply(widen(logits), target.long()[:, None])[0]
    except (IndexError, RuntimeError) as error:
        raise _outside(target, logits.shape[1]) or error from None


class _OddsAgainst(torch.autograd.Function):
    """The log-odds (n,) and their slope (n, c), an output so that it can be derived again."""

    @staticmethod
    def forward(ctx, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f_y = logits.gather(1, y)
        rivals = logits.scatter(1, y, -math.inf)
        slope = rivals.softmax(dim=1)
        rho = -slope.amax(dim=1, keepdim=True).log()
        odds = rho + (rivals.amax(dim=1, keepdim=True) - f_y)
        slope.scatter_(1, y, -1)
        ctx.save_for_backward(slope)
        ctx.set_materialize_grads(False)
        return odds.squeeze(1), slope

    @staticmethod
    def backward(ctx, by_odds: Tensor | None, by_slope: Tensor | None) -> tuple:
        (slope,) = ctx.saved_tensors
        step = None if by_odds is None else slope * by_odds[:, None]
        if by_slope is not None:  # a gradient is itself differentiated
            turn = _turn(slope, by_slope)
            step = turn if step is None else step + turn
        return step, None


def _turn(slope: Tensor, step: Tensor) -> Tensor:
    """How the slope changes along a step: as softmax does on the rivals, not on the target."""
    q = slope.clamp_min(0)
    return q * (step - (q * step).sum(dim=1, keepdim=True))


class Crowd(NamedTuple):
    """What a loss may ask of the rivals; one number per example each, measured from f*.

    The strongest rival's logit f* counts as a constant here.  It cancels in every difference of
    two of these, and in its gradient; a loss depends on such differences alone.
    """

    f_y: Float[Tensor, " n"]  # the target's logit
    lse: Float[Tensor, " n"]  # LSE(rivals), the bias of Eq. (7)
    weighted: Float[Tensor, " n"] | None  # E_q[f], the mean weighted by q = softmax(rivals)
    mean: Float[Tensor, " n"]  # E_u[f], the plain mean
    count: int  # r, how many rivals there are


def crowd(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"], weighted: bool = True) -> Crowd:
    """Read the logits once, with one exponential, for a loss that asks for more than the odds.

    Without ``weighted`` that mean is left out, and is None.

    Raises:
        ValueError, TypeError: as :func:`split`.

    >>> seen = crowd(torch.tensor([[5., 6., 7.]]), torch.tensor([1]))
    >>> seen.f_y, seen.lse, seen.weighted, seen.mean, seen.count
    (tensor([-1.]), tensor([0.1269]), tensor([-0.2384]), tensor([-1.]), 2)
    """
    if plain_form_serves():
        return Crowd(*_plain_crowd(logits, target, weighted), logits.shape[1] - 1)
    check_batch(logits, target)
    try:
        seen = _Crowd.apply(widen(logits), target.long(), weighted)
        return Crowd(*seen, logits.shape[1] - 1)
    except (IndexError, RuntimeError) as error:
        raise _outside(target, logits.shape[1]) or error from None


def _plain_crowd(logits: Tensor, target: Tensor, weighted: bool) -> tuple[Tensor | None, ...]:
    f_y, rivals = split(logits, target)
    top = rivals.amax(dim=1, keepdim=True).detach()
    near = rivals - top
    loud = (near.softmax(dim=1) * near).sum(dim=1) if weighted else None
    return f_y - top.squeeze(1), near.logsumexp(dim=1), loud, near.mean(dim=1)


class _Crowd(torch.autograd.Function):
    """Keeps the logits and the rivals' probabilities: no more than cross-entropy at its peak."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, weighted: bool) -> tuple[Tensor | None, ...]:
        y, rivals = target[:, None], logits.shape[1] - 1
        near = logits.scatter(1, y, -math.inf)
        q = near.softmax(dim=1)
        top = near.amax(dim=1, keepdim=True)
        near -= top
        near.scatter_(1, y, 0)
        mean = near.sum(dim=1) / rivals
        # In place: the table of the terms is not wanted.
        loud = near.mul_(q).sum(dim=1) if weighted else None
        # Not the shifted logits, which are soon made again: a second derivative needs these.
        ctx.save_for_backward(logits, target, q, top, loud)
        return (
            (logits.gather(1, y) - top).squeeze(1),
            -q.amax(dim=1).log(),
            loud,
            mean,
        )

    @staticmethod
    def backward(ctx, *by: Tensor | None) -> tuple:
        logits, target, q, top, loud = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate this again
            parts = (0, 1, 3) if loud is None else (0, 1, 2, 3)

            def plain(z: Tensor) -> list[Tensor]:
                every = _plain_crowd(z, target, loud is not None)
                return [every[part] for part in parts]

            return torch.func.vjp(plain, logits)[1]([by[part] for part in parts])[0], None, None
        by_f_y, by_lse, by_loud, by_mean = (b if b is None else b[:, None] for b in by)
        alike = by_mean / (logits.shape[1] - 1)
        if loud is None:
            step = torch.addcmul(alike, by_lse, q)
        else:
            # With the zeros it has a row for each direction, where a batch of these comes in.
            step = logits - (top + torch.zeros_like(by_loud))
            step.sub_(loud[:, None] - 1).mul_(by_loud).add_(by_lse)
            step.mul_(q).add_(alike)
        return step.scatter_(1, target[:, None], by_f_y), None, None
