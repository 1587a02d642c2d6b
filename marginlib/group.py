"""Group softmax: one softmax loss for every group of features (chapter 7).

A few strong features can settle a softmax loss on their own, and the others then learn
nothing.  So sort the features by how well they tell the target from its rivals, part them
into groups, and let every group face the softmax loss alone.

    z_i    = the logits from group i alone, with its share of the bias       Eq. (5)
    type 1 = 1/G sum_i softmax loss( G z_i )                                 Eq. (7)
    type 2 =     sum_i softmax loss(   z_i )                                 Eq. (8)

Derived   chapters/07_group.ipynb, marginlib/symbolic/group.py
Source    T. Kobayashi, "Group Softmax Loss with Discriminative Feature Grouping", WACV 2021.
          Equation numbers are the paper's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from .rivals import check_features, plain_form_serves, target_rows, widen, without_autocast
from .softmax import softmax_loss

Logits = Float[Tensor, "n c"]
Labels = Int[Tensor, " n"]
PerExample = Float[Tensor, " n"]
Score = Float[Tensor, " d"]
Groups = tuple[Int[Tensor, " k"], ...]


def discriminativity(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"] | None,
    target: Labels,
) -> Score:
    """How far each feature lifts the target above the mean of its rivals.  Eq. (9).

    Printed, for one example: ``lambda_j = z_jy - mean_{c != y} z_jc`` with the feature's own
    part of the logits, ``z_jc = w_cj x_j + b_c / d``.  Computed: the batch mean of
    ``c / (c - 1) (z_jy - mean_c z_jc)``, the paper's second form, for which no (n, d, c)
    tensor is needed.  The features' scores add up to the mean margin.

    Args:
        features: one row per example.
        weight: one class vector per row.
        bias: one number per class, or None.  It lifts all features alike.
        target: the true class of each row, 0 <= target < c.

    Returns:
        One score per feature, in units of the logits; float32 for half precision.

    Raises:
        ValueError: if the shapes do not match, if there are fewer than two classes, or, on
            the CPU, if a label lies outside 0..c-1.
        TypeError: if ``target`` is not integer, or one of the others not floating point.

    >>> features, weight = torch.tensor([[1., 2.]]), torch.tensor([[3., 1.], [0., 1.]])
    >>> discriminativity(features, weight, None, torch.tensor([0]))
    tensor([3., 0.])
    """
    _check(features, weight, bias, target)
    w, c = widen(weight), weight.shape[0]
    own = target_rows(w, target)
    score = (widen(features) * (own - w.mean(dim=0))).mean(dim=0)
    if bias is not None:
        b = widen(bias)
        score = score + (target_rows(b, target) - b.mean()).mean() / len(score)
    return c / (c - 1) * score


def discriminative_groups(score: Score, groups: int) -> Groups:
    """Sort the features by their score and cut, the least discriminative first.  Eq. (10), (11).

    The paper asks for groups of equal size.  Where d is not divisible, the first groups have
    one feature more, as in ``numpy.array_split``.  Features of equal score keep their
    order.

    >>> discriminative_groups(torch.tensor([5., -1., 0., 5., 2.]), 2)
    (tensor([1, 2, 4]), tensor([0, 3]))
    """
    return score.argsort(stable=True).tensor_split(groups)


def random_groups(score: Score, groups: int) -> Groups:
    """Draw the groups afresh at each call, whatever the score.  Section 4.1, "random"."""
    return torch.randperm(len(score), device=score.device).tensor_split(groups)


def fixed_groups(score: Score, groups: int) -> Groups:
    """Group neighbouring features, whatever the score.  Section 4.1, "pre-fixed".

    >>> fixed_groups(torch.tensor([5., -1., 0., 5., 2.]), 2)
    (tensor([0, 1, 2]), tensor([3, 4]))
    """
    return torch.arange(len(score), device=score.device).tensor_split(groups)


def group_loss(
    features: Float[Tensor, "n d"],
    weight: Float[Tensor, "c d"],
    bias: Float[Tensor, " c"] | None,
    target: Labels,
    groups: Sequence[int] = (1, 2),
    kind: int = 1,
    base: Callable[[Logits, Labels], PerExample] = softmax_loss,
    grouping: Callable[[Score, int], Sequence[Int[Tensor, " k"]]] = discriminative_groups,
) -> PerExample:
    """The group softmax loss, averaged over several numbers of groups.  Eq. (12) and (13).

    Printed (Algorithm 1): form the (d, c) matrix of ingredient logits of each example, sort,
    add up.  Computed: the columns of features and weight are put in order, and the product is
    taken block by block, which costs what the whole product costs.  The number of groups that
    is finest is multiplied; a coarser one adds up neighbours, where its cuts are among the
    finest one's (always, if d and the finest number are divisible by it), and is multiplied
    for itself where they are not.

    The batch shares one grouping, and it is a constant: no gradient flows through the score.

    Args:
        features: one row per example.
        weight: one class vector per row.
        bias: one number per class, or None.  A group of k features out of d has the share
            k / d of it, Eq. (5).
        target: the true class of each row, 0 <= target < c.
        groups: the numbers of groups, the paper's set of G, each from 1 to d.  1 is the base
            loss itself.
        kind: 1 (a group's logits are scaled by G, and the losses averaged) or 2 (they are
            not, and the losses added up).
        base: any loss of logits.
        grouping: maps the score (d,) and a number G to G index tensors which hold each
            feature once: :func:`discriminative_groups`, :func:`random_groups`,
            :func:`fixed_groups` or your own.

    Returns:
        One loss per example; float32 for half precision.

    Raises:
        ValueError: as :func:`discriminativity`; for a number of groups below 1 or above d, a
            kind other than 1 and 2, or a grouping that does not return what it should.
        TypeError: as :func:`discriminativity`; if ``groups`` is not a sequence of integers.

    >>> features, weight = torch.tensor([[1., 2.]]), torch.tensor([[3., 1.], [0., 1.]])
    >>> group_loss(features, weight, None, torch.tensor([0]), groups=(1,))
    tensor([0.0486])
    >>> group_loss(features, weight, None, torch.tensor([0]), groups=(1, 2), kind=2)
    tensor([0.3952])
    """
    _check(features, weight, bias, target)
    d = features.shape[1]
    _check_groups(groups, d)
    if kind not in (1, 2):
        raise ValueError(f"kind must be 1 or 2, for Eq. (7) or (8); got {kind!r}")
    with torch.no_grad():
        score = discriminativity(features, weight, bias, target)
    finest = max(groups)
    blocks = _block_logits(features, weight, bias, grouping(score, finest), finest)
    cuts = _cuts(d, finest)
    total = 0
    for count in groups:
        places = _cuts(d, count)
        if set(places) <= set(cuts):
            at = [cuts.index(place) for place in places]
            # One at a time: held together they would set the peak of the memory.
            spans = (blocks[at[i] : at[i + 1]] for i in range(count))
            parts = (sum(rest, first) for first, *rest in spans)
        else:
            parts = _block_logits(features, weight, bias, grouping(score, count), count)
        scale = count if kind == 1 else 1
        total = total + sum(base(scale * part, target) for part in parts) / scale
    return total / len(groups)


def _cuts(d: int, groups: int) -> list[int]:
    """Where numpy.array_split cuts d items, both ends included."""
    return [i * (d // groups) + min(i, d % groups) for i in range(groups + 1)]


def _block_logits(
    features: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[Tensor], count: int
) -> list[Logits]:
    """Each group's logits with its share of the bias, Eq. (5)."""
    sizes, d = [len(part) for part in parts], features.shape[1]
    if len(sizes) != count or sum(sizes) != d:
        raise ValueError(
            f"expected a grouping of {d} features into {count} index tensors; got sizes {sizes}"
        )
    order = torch.cat(tuple(parts))
    with without_autocast(features):
        if plain_form_serves():
            blocks = _products(widen(features), widen(weight), order, sizes)
        else:
            blocks = _Products.apply(widen(features), widen(weight), order, sizes)
    if bias is None:
        return list(blocks)
    return [block + widen(bias) * (size / d) for block, size in zip(blocks, sizes, strict=True)]


