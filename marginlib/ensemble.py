"""Ensembles: several classifiers on one feature vector, told to differ (chapter 8).

Train V classifiers on the same features, each with the loss of chapter 3, and charge them
for resembling one another.  For inference average their weights: one linear layer is left.

    loss = sum_v [ soft margin loss_v + diversity * sum_{u != v} HSIC(W_v, W_u) ]    Eq. (8)
    HSIC(W, U) = tr(K H K' H) = || W' H U ||^2,     K = W W', H = I - 11'/c          Eq. (6)

Derived   chapters/08_ensemble.ipynb, marginlib/symbolic/ensemble.py
Source    X. Wang et al., "Ensemble Soft-Margin Softmax Loss for Image Classification",
          IJCAI 2018, section 3.2.  Equation numbers are the paper's.  Class vectors are rows
          here, (c, d), and columns there.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from .rivals import check_features, check_number, widen, without_autocast
from .softmax import softmax_loss

Logits = Float[Tensor, "n c"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]


def hsic(first: Float[Tensor, "c d"], second: Float[Tensor, "c k"]) -> Float[Tensor, ""]:
    """How far two classifiers arrange the classes alike.  Eq. (5) without (c - 1)^-2, and (6).

    Printed: ``tr(K H K' H)`` of the Gram matrices ``K`` and ``K'`` with the centring matrix
    ``H``.  Computed: the mean class vector is taken away from each classifier, and the
    squared entries of ``first' second`` (d, k) are added, or those of the two Gram matrices
    (c, c) multiplied and added: whichever takes fewer operations.

    It is zero just when every feature weight of one, seen over the classes, is uncorrelated
    with every one of the other: a *linear* independence (chapter 8).  Turning either
    classifier in feature space changes nothing.  Scaling by a and b multiplies it by
    a^2 b^2.  It is never negative, up to round-off.

    Args:
        first: one class vector per row.
        second: the same classes; it may have another number of features.

    Returns:
        A scalar; float32 for half precision.

    Raises:
        ValueError: unless both are matrices with the same number of rows.
        TypeError: if one of them is not floating point.

    >>> hsic(torch.tensor([[-1.], [0.], [1.]]), torch.tensor([[1.], [2.], [3.]]))
    tensor(4.)
    >>> hsic(torch.tensor([[-1.], [0.], [1.]]), torch.tensor([[1.], [0.], [1.]]))
    tensor(0.)
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise ValueError(
            "expected two classifiers of the same classes, (c, d) and (c, k); "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    for classifier in (first, second):
        if not classifier.is_floating_point():
            raise TypeError(f"a classifier must be floating point; got {classifier.dtype}")
    # Weights are few beside features, and their fourth powers leave half precision at once.
    with without_autocast(first):
        w, u = (widen(x) - widen(x).mean(dim=0) for x in (first, second))
        if len(w) * (w.shape[1] + u.shape[1]) < w.shape[1] * u.shape[1]:
            return ((w @ w.mT) * (u @ u.mT)).sum()
        return (w.mT @ u).square().sum()


def unit_vectors(weights: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Scale every class vector to length 1.  One of zeros stays so, and has no gradient.

    >>> unit_vectors(torch.tensor([[3., 4.], [0., 0.]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    w = widen(weights)
    # By its largest entry first, so that no square overflows or vanishes.  The result does not
    # hang on that scale, so it needs no gradient; an infinite one makes exact zeros.
    largest = w.detach().abs().amax(dim=-1, keepdim=True)
    none = largest < torch.finfo(w.dtype).tiny
    w = w / torch.where(none, math.inf, largest)
    return w / torch.where(none, 1.0, w.square().sum(dim=-1, keepdim=True)).sqrt()


def resemblance(weights: Float[Tensor, "v c d"]) -> Float[Tensor, ""]:
    """Add HSIC over all ordered pairs of classifiers, class vectors at unit length.  Eq. (6).

    Each pair counts twice, as printed in Eq. (7) and (8).  At most v (v - 1) c^2; a single
    classifier has none.  A long vector added to all of a classifier's class vectors lowers
    it and changes no prediction (chapter 8).

    >>> resemblance(torch.tensor([[[2.], [-3.]], [[-1.], [1.]]]))
    tensor(8.)
    """
    check_classifiers(weights)
    v, c, d = weights.shape
    unit = unit_vectors(weights)
    pairs = torch.zeros((), dtype=unit.dtype, device=unit.device)
    if 2 * c < (v - 1) * d:
        # A Gram matrix for each takes fewer operations than a product for each pair.
        with without_autocast(unit):
            w = unit - unit.mean(dim=1, keepdim=True)
            grams = w @ w.mT
        before = torch.zeros_like(grams[0])
        for one, another in pairwise(grams):
            before = before + one
            pairs = pairs + (before * another).sum()
        return 2 * pairs
    # HSIC adds over feature columns, so a classifier meets all that stand before it at once.
    beside = unit.transpose(0, 1).flatten(1)
    for end in range(d, v * d, d):
        pairs = pairs + hsic(beside[:, end : end + d], beside[:, :end])
    return 2 * pairs


def ensemble_loss(
    features: Float[Tensor, "n d"],
    weights: Float[Tensor, "v c d"],
    target: Labels,
    margin: float = 0.0,
    diversity: float = 0.1,
    base: Callable[[Logits, Labels], PerExample] = softmax_loss,
) -> PerExample:
    """The losses of V classifiers on the same features, summed, and their resemblance.  Eq. (8).

    Printed, and computed: ``sum_v base_v + diversity * sum_v sum_{u != v} HSIC(W_v, W_u)``,
    with the target's logit lowered by ``margin`` in each ``base_v``.  With no margin it is
    Eq. (7), E-Softmax.  Classifiers that start alike stay alike, with the penalty as without
    it: draw them apart.

    The penalty knows no example.  It is added to each, so that the mean over a batch holds
    it once.

    Args:
        features: one feature vector per example.
        weights: V classifiers of the same classes, without biases.
        target: the true class of each row, 0 <= target < c.
        margin: the paper's m >= 0, in units of the logits; it tries 0.1 to 10.
        diversity: the paper's lambda >= 0.
        base: any loss of logits.  It sees the target's logit already lowered, so with the
            softmax loss each term is the soft-margin loss of Eq. (4).

    Returns:
        One loss per example; float32 for half precision.

    Raises:
        ValueError: as :func:`split`, if shapes do not match, if ``margin`` or ``diversity`` is
            negative or more than one number, or if ``base`` does not return one per example.
        TypeError: as :func:`split`, if features or weights are not floating point, or if
            ``margin`` or ``diversity`` is not a number.

    >>> weights = torch.tensor([[[2., 0.], [0., 2.]], [[2., 0.], [0., 2.]]])
    >>> features, target = torch.tensor([[1., 0.]]), torch.tensor([0])
    >>> ensemble_loss(features, weights, target, diversity=0.0)
    tensor([0.2539])
    >>> ensemble_loss(features, weights, target)  # two of a kind: HSIC is 1, counted twice
    tensor([0.4539])
    """
    check_classifiers(weights)
    check_features(features, weights[0], target)
    for name, value in (("margin", margin), ("diversity", diversity)):
        check_number(name, value)
        if isinstance(value, Tensor) and value.ndim:
            raise ValueError(f"{name} must be one number; got a tensor {tuple(value.shape)}")
    classes = torch.arange(weights.shape[1], device=weights.device)
    at_target = classes == target[:, None]
    # All members' logits in one product, then one block of columns for each.  A rounded logit is
    # an error of the loss, and the product is float32 under autocast too.
    with without_autocast(weights):
        logits = linear(widen(features), widen(weights).flatten(0, 1))
    losses = sum(
        base(torch.where(at_target, own - margin, own), target)
        for own in logits.split(len(classes), dim=1)
    )
    if losses.shape != target.shape:
        raise ValueError(
            f"expected a base loss that returns one number per example, {tuple(target.shape)}; "
            f"it returned {tuple(losses.shape)}"
        )
    return losses + diversity * resemblance(weights)


def average_classifiers(weights: Float[Tensor, "v c d"]) -> Float[Tensor, "c d"]:
    """The mean of V classifiers: one classifier, for inference.  Source 001, section 4.3.

    Its logits are the mean of the members' logits.  Its probabilities are not the mean of
    theirs, and it need not agree with their vote (chapter 8).

    Raises:
        ValueError, TypeError: unless ``weights`` is a floating (v, c, d) with v >= 1, c >= 2.

    >>> average_classifiers(torch.tensor([[[1., 0.], [0., 1.]], [[3., 0.], [0., 0.]]]))
    tensor([[2.0000, 0.0000],
            [0.0000, 0.5000]])
    """
    check_classifiers(weights)
    return weights.mean(dim=0)


def check_classifiers(weights: Tensor) -> None:
    """Raise unless ``weights`` is a float (v, c, d) with v >= 1 and c >= 2."""
    if weights.ndim != 3 or weights.shape[0] < 1 or weights.shape[1] < 2:
        raise ValueError(
            "expected weights (v, c, d) of v >= 1 classifiers and c >= 2 classes; "
            f"got {tuple(weights.shape)}"
        )
    if not weights.is_floating_point():
        raise TypeError(f"weights must be floating point; got {weights.dtype}")
