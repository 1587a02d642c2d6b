"""Perturbed softmax losses: disturb the logits, the crowd or the features (chapter 9).

A network that has learnt its images by heart hears nothing more from the softmax loss.  So
disturb what the loss sees, by a formula, by chance or by an adversary; what the disturbance
does to the odds o = (1 - p_y) / p_y says what the network is asked for.

    SigSoftmax        o  ->  o E_q[sigmoid f] / sigmoid f_y
    Virtual Softmax   o  ->  o + e^v          v = |w_y||x| - w_y.x >= 0, the shortfall
    Noisy Softmax     o  ->  o e^(strength |noise| v)
    a dropped half    o  ->  that of the other half, doubled

Heads call these: a linear head with ``loss=sigsoftmax_loss``; without a bias
``virtual_softmax_loss`` and, in training only, ``noisy_softmax_loss``; a dropout head gives
its base loss the logits of torch's ``dropout(features, rate)`` or of
``adversarial_dropout(features, weight, bias, target, rate)``, in training only.

Derived   chapters/09_perturbed.ipynb, marginlib/symbolic/perturbed.py
Source    T. Kobayashi, "Group Softmax Loss with Discriminative Feature Grouping", WACV 2021,
          sections 3.2 and 4.1, compares these methods in its Table 2.  It does not print their
          formulas: those are from the papers that each function names.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from .rivals import (
    check_batch,
    check_features,
    check_number,
    target_rows,
    widen,
    without_autocast,
)
from .soft_margin import soft_margin_loss
from .softmax import softmax_loss

Logits = Float[Tensor, "n c"]
Features = Float[Tensor, "n d"]
Weight = Float[Tensor, "c d"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]


def sigsoftmax_logits(logits: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return f + log sigmoid(f): the logits whose softmax is SigSoftmax.

    A classifier trained by :func:`sigsoftmax_loss` means *their* softmax as its probabilities.
    The order of the classes is that of ``logits``, always.

    >>> sigsoftmax_logits(torch.tensor([[200., 0., -200.]]))
    tensor([[ 200.0000,   -0.6931, -400.0000]])
    """
    f = widen(logits)
    # Not log(sigmoid(f)): below -104 that is log(0) in float32.
    return f + logsigmoid(f)


def sigsoftmax_loss(logits: Logits, target: Labels) -> PerExample:
    """The softmax loss with every exp(f) multiplied by sigmoid(f).  Kanai et al. 2018.

    Printed: ``-log( exp(f_y) sigmoid(f_y) / sum_c exp(f_c) sigmoid(f_c) )``.  Computed: the
    softmax loss of ``f + log sigmoid(f)``.  Unlike the other losses of this book it hears a
    shift common to all logits: far below zero it is the softmax loss of ``2 f``.

    Args:
        logits: one row of class scores per example; any finite values.
        target: the true class of each row, 0 <= target < c.

    Returns:
        One loss per example; float32 for half-precision logits.

    Raises:
        ValueError, TypeError: as :func:`split`.

    >>> logits = torch.tensor([[2., 0., 0.], [-98., -100., -100.]])
    >>> sigsoftmax_loss(logits, torch.tensor([0, 0]))
    tensor([0.1429, 0.0360])
    """
    check_batch(logits, target)
    return softmax_loss(sigsoftmax_logits(logits), target)


def shortfall(features: Features, weight: Weight, target: Labels) -> PerExample:
    """What turning to w_y would add to f_y: ``v = |w_y||x| - w_y.x = |w_y||x| (1 - cos theta)``.

    Never negative, and zero just when the feature points along its class vector, or when one
    of the two is the zero vector; the slope there is zero.  Computed from the n target entries.

    Raises:
        ValueError: unless features (n, d), weight (c, d), c >= 2, and target (n,) fit, or, on
            the CPU, if a label lies outside 0..c-1.
        TypeError: if features or weight are not floating point, or target is not integer.

    >>> features = torch.tensor([[3., 4.], [0., 5.], [0., 0.]])
    >>> weight = torch.tensor([[0., 2.], [1., 0.]])
    >>> shortfall(features, weight, torch.tensor([0, 0, 0]))
    tensor([2., 0., 0.])
    """
    check_features(features, weight, target)
    x, w_y = widen(features), widen(target_rows(weight, target))
    # Rounding may put the product above the lengths.  There the slope is zero anyway.  Not
    # clamp: its slope at the bound itself is 0 or 1, depending on the version of torch.
    return (_length(x) * _length(w_y) - (x * w_y).sum(dim=1)).relu()


