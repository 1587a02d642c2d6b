"""Gaussian mixture loss: let minus the distance to a mean be the logit (chapter 6).

Give every class a mean and suppose that its features are Gaussian around it.  Bayes' rule
then makes the logits, a margin asks the features to come closer to their own mean than
being right needs, and the likelihood asks them to be Gaussian at all.

    d_c  = 1/2 sum_j (x_j - mu_cj)^2 / v_cj          half the squared Mahalanobis distance
    f_c  = log p(c) - 1/2 sum_j log v_cj - d_c
    loss = softplus( LSE(rivals) - f_y + m ),        m = margin + alpha d_y

With v = 1 the term |x|^2 / 2 is common to all classes, and the rest of f_c is linear in x:
one matrix product, and no (n, c, d) tensor.

Derived   chapters/06_gaussian_mixture.ipynb, marginlib/symbolic/gaussian_mixture.py
Source    W. Wan et al., "Rethinking Feature Distribution for Loss Functions in Image
          Classification", CVPR 2018, as told on K. Kim's slides (2019).
"""

import math

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
Means = Float[Tensor, "c d"]
Variances = Float[Tensor, "c d"]
Priors = Float[Tensor, " c"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]


def gaussian_mixture_loss(
    features: Features,
    means: Means,
    target: Labels,
    variances: Variances | None = None,
    priors: Priors | None = None,
    alpha: float | Float[Tensor, ""] = 0.0,
    margin: float | Float[Tensor, ""] | Float[Tensor, " n"] = 0.0,
) -> PerExample:
    """The classification loss of a Gaussian mixture, with a margin: -log p(y | x).

    Printed: the target's term of Bayes' rule, in numerator and denominator, is multiplied
    by e^-m.  Computed: :func:`soft_margin_loss` of :func:`gaussian_logits` with the margin
    of :func:`gaussian_margin`; both margins of the source may be asked for at once.

    The likelihood term of the source is :func:`gaussian_nll`: add it with a weight.

    Args:
        features: one feature vector per example.
        means: one mean per class, c >= 2; trained as a classifier's weight is.
        target: the true class of each row, 0 <= target < c.
        variances: the diagonal of each class's covariance, (c, d), positive; None is the
            identity.
        priors: a positive weight per class, (c,); only their ratios count.  None: all equal.
        alpha: the margin per unit of the target's distance, not negative.
        margin: the constant margin m, in units of the logits: a number, or one per example.

    Returns:
        One loss per example; float32 for half-precision features.

    Raises:
        ValueError: if shapes do not match, if c < 2, if ``alpha`` is negative, if a number
            is not finite, or, on the CPU and outside ``torch.compile``, if a label lies
            outside 0..c-1 or a variance or prior is not positive.
        TypeError: if a tensor or number is of the wrong kind.

    >>> means, x = torch.tensor([[0., 0.], [4., 0.]]), torch.tensor([[1., 0.]])
    >>> y = torch.tensor([0])
    >>> gaussian_mixture_loss(x, means, y), gaussian_mixture_loss(x, means, y, alpha=1.0)
    (tensor([0.0181]), tensor([0.0298]))
    """
    _check(features, means, target, variances, priors)
    check_number("alpha", alpha)
    if isinstance(alpha, Tensor) or alpha > 0:
        margin = margin + alpha * _target_distance(features, means, target, variances)
    scores, _ = _scores(features, means, variances, priors)
    return soft_margin_loss(scores, target, margin)


def gaussian_nll(
    features: Features, means: Means, target: Labels, variances: Variances | None = None
) -> PerExample:
    """Minus the log-likelihood of a feature under its own class, -log N(x; mu_y, v_y), in nats.

    Computed row by row from the difference x - mu_y,

        d_y + 1/2 sum_j log v_yj + d/2 log 2 pi,

    so it keeps its digits however far from the origin the features lie.  The source sums it
    over the batch; here each example has its own.

    Args:
        features: one feature vector per example.
        means: one mean per class.
        target: the true class of each row.
        variances: as in :func:`gaussian_mixture_loss`.

    Raises:
        ValueError, TypeError: as :func:`gaussian_mixture_loss`.

    >>> gaussian_nll(torch.tensor([[1., 0.]]), torch.zeros(2, 2), torch.tensor([0]))
    tensor([2.3379])
    """
    _check(features, means, target, variances)
    distance = _target_distance(features, means, target, variances)
    if variances is not None:
        distance = distance + 0.5 * target_rows(widen(variances).log().sum(dim=1), target)
    return distance + 0.5 * features.shape[1] * math.log(2 * math.pi)


def center_loss(features: Features, centers: Float[Tensor, "c d"], target: Labels) -> PerExample:
    """Half the squared distance of a feature from its class's centre.

    It is :func:`gaussian_nll` with unit variances, less d/2 log 2 pi (the source's lemma).

    Args:
        features: one feature vector per example.
        centers: one centre per class.
        target: the true class of each row.

    Raises:
        ValueError, TypeError: as :func:`gaussian_mixture_loss`.

    >>> center_loss(torch.tensor([[3., 4.]]), torch.zeros(2, 2), torch.tensor([1]))
    tensor([12.5000])
    """
    _check(features, centers, target)
    return _target_distance(features, centers, target, None)