def _products(x: Tensor, w: Tensor, order: Tensor, sizes: list[int]) -> tuple[Logits, ...]:
    """Each group's part of the product of x and w, without bias."""
    # One permutation, not one selection per group: their gradients would each fill a (c, d).
    sorted_x, sorted_w = (t.index_select(1, order).split(sizes, dim=1) for t in (x, w))
    return tuple(linear(part, own) for part, own in zip(sorted_x, sorted_w, strict=True))


class _Products(torch.autograd.Function):
    """What :func:`_products` computes; it keeps no sorted copy of the weight for its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, order: Tensor, sizes: list[int]) -> tuple[Logits, ...]:
        ctx.save_for_backward(x, w, order)
        ctx.sizes = sizes
        return _products(x, w, order, sizes)

    @staticmethod
    def backward(ctx, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, w, order = ctx.saved_tensors
        with without_autocast(x):
            if torch.is_grad_enabled():  # a gradient is itself differentiated
                plain = partial(_products, order=order, sizes=ctx.sizes)
                return *torch.func.vjp(plain, x, w)[1](slopes), None, None
            back = order.argsort()
            sorted_w = w.index_select(1, order)
            parts = sorted_w.split(ctx.sizes, dim=1)
            to_x = torch.cat([s @ part for s, part in zip(slopes, parts, strict=True)], dim=1)
            to_x = to_x.index_select(1, back)
            # The copy has served: its place takes the gradient.
            for s, own, place in zip(slopes, order.split(ctx.sizes), parts, strict=True):
                torch.mm(s.mT, x.index_select(1, own), out=place)
            return to_x, sorted_w.index_select(1, back), None, None


def _check(features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> None:
    """Raise unless features, weight and target fit, and ``bias`` is None or a float (c,)."""
    check_features(features, weight, target)
    if bias is None:
        return
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"expected bias ({weight.shape[0]},) or None; got {tuple(bias.shape)}")
    if not bias.is_floating_point():
        raise TypeError(f"bias must be floating point; got {bias.dtype}")


def _check_groups(groups: Sequence[int], d: int) -> None:
    """Raise unless ``groups`` holds numbers of groups that d features can fill."""
    if not isinstance(groups, (tuple, list)) or not all(isinstance(g, int) for g in groups):
        raise TypeError(f"groups must be integers in a tuple, such as (1, 2); got {groups!r}")
    if not groups or not all(1 <= g <= d for g in groups):
        raise ValueError(
            f"expected one or more numbers of groups from 1 to {d}, the number of features; "
            f"got {tuple(groups)}"
        )