def _logits(features: Features, weight: Weight, bias: Float[Tensor, " c"] | None = None) -> Logits:
    """A linear classifier's logits, in float32 at least."""
    with without_autocast(features):
        return linear(widen(features), widen(weight), None if bias is None else widen(bias))


def _length(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Each row's Euclidean length; the zero vector's has the gradient zero."""
    # In units of the largest entry, so that no square overflows or vanishes.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    unit = torch.where(largest > 0, largest, 1)
    squared = (x / unit).square().sum(dim=1)
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt() * unit.squeeze(1))


def virtual_softmax_loss(features: Features, weight: Weight, target: Labels) -> PerExample:
    """The softmax loss with one more rival, whose logit is ``|w_y||x|``.  Chen et al. 2018.

    The virtual rival's class vector has the target's length and always points at the example,
    so no target can pass it.  Printed: ``exp(|w_y||x|)`` joins the sum over the classes.
    Computed: ``log( e^l + e^v )`` with the softmax loss l and the ``shortfall`` v; the same.
    Since l > 0 and v >= 0 the loss stays above log 2.

    Args:
        features: one feature vector per example.
        weight: one class vector per row; no offsets.
        target: the true class of each row, 0 <= target < c.

    Returns:
        One loss per example; float32 for half-precision features.  A zero feature vector has
        the loss log(c + 1).

    Raises:
        ValueError, TypeError: as ``shortfall``.

    >>> features, weight = torch.tensor([[9., 0.], [0., 0.]]), torch.tensor([[9., 0.], [0., 9.]])
    >>> virtual_softmax_loss(features, weight, torch.tensor([0, 0]))
    tensor([0.6931, 1.0986])
    """
    gap = shortfall(features, weight, target)
    loss = softmax_loss(_logits(features, weight), target)
    # Not logaddexp: its second derivative is NaN where the two lie far apart.
    return torch.stack([loss, gap]).logsumexp(dim=0)


def noisy_margin(
    features: Features,
    weight: Weight,
    target: Labels,
    noise: PerExample | None = None,
    strength: float = 0.1,
) -> PerExample:
    """The margin of Noisy Softmax: ``strength * |noise| * shortfall``, never negative.

    Args:
        features: one feature vector per example.
        weight: one class vector per row; no offsets.
        target: the true class of each row, 0 <= target < c.
        noise: one number per example, (n,); None draws it from the standard normal.
        strength: the paper's alpha.

    Raises:
        ValueError: as ``shortfall``, if ``noise`` is not (n,), or if ``strength`` is
            negative.
        TypeError: as ``shortfall``, if ``noise`` is not a tensor, or if ``strength`` is
            not a number.

    >>> features, weight = torch.tensor([[3., 4.]]), torch.tensor([[0., 2.], [1., 0.]])
    >>> noisy_margin(features, weight, torch.tensor([0]), noise=torch.tensor([-1.5]))
    tensor([0.3000])
    """
    check_number("strength", strength)
    gap = shortfall(features, weight, target)
    if noise is None:
        noise = torch.randn_like(gap)
    elif not isinstance(noise, Tensor):
        raise TypeError(f"noise must be a tensor (n,); got {type(noise).__name__}")
    elif noise.shape != target.shape:
        raise ValueError(
            f"expected one noise per example {tuple(target.shape)}; got noise {tuple(noise.shape)}"
        )
    return strength * noise.abs().to(gap.dtype) * gap


def noisy_softmax_loss(
    features: Features,
    weight: Weight,
    target: Labels,
    noise: PerExample | None = None,
    strength: float = 0.1,
) -> PerExample:
    """The softmax loss after noise has lowered the target's logit.  Chen, Deng and Du 2017.

    Printed: ``w_y.x - alpha |w_y||x| (1 - cos theta) |xi|`` takes the place of ``w_y.x``.
    Computed: the soft-margin loss with :func:`noisy_margin`.  For training; a network is used
    and measured without the noise.

    Args:
        features: one feature vector per example.
        weight: one class vector per row; no offsets.
        target: the true class of each row, 0 <= target < c.
        noise: the paper's xi, one number per example; None draws it from the standard normal.
        strength: the paper's alpha; 0 gives the softmax loss.

    Returns:
        One loss per example; float32 for half-precision features.

    Raises:
        ValueError, TypeError: as :func:`noisy_margin`.

    >>> features, weight = torch.tensor([[3., 4.]]), torch.tensor([[0., 2.], [1., 0.]])
    >>> noisy_softmax_loss(features, weight, torch.tensor([0]), noise=torch.tensor([-1.5]))
    tensor([0.0091])
    """
    margin = noisy_margin(features, weight, target, noise, strength)
    return soft_margin_loss(_logits(features, weight), target, margin)


def adversarial_dropout(
    features: Features,
    weight: Weight,
    bias: Float[Tensor, " c"] | None,
    target: Labels,
    rate: float = 0.5,
) -> Features:
    """Drop the features that the softmax loss would miss most; scale the others up.

    Dropping feature j takes ``W_cj x_j`` from every logit.  To first order the loss then rises
    by minus x_j times its gradient in x_j, which is

        (1 - p_y) x_j (W_yj - E_q[W_cj]),     q = softmax(rivals).

    The factor ``1 - p_y`` is common to all features and is left out: the order is defined for
    an example that is classified beyond doubt, too.  Exactly ``round(rate * d)`` features
    go, of equals the first; the rest is multiplied by ``d / (d - dropped)``.

    Park et al. 2018 start from a random mask and turn over the few entries that tell most.
    Here there is no random start, so that the mask is a function of the example.

    Args:
        features: one feature vector per example.
        weight: one class vector per row.
        bias: one offset per class, or None.
        target: the true class of each row, 0 <= target < c.
        rate: the share of features to drop.  At least one feature must stay.

    Returns:
        The features, with the dropped ones zero; of the same dtype.  Gradients pass through
        what is kept; which features these are counts as a constant.

    Raises:
        ValueError: as ``shortfall``, if ``bias`` is not (c,), or if no feature would stay.
        TypeError: as ``shortfall``, or if ``rate`` is not a number.

    >>> features = torch.tensor([[1., 1., 1., 1.]])
    >>> weight = torch.tensor([[3., 0., 1., 0.], [0., 0., 0., 2.]])
    >>> adversarial_dropout(features, weight, None, torch.tensor([0]))
    tensor([[0., 2., 0., 2.]])
    """
    check_features(features, weight, target)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias ({len(weight)},) or None; got {tuple(bias.shape)}")
    if isinstance(rate, Tensor):
        raise TypeError("rate must be a number, as it sets how many features go; got a tensor")
    check_number("rate", rate, most=1.0)
    d = features.shape[1]
    dropped = round(rate * d)
    if dropped == d:
        raise ValueError(f"one feature must stay: rate {rate} drops {dropped} of {d}")
    with torch.no_grad():
        w_y, logits = widen(target_rows(weight, target)), _logits(features, weight, bias)
        # The target's place gets the share 0, so that q is the rivals' own softmax.
        q = logits.scatter(1, target.long()[:, None], -math.inf).softmax(dim=1)
        with without_autocast(q):
            missed = widen(features) * (w_y - q @ widen(weight))
        order = missed.argsort(dim=1, descending=True, stable=True)
        kept = torch.ones_like(features).scatter(1, order[:, :dropped], 0)
    return features * kept * (d / (d - dropped))
