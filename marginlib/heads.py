"""Heads: what a user puts at the end of a network.

A head owns the classifier's parameters and knows its loss.  ``head(features, target)`` is
the training loss; ``head.logits(features)`` are the logits for inference, which never carry
a margin.  Its ``weight`` (c, d) and ``bias`` (c,) are those of :class:`torch.nn.Linear`, so
either's ``state_dict`` loads into the other.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from .rivals import check_batch
from .softmax import softmax_loss

REDUCTIONS = ("mean", "sum", "none")


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


class LinearHead(nn.Module):
    """A linear classifier under any loss of logits.

    Args:
        in_features: d, the length of a feature vector.
        num_classes: c, at least 2.
        loss: any function of logits (n, c) and target (n,) that returns one number per
            example; fix its parameters with :func:`functools.partial`.
        bias: whether the classifier has one.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        class_weight: one weight per class, (c,), as CrossEntropyLoss's ``weight``.
        ignore_index: rows with this label count for nothing.

    Raises:
        ValueError: for no features, fewer than two classes, an unknown reduction, a class
            weight that is not (c,), or, when called, as :func:`split` and for a loss that is
            not one number per example.
        TypeError: if ``class_weight`` is not a tensor and, when called, as :func:`split`.

    >>> from functools import partial
    >>> from marginlib import large_margin_loss
    >>> head = LinearHead(512, 100, loss=partial(large_margin_loss, strength=0.5))
    >>> features, target = torch.zeros(8, 512), torch.zeros(8, dtype=torch.long)
    >>> head(features, target).shape, head.logits(features).shape
    (torch.Size([]), torch.Size([8, 100]))
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        loss: Callable[[Tensor, Tensor], Tensor] = softmax_loss,
        *,
        bias: bool = True,
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
        self.loss = loss
        self.reduction = reduction
        self.ignore_index = ignore_index
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))
        self.bias = nn.Parameter(torch.empty(num_classes)) if bias else None
        # Not persistent: the state_dict stays that of nn.Linear.
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as :class:`torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Plain logits, for inference and for measuring accuracy."""
        return linear(features, self.weight, self.bias)

    def forward(
        self, features: Float[Tensor, "n d"], target: Int[Tensor, " n"]
    ) -> Float[Tensor, "..."]:
        """Return the training loss, reduced."""
        logits = self.logits(features)
        check_batch(logits, target)
        # As int64, or ignore_index would wrap: in uint8, -100 is 156, which may be a class.
        target = target.long()
        kept = target != self.ignore_index
        # An ignored label need not be a class; class 0 stands in and is not counted.
        target = torch.where(kept, target, 0)
        losses = self.loss(logits, target)
        if losses.shape != target.shape:
            raise ValueError(
                f"expected a loss that returns one number per example, {tuple(target.shape)}; "
                f"it returned {tuple(losses.shape)}"
            )
        return reduced(losses, target, kept, self.reduction, self.class_weight)

    def extra_repr(self) -> str:
        """Show d, c, the loss and the reduction when the head is printed."""
        c, d = self.weight.shape
        func = getattr(self.loss, "func", self.loss)
        name = getattr(func, "__name__", type(func).__name__)
        return f"in_features={d}, num_classes={c}, loss={name}, reduction={self.reduction!r}"
