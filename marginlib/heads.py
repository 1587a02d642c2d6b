"""Heads: what a user puts at the end of a network.

A head owns the classifier's parameters and knows its loss.  ``head(features, target)`` is
the training loss; ``head.logits(features)`` are the logits for inference, which never carry
a margin; ``head.margin(features, target)``, where there is one, is what training takes from
the target's logit.  Where a head's logits are linear, its ``weight`` (c, d) and ``bias`` (c,)
are those of :class:`torch.nn.Linear`, and either's ``state_dict`` loads into the other.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from .angular import (
    a_softmax_logits,
    a_softmax_loss,
    a_softmax_margin,
    arcface_loss,
    arcface_margin,
    cosface_loss,
    cosine_logits,
    l_softmax_loss,
    l_softmax_margin,
    normface_loss,
)
from .ensemble import average_classifiers, ensemble_loss
from .gaussian_mixture import (
    center_loss,
    gaussian_logits,
    gaussian_margin,
    gaussian_mixture_loss,
    gaussian_nll,
)
from .group import discriminative_groups, group_loss
from .perturbed import adversarial_dropout, noisy_softmax_loss, virtual_softmax_loss
from .rivals import check_features, check_number
from .softmax import softmax_loss

REDUCTIONS = ("mean", "sum", "none")

Features = Float[Tensor, "n d"]
Labels = Int[Tensor, " n"]
Logits = Float[Tensor, "n c"]
PerExample = Float[Tensor, " n"]
Loss = Callable[[Logits, Labels], PerExample]


def reduced(
    losses: Float[Tensor, " n"],
    target: Int[Tensor, " n"],
    kept: Tensor,
    reduction: str,
    class_weight: Float[Tensor, " c"] | None,
) -> Float[Tensor, "..."]:
    """Weight the kept rows and reduce, as :class:`torch.nn.CrossEntropyLoss` does.

    The mean divides by the summed weight of the kept rows; with no kept row it is NaN.
    """
    weight = kept.to(losses.dtype)
    if class_weight is not None:
        weight = weight * class_weight.to(losses.dtype)[target]
    # where, not a product alone: an ignored row's loss may be inf, and inf * 0 is NaN.
    losses = torch.where(kept, losses, 0) * weight
    if reduction == "none":
        return losses
    return losses.sum() / weight.sum() if reduction == "mean" else losses.sum()


class Head(nn.Module):
    """What every head shares: CrossEntropyLoss's habits, and one classifier.

    A head of your own is a subclass with ``losses(features, target)``, one number per
    example, and with ``logits(features)`` where those are not linear.

    Args:
        in_features: d, the length of a feature vector.
        num_classes: c, at least 2.
        bias: whether the classifier has offsets.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        class_weight: one weight per class, (c,), as CrossEntropyLoss's ``weight``.
        ignore_index: rows with this label count for nothing.

    Raises:
        ValueError: for no features, fewer than two classes, an unknown reduction, a class
            weight that is not (c,), or, when called, for shapes that do not match and for a
            loss that is not one number per example.
        TypeError: if ``class_weight`` is not a tensor and, when called, for features that are
            not floating point or a target that is not integer.
    """

    # The attributes that a printed head shows.
    told: tuple[str, ...] = ()

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        reduction: str = "mean",
        class_weight: Float[Tensor, " c"] | None = None,
        ignore_index: int = -100,
    ):
        super().__init__()
        if in_features < 1:
            raise ValueError(f"expected 1 feature or more; got {in_features}")
        if num_classes < 2:
            raise ValueError(
                f"a margin needs a rival: expected 2 classes or more; got {num_classes}"
            )
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
        if class_weight is not None:
            if not isinstance(class_weight, Tensor):
                kind = type(class_weight).__name__
                raise TypeError(f"class_weight must be a tensor ({num_classes},); got {kind}")
            if class_weight.shape != (num_classes,):
                raise ValueError(
                    f"expected class_weight ({num_classes},); got {tuple(class_weight.shape)}"
                )
        self.in_features, self.num_classes = in_features, num_classes
        self.reduction = reduction
        self.ignore_index = ignore_index
        # Not persistent: the state_dict stays that of nn.Linear.
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.add_parameters()
        self.register_parameter("bias", nn.Parameter(torch.empty(num_classes)) if bias else None)
        self.reset_parameters()

    def add_parameters(self) -> None:
        """Make room for the classifier."""
        self.weight = nn.Parameter(torch.empty(self.num_classes, self.in_features))

    def reset_parameters(self) -> None:
        """Draw all parameters as :class:`torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def logits(self, features: Features) -> Logits:
        """Plain logits, for inference and for measuring accuracy."""
        return linear(features, self.weight, self.bias)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one training loss per example; each label must be a class."""
        raise NotImplementedError(f"{type(self).__name__} has no losses(features, target)")

    def silenced(self, features: Features, kept: Tensor) -> Features:
        """What the loss sees of the features; ``kept`` (n,) is false where a row is ignored."""
        return features

    def forward(self, features: Features, target: Labels) -> Float[Tensor, "..."]:
        """Return the training loss, reduced."""
        # The classifier's shape, whatever its parameters are called; no memory is taken.
        shape = self.num_classes, self.in_features
        check_features(features, features.new_empty(1).expand(shape), target)
        # As int64, or ignore_index would wrap: in uint8, -100 is 156, which may be a class.
        target = target.long()
        kept = target != self.ignore_index
        # An ignored label need not be a class; class 0 stands in and is not counted.
        target = torch.where(kept, target, 0)
        losses = self.losses(self.silenced(features, kept), target)
        if losses.shape != target.shape:
            raise ValueError(
                f"expected a loss that returns one number per example, {tuple(target.shape)}; "
                f"it returned {tuple(losses.shape)}"
            )
        return reduced(losses, target, kept, self.reduction, self.class_weight)

    def extra_repr(self) -> str:
        """Show d, c, what the loss was given, and the reduction when the head is printed."""
        shown = {"in_features": self.in_features, "num_classes": self.num_classes}
        shown |= {name: getattr(self, name) for name in self.told}
        said = [f"{name}={name_of(value)}" for name, value in shown.items()]
        return ", ".join([*said, f"reduction={self.reduction!r}"])


def name_of(value: Any) -> str:
    """A function's name, also of one with fixed parameters; of all else its repr.

    >>> name_of(softmax_loss), name_of(0.5)
    ('softmax_loss', '0.5')
    """
    if not callable(value):
        return repr(value)
    function = getattr(value, "func", value)
    return getattr(function, "__name__", type(function).__name__)


class LinearHead(Head):
    """A linear classifier under any loss of logits.

    Args:
        in_features: d, the length of a feature vector.
        num_classes: c, at least 2.
        loss: any function of logits (n, c) and target (n,) that returns one number per
            example; fix its parameters with :func:`functools.partial`.
        bias: whether the classifier has offsets.

    The options ``reduction``, ``class_weight``, ``ignore_index`` and the errors are those of
    :class:`Head`.

    >>> from functools import partial
    >>> from marginlib import large_margin_loss
    >>> head = LinearHead(512, 100, loss=partial(large_margin_loss, strength=0.5))
    >>> features, target = torch.zeros(8, 512), torch.zeros(8, dtype=torch.long)
    >>> head(features, target).shape, head.logits(features).shape
    (torch.Size([]), torch.Size([8, 100]))
    """

    told = ("loss",)

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss: Loss = softmax_loss,
        *,
        bias: bool = True,
        **options: Any,
    ):
        super().__init__(in_features, num_classes, bias=bias, **options)
        self.loss = loss

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return self.loss(self.logits(features), target)


class LSoftmaxHead(Head):
    """A linear classifier without offsets under :func:`l_softmax_loss` (chapter 5).

    Args:
        margin: the source's m, a number from 1 on; kept as ``head.m``.
        annealing: the mixing lambda; a schedule may set ``head.annealing`` between steps.

    The other arguments and the errors are those of :class:`Head`, without ``bias``.

    >>> head = LSoftmaxHead(512, 100, margin=2)
    >>> features, target = torch.randn(8, 512), torch.arange(8)
    >>> head(features, target).shape, head.margin(features, target).shape
    (torch.Size([]), torch.Size([8]))
    """

    told = ("m", "annealing")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        margin: float = 4,
        annealing: float = 0.0,
        **options: Any,
    ):
        super().__init__(in_features, num_classes, **options)
        self.m, self.annealing = margin, annealing

    def margin(self, features: Features, target: Labels) -> PerExample:
        """What the loss takes from each target's logit, in units of the logits."""
        return l_softmax_margin(features, self.weight, target, self.m, self.annealing)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return l_softmax_loss(features, self.weight, target, self.m, self.annealing)


class ASoftmaxHead(LSoftmaxHead):
    """Class vectors of length one under :func:`a_softmax_loss` (chapter 5).

    Arguments as :class:`LSoftmaxHead`.

    >>> ASoftmaxHead(512, 100, margin=3)
    ASoftmaxHead(in_features=512, num_classes=100, m=3, annealing=0.0, reduction='mean')
    """

    def logits(self, features: Features) -> Logits:
        """|x| cos theta_c, for inference."""
        return a_softmax_logits(features, self.weight)

    def margin(self, features: Features, target: Labels) -> PerExample:
        """What the loss takes from each target's logit, in units of the logits."""
        return a_softmax_margin(features, self.weight, target, self.m, self.annealing)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return a_softmax_loss(features, self.weight, target, self.m, self.annealing)


class NormFaceHead(Head):
    """Scaled cosines under the softmax loss, :func:`normface_loss` (chapter 5).

    Args:
        scale: what the cosines are multiplied by.

    The other arguments and the errors are those of :class:`Head`, without ``bias``.

    >>> head = NormFaceHead(512, 100)
    >>> head.logits(torch.randn(8, 512)).abs().max() <= 16
    tensor(True)
    """

    told = ("scale",)

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 16.0, **options: Any):
        super().__init__(in_features, num_classes, **options)
        self.scale = scale

    def logits(self, features: Features) -> Logits:
        """Scale times cosine, for inference."""
        return cosine_logits(features, self.weight, self.scale)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return normface_loss(features, self.weight, target, self.scale)


class CosFaceHead(NormFaceHead):
    """Scaled cosines, the target's lowered by a margin: :func:`cosface_loss` (chapter 5).

    Args:
        scale: what the cosines are multiplied by.
        margin: what is taken from the target's cosine; kept as ``head.m``.

    The other arguments and the errors are those of :class:`Head`, without ``bias``.

    >>> CosFaceHead(512, 100)(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([])
    """

    told = ("scale", "m")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        margin: float = 0.35,
        **options: Any,
    ):
        super().__init__(in_features, num_classes, scale=scale, **options)
        self.m = margin

    def margin(self, features: Features, target: Labels) -> PerExample:
        """What the loss takes from each target's logit: scale times margin, everywhere."""
        return torch.full(target.shape, self.scale * self.m, device=features.device)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return cosface_loss(features, self.weight, target, self.scale, self.m)


class ArcFaceHead(CosFaceHead):
    """Scaled cosines, the target's angle widened by a margin: :func:`arcface_loss` (chapter 5).

    Args:
        scale: what the cosines are multiplied by.
        margin: what is added to the target's angle, in radians; kept as ``head.m``.

    The other arguments and the errors are those of :class:`Head`, without ``bias``.

    >>> head = ArcFaceHead(512, 100, scale=16.0)
    >>> head.margin(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([8])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        margin: float = 0.5,
        **options: Any,
    ):
        super().__init__(in_features, num_classes, scale=scale, margin=margin, **options)

    def margin(self, features: Features, target: Labels) -> PerExample:
        """What the loss takes from each target's logit, in units of the logits."""
        return arcface_margin(features, self.weight, target, self.scale, self.m)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return arcface_loss(features, self.weight, target, self.scale, self.m)


class GaussianHead(Head):
    """Distances to class means under :func:`gaussian_mixture_loss` and its likelihood (chapter 6).

    The loss is the classification loss with its margins plus ``likelihood`` times
    :func:`gaussian_nll`.  The parameters are ``means`` (c, d), drawn as a linear layer's
    weight is, and with ``variances="diagonal"`` also ``log_variances`` (c, d), all zero at
    first: the identity.

    Args:
        alpha: the margin per unit of the target's distance.  The source lets it grow during
            training; a schedule may set ``head.alpha`` between steps.
        margin: the constant margin; kept as ``head.m``.
        likelihood: the weight of the likelihood, the source's lambda.
        variances: ``None`` for the identity, ``"diagonal"`` to learn them.
        priors: a positive weight per class, (c,), or None for equal ones.

    Raises:
        ValueError, TypeError: as :class:`Head`; if ``likelihood`` is not a number from 0 on;
            for other ``variances``; and, when called, as :func:`gaussian_mixture_loss`.

    >>> head = GaussianHead(512, 100, alpha=0.1)
    >>> features, target = torch.randn(8, 512), torch.arange(8)
    >>> head(features, target).shape, head.margin(features, target).shape
    (torch.Size([]), torch.Size([8]))
    """

    told = ("alpha", "m", "likelihood")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        alpha: float = 0.0,
        margin: float = 0.0,
        likelihood: float = 0.1,
        variances: str | None = None,
        priors: Float[Tensor, " c"] | None = None,
        **options: Any,
    ):
        check_number("likelihood", likelihood)
        if variances not in (None, "diagonal"):
            raise ValueError(f"variances must be None or 'diagonal'; got {variances!r}")
        self.learns_variances = variances == "diagonal"
        super().__init__(in_features, num_classes, **options)
        self.alpha, self.m, self.likelihood = alpha, margin, likelihood
        self.register_buffer("priors", priors)

    def add_parameters(self) -> None:
        """Make room for the means and, if they are learnt, the variances."""
        shape = self.num_classes, self.in_features
        self.means = nn.Parameter(torch.empty(shape))
        log_variances = nn.Parameter(torch.empty(shape)) if self.learns_variances else None
        self.register_parameter("log_variances", log_variances)

    def reset_parameters(self) -> None:
        """Draw the means as :class:`torch.nn.Linear` draws its weight; set all variances to 1."""
        super().reset_parameters()
        if self.log_variances is not None:
            nn.init.zeros_(self.log_variances)

    @property
    def variances(self) -> Float[Tensor, "c d"] | None:
        """Each class's variances, positive; None for the identity."""
        return None if self.log_variances is None else self.log_variances.exp()

    def logits(self, features: Features) -> Logits:
        """Log prior - 1/2 log |Sigma_c| - d_c, without margin; their softmax is the posterior."""
        return gaussian_logits(features, self.means, self.variances, self.priors)

    def margin(self, features: Features, target: Labels) -> PerExample:
        """What the loss takes from each target's logit: margin + alpha d_y."""
        means, variances = self.means, self.variances
        return gaussian_margin(features, means, target, variances, self.alpha, self.m)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example, its share of the likelihood included."""
        means, variances = self.means, self.variances
        losses = gaussian_mixture_loss(
            features, means, target, variances, self.priors, self.alpha, self.m
        )
        return losses + self.likelihood * gaussian_nll(features, means, target, variances)


class CenterHead(LinearHead):
    """A linear classifier whose features are also drawn to class centres (chapter 6).

    The loss is ``loss`` plus ``strength`` times :func:`center_loss`; ``centers`` (c, d) are
    parameters beside the classifier's.

    Args:
        loss: any loss of logits.
        strength: the weight of the centre loss.

    The other arguments and the errors are those of :class:`LinearHead`.

    >>> head = CenterHead(2, 10, strength=0.1)
    >>> sorted(head.state_dict())
    ['bias', 'centers', 'weight']
    """

    told = ("loss", "strength")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss: Loss = softmax_loss,
        *,
        strength: float = 0.01,
        **options: Any,
    ):
        check_number("strength", strength)
        super().__init__(in_features, num_classes, loss, **options)
        self.strength = strength
        # After the classifier's, whose draws are then those of a linear head.
        bound = 1 / math.sqrt(in_features)
        self.centers = nn.Parameter(torch.empty(num_classes, in_features).uniform_(-bound, bound))

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example, its distance from the centre included."""
        losses = super().losses(features, target)
        return losses + self.strength * center_loss(features, self.centers, target)


class GroupHead(Head):
    """A linear classifier trained group by group: :func:`group_loss` (chapter 7).

    Args:
        groups: the numbers of groups to average over.
        kind: 1 or 2, as in :func:`group_loss`.
        base: any loss of logits.
        grouping: how features are parted.
        bias: whether the classifier has offsets.

    The other arguments and the errors are those of :class:`Head` and :func:`group_loss`.

    >>> head = GroupHead(512, 100, groups=(1, 2, 4), kind=2)
    >>> head(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([])
    """

    told = ("groups", "kind", "base")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        groups: Sequence[int] = (1, 2),
        kind: int = 1,
        base: Loss = softmax_loss,
        grouping: Callable[[Tensor, int], Sequence[Tensor]] = discriminative_groups,
        bias: bool = True,
        **options: Any,
    ):
        super().__init__(in_features, num_classes, bias=bias, **options)
        self.groups, self.kind, self.base, self.grouping = groups, kind, base, grouping

    def silenced(self, features: Features, kept: Tensor) -> Features:
        """Zero the ignored rows: the batch shares one grouping, and they have no say in it."""
        return torch.where(kept[:, None], features, 0)

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return group_loss(
            features,
            self.weight,
            self.bias,
            target,
            self.groups,
            self.kind,
            self.base,
            self.grouping,
        )


class EnsembleHead(Head):
    """Several classifiers in training, their mean at inference: :func:`ensemble_loss` (chapter 8).

    The parameters are ``weights`` (v, c, d), each drawn as a linear layer's.  The logits are
    those of the averaged classifier, at the cost of one linear layer.

    Args:
        classifiers: how many, the source's V.
        margin: taken from the target's logit of each; kept as ``head.m``.
        diversity: the price of resemblance, the source's lambda.
        base: any loss of logits.

    The other arguments and the errors are those of :class:`Head`, without ``bias``, and of
    :func:`ensemble_loss`.

    >>> head = EnsembleHead(512, 100, classifiers=3, margin=1.0)
    >>> head.weights.shape, head.logits(torch.randn(8, 512)).shape, head.average().shape
    (torch.Size([3, 100, 512]), torch.Size([8, 100]), torch.Size([100, 512]))
    """

    told = ("classifiers", "m", "diversity", "base")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        classifiers: int = 2,
        margin: float = 0.0,
        diversity: float = 0.1,
        base: Loss = softmax_loss,
        **options: Any,
    ):
        if classifiers < 1:
            raise ValueError(f"expected 1 classifier or more; got {classifiers}")
        self.classifiers = classifiers
        super().__init__(in_features, num_classes, **options)
        self.m, self.diversity, self.base = margin, diversity, base

    def add_parameters(self) -> None:
        """Make room for the classifiers."""
        shape = self.classifiers, self.num_classes, self.in_features
        self.weights = nn.Parameter(torch.empty(shape))

    def average(self) -> Float[Tensor, "c d"]:
        """The mean classifier, a weight for :class:`torch.nn.Linear`."""
        return average_classifiers(self.weights)

    def logits(self, features: Features) -> Logits:
        """The averaged classifier's logits, which are the mean of the members'."""
        return linear(features, self.average())

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example; the price of resemblance is part of each."""
        return ensemble_loss(features, self.weights, target, self.m, self.diversity, self.base)


class VirtualSoftmaxHead(Head):
    """A classifier without offsets under :func:`virtual_softmax_loss` (chapter 9).

    >>> VirtualSoftmaxHead(512, 100)(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([])
    """

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        return virtual_softmax_loss(features, self.weight, target)


class NoisySoftmaxHead(Head):
    """A classifier without offsets under :func:`noisy_softmax_loss` (chapter 9).

    The noise is drawn in training mode only; after ``head.eval()`` it is the softmax loss.

    Args:
        strength: the source's alpha.

    >>> head = NoisySoftmaxHead(512, 100, strength=0.5).eval()
    >>> features, target = torch.randn(8, 512), torch.arange(8)
    >>> bool(head(features, target) == softmax_loss(head.logits(features), target).mean())
    True
    """

    told = ("strength",)

    def __init__(
        self, in_features: int, num_classes: int, *, strength: float = 0.1, **options: Any
    ):
        check_number("strength", strength)
        super().__init__(in_features, num_classes, **options)
        self.strength = strength

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        if not self.training:
            return softmax_loss(self.logits(features), target)
        return noisy_softmax_loss(features, self.weight, target, strength=self.strength)


class DropoutHead(LinearHead):
    """A linear classifier on features of which a share is dropped in training (chapter 9).

    Args:
        loss: any loss of logits.
        rate: the share of the features that is dropped; the others are scaled up.
        adversarial: drop those that the target would miss most, by
            :func:`adversarial_dropout`, and not any.

    The other arguments and the errors are those of :class:`LinearHead`.

    >>> DropoutHead(512, 100, adversarial=True)(torch.randn(8, 512), torch.arange(8)).shape
    torch.Size([])
    """

    told = ("loss", "rate", "adversarial")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss: Loss = softmax_loss,
        *,
        rate: float = 0.5,
        adversarial: bool = False,
        **options: Any,
    ):
        check_number("rate", rate, most=1.0)
        super().__init__(in_features, num_classes, loss, **options)
        self.rate, self.adversarial = rate, adversarial

    def losses(self, features: Features, target: Labels) -> PerExample:
        """Return one loss per example."""
        if self.training and self.adversarial:
            weight, bias = self.weight, self.bias
            features = adversarial_dropout(features, weight, bias, target, self.rate)
        elif self.training:
            features = dropout(features, self.rate)
        return super().losses(features, target)