def gaussian_logits(
    features: Features,
    means: Means,
    variances: Variances | None = None,
    priors: Priors | None = None,
) -> Float[Tensor, "n c"]:
    """The logits of a Gaussian mixture: ``log p(c) - 1/2 log |Sigma_c| - d_c``, no margin.

    Their softmax is the posterior.  Their log-sum-exp, less d/2 log 2 pi, is the
    log-likelihood log p(x), if the priors sum to one.

    They come from one matrix product (two with variances), so a distance that is small
    beside the means' spread keeps few digits; :func:`gaussian_nll` keeps them all.

    Args:
        features: one feature vector per example.
        means: one mean per class, c >= 2.
        variances: as in :func:`gaussian_mixture_loss`.
        priors: as in :func:`gaussian_mixture_loss`; None adds nothing, as if all were 1.

    Raises:
        ValueError, TypeError: as :func:`gaussian_mixture_loss`.

    >>> means = torch.tensor([[0., 0.], [4., 0.]])
    >>> gaussian_logits(torch.tensor([[1., 0.]]), means)
    tensor([[-0.5000, -4.5000]])
    """
    nobody = features.new_zeros(features.shape[:1], dtype=torch.long)
    _check(features, means, nobody, variances, priors)
    scores, x = _scores(features, means, variances, priors)
    return scores if variances is not None else scores - 0.5 * x.square().sum(1, keepdim=True)


def gaussian_margin(
    features: Features,
    means: Means,
    target: Labels,
    variances: Variances | None = None,
    alpha: float | Float[Tensor, ""] = 0.0,
    margin: float | Float[Tensor, ""] | Float[Tensor, " n"] = 0.0,
) -> PerExample:
    """The margin asked of each example: margin + alpha d_y.

    The distance is computed row by row, so it is exact also where the logits' is not.

    Args:
        features: one feature vector per example.
        means: one mean per class.
        target: the true class of each row.
        variances: as in :func:`gaussian_mixture_loss`.
        alpha: as in :func:`gaussian_mixture_loss`.
        margin: as in :func:`gaussian_mixture_loss`.

    Raises:
        ValueError, TypeError: as :func:`gaussian_mixture_loss`.

    >>> x, y = torch.tensor([[3., 4.]]), torch.tensor([1])
    >>> gaussian_margin(x, torch.zeros(2, 2), y, alpha=0.1, margin=2.0)
    tensor([3.2500])
    """
    _check(features, means, target, variances)
    check_number("alpha", alpha)
    return margin + alpha * _target_distance(features, means, target, variances)


class _Affine(torch.autograd.Function):
    """x . mu_c - |mu_c|^2 / 2, the part of -d_c that depends on the class.

    Autograd alone would keep two further (c, d) tensors for the squares.
    """

    @staticmethod
    def forward(ctx, x: Tensor, means: Tensor) -> Tensor:
        ctx.save_for_backward(x, means)
        half_square = 0.5 * torch.linalg.vector_norm(means, dim=1).square()
        return torch.addmm(half_square, x, means.mT, beta=-1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, means = ctx.saved_tensors
        with without_autocast(x):
            to_means = grad.mT @ x
            return grad @ means, to_means.addcmul_(grad.sum(0)[:, None], means, value=-1)


def _scores(
    features: Tensor, means: Tensor, variances: Tensor | None, priors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The logits up to a number common to all classes of a row; and the centred features."""
    # Measured from the mean of the means, a constant: the distances do not depend on it, and
    # far from the origin the squares would drown them.
    origin = widen(means).detach().mean(dim=0)
    x, mu = widen(features) - origin, widen(means) - origin
    # A distance needs more digits than half precision has: 256 + 1 = 256 in bfloat16.
    with without_autocast(x):
        if variances is not None:
            v = widen(variances)
            offset = -0.5 * (mu.square() / v + v.log()).sum(dim=1)
            scores = torch.addmm(offset, x, (mu / v).mT)
            scores = torch.addmm(scores, x.square(), v.reciprocal().mT, alpha=-0.5)
        elif plain_form_serves():
            scores = torch.addmm(-0.5 * mu.square().sum(dim=1), x, mu.mT)
        else:
            scores = _Affine.apply(x, mu)
    return (scores if priors is None else scores + widen(priors).log()), x


def _target_distance(
    features: Tensor, means: Tensor, target: Tensor, variances: Tensor | None
) -> Tensor:
    """d_y, half the squared Mahalanobis distance from the target's mean."""
    square = (widen(features) - widen(target_rows(means, target))).square()
    if variances is not None:
        square = square / widen(target_rows(variances, target))
    return 0.5 * square.sum(dim=1)


def _check(
    features: Tensor,
    means: Tensor,
    target: Tensor,
    variances: Tensor | None = None,
    priors: Tensor | None = None,
) -> None:
    check_features(features, means, target)
    for name, value, shape in (
        ("variances", variances, means.shape),
        ("priors", priors, means.shape[:1]),
    ):
        if value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating-point tensor; got {kind}")
        if value.shape != shape:
            raise ValueError(f"expected {name} {tuple(shape)}; got {tuple(value.shape)}")
        if value.device.type == "cpu" and not torch.compiler.is_compiling():
            least = value.detach().amin()
            if not least > 0:
                raise ValueError(f"{name} must be positive; the least is {least.item():g}")
