"""Pairs and triplets: compare examples with examples (chapter 10).

No classifier and no logits: two images of one class shall lie close together, two of
different classes shall not.  A pair is judged by its distance, a triplet by which of two
distances is the larger.

    contrastive = 1/2 d^2                   if the two are of one class
                  1/2 max(0, m - d)^2       if they are not
    triplet     = max(0, |a - p|^2 - |a - n|^2 + m)

Derived   chapters/10_pairs.ipynb, marginlib/symbolic/pairs.py
Source    slides on W. Wan et al., "Rethinking Feature Distribution for Loss Functions in
          Image Classification", CVPR 2018, which print the first and draw the second.  In
          full: Hadsell, Chopra and LeCun, CVPR 2006; Schroff, Kalenichenko and Philbin,
          CVPR 2015.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .rivals import check_number, widen

Features = Float[Tensor, "n d"]
PerExample = Float[Tensor, " n"]


def contrastive_loss(
    first: Features,
    second: Features,
    same: Bool[Tensor, " n"] | Int[Tensor, " n"],
    margin: float = 1.0,
) -> PerExample:
    """Half the squared distance of a pair of one class, half the squared hinge of any other.

    With d the Euclidean distance: ``d^2 / 2`` if same, ``max(0, margin - d)^2 / 2`` if not.
    At d = 0 the second has a peak and no derivative.  There its gradient is set to zero, the
    mean over all directions; beside that point it has the length ``margin``.

    Args:
        first: one feature vector per pair.
        second: the other one.
        same: whether the two are of one class: booleans, or integers of which 1 means yes
            (sources write 1 and -1, or 1 and 0).
        margin: the distance from which on a pair of two classes is let alone, in units of
            the features.

    Returns:
        One loss per pair; float32 for half-precision features.

    Raises:
        ValueError: unless both sets of features are (n, d) and ``same`` is (n,), or if
            ``margin`` is negative or not finite.
        TypeError: if features are not floating point, ``same`` neither boolean nor integer,
            or ``margin`` not a number.

    >>> first, second = torch.zeros(2, 2), torch.tensor([[0.3, 0.4], [0.3, 0.4]])
    >>> contrastive_loss(first, second, torch.tensor([True, False]))
    tensor([0.1250, 0.1250])
    """
    check_number("margin", margin)
    _check_features(first=first, second=second)
    if same.shape != first.shape[:1]:
        raise ValueError(
            f"expected same (n,) with n = {first.shape[0]} pairs; got {tuple(same.shape)}"
        )
    if same.is_floating_point() or same.is_complex():
        raise TypeError(f"same must be boolean or integer; got {same.dtype}")
    squared = (widen(first) - widen(second)).square().sum(dim=1)
    apart = squared > 0
    # The root of zero has no slope, and where alone would let its infinite one through.
    distance = torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)
    return 0.5 * torch.where(same == 1, squared, (margin - distance).relu().square())


def triplet_loss(
    anchor: Features, positive: Features, negative: Features, margin: float = 0.2
) -> PerExample:
    """``max(0, |a - p|^2 - |a - n|^2 + margin)``: the own class shall be nearer, by a margin.

    Printed: a difference of two squared distances.  Computed: ``(n - p) . (2a - p - n)``,
    the same, linear in the anchor; far from both the distances are large and nearly equal,
    and their difference would lose its digits.

    :func:`torch.nn.functional.triplet_margin_loss` takes the distances without the squares,
    and a margin of 1; chapter 10 compares the two.

    Args:
        anchor: one feature vector per triplet.
        positive: another example of the anchor's class.
        negative: an example of another class.
        margin: how much the squared distances shall differ, in units of the features,
            squared.  The 0.2 is meant for features of unit length.

    Returns:
        One loss per triplet; float32 for half-precision features.

    Raises:
        ValueError: unless all three are (n, d), or if ``margin`` is negative or not finite.
        TypeError: if features are not floating point or ``margin`` not a number.

    >>> anchor, positive = torch.tensor([[0., 0.]]), torch.tensor([[0.5, 0.]])
    >>> triplet_loss(anchor, positive, negative=torch.tensor([[0., 0.6]]))
    tensor([0.0900])
    """
    check_number("margin", margin)
    _check_features(anchor=anchor, positive=positive, negative=negative)
    a, p, n = widen(anchor), widen(positive), widen(negative)
    return (((n - p) * ((a - p) + (a - n))).sum(dim=1) + margin).relu()


def _check_features(**sets: Tensor) -> None:
    """Raise unless all sets of features are floats of one shape (n, d)."""
    shapes = [tuple(features.shape) for features in sets.values()]
    if len(shapes[0]) != 2 or len(set(shapes)) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in zip(sets, shapes, strict=True))
        raise ValueError(f"expected features of one shape (n, d); got {got}")
    for name, features in sets.items():
        if not features.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {features.dtype}")
