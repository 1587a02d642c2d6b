"""Chapter 7: groups of features, proved, computed and told."""

import math
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sympy import Integer, Rational, log, symbols
from torch.nn.functional import cross_entropy, linear, softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from marginlib import (
    GroupHead,
    average_classifiers,
    discriminative_groups,
    discriminativity,
    ensemble_loss,
    group_loss,
    kl_from_uniform,
    label_smoothing_loss,
    soft_margin_loss,
    softmax_loss,
)
from marginlib.group import fixed_groups, random_groups
from marginlib.lab import evidence
from marginlib.lab.studies import group as lab
from marginlib.symbolic import group as paper
from marginlib.symbolic.logits import lse
from marginlib.symbolic.proof import Unproved, prove

Z = paper.ingredients(4, 3)
PAIRS = [[0, 3], [1, 2]]
W = [list(symbols(f"w_{c}_:4", real=True)) for c in range(3)]
X = list(symbols("x_:4", real=True))
B = list(symbols("b_:3", real=True))
ZERO = torch.tensor([0])


def draws(*shape, scale=1.0, seed=0):
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def case(n=5, d=6, c=4, seed=0):
    features, weight = draws(n, d, seed=seed), draws(c, d, seed=seed + 1)
    return features, weight, draws(c, seed=seed + 2), torch.arange(n) % c


def algorithm_1(features, weight, bias, target, groups, kind):
    """The paper's Algorithm 1, line by line, with the ingredients of all examples formed."""
    x, w, b, y = (part.detach().numpy() for part in (features, weight, bias, target))
    (n, d), c, rows = x.shape, len(w), np.arange(len(x))
    z = w.T[None] * x[:, :, None] + b / d
    score = ((z[rows, :, y] - z.mean(2)) * c / (c - 1)).mean(0)
    order = np.argsort(score, kind="stable")
    total = np.zeros(n)
    for count in groups:
        scale = count if kind == 1 else 1
        for members in np.array_split(order, count):
            f = scale * z[:, members].sum(1)
            total += (logsumexp(f, axis=1) - f[rows, y]) / scale
    return total / len(groups), score


def of(z, grouping, kind):
    """The library's loss of one example with these ingredients (d, c), target first."""
    z = torch.as_tensor(z, dtype=torch.float64)
    parts = tuple(torch.tensor(part) for part in grouping)
    ones = torch.ones(1, len(z), dtype=torch.float64)
    count = (len(parts),)
    return group_loss(ones, z.T, None, ZERO, count, kind, grouping=lambda *_: parts).item()


def both(z, grouping):
    return of(z, grouping, 1), of(z, grouping, 2)


def partitions(d, size):
    """Every way to part range(d) into groups of this size."""
    if d == 0:
        yield []
        return

    def parts(rest):
        if not rest:
            yield []
            return
        for others in combinations(rest[1:], size - 1):
            left = [j for j in rest[1:] if j not in others]
            for more in parts(left):
                yield [[rest[0], *others], *more]

    yield from parts(list(range(d)))


def sorted_groups(z, groups):
    """The discriminative grouping of one example's ingredients, target first."""
    score = z[:, 0] - z[:, 1:].mean(1)
    return [part.tolist() for part in discriminative_groups(score, groups)]


def mean_margins(z, grouping):
    score = z[:, 0] - z[:, 1:].mean(1)
    return torch.stack([score[part].sum() for part in grouping])


# --- Claimed and proved ------------------------------------------------------------------


@pytest.mark.claim("G1", "G4")
def test_the_ingredients_add_up_to_the_logits():
    equations = paper.equation_5(W, X, B, range(4))
    assert [equation.prove() for equation in equations] == ["∎"] * 3
    dots = [sum(w * x for w, x in zip(row, X, strict=True)) for row in W]
    for f_c, dot, b_c in zip(paper.logits_of(paper.ingredients_of(W, X, B)), dots, B, strict=True):
        assert prove(f_c, dot + b_c)


@pytest.mark.claim("G3", "G13")
def test_an_ingredient_is_one_product_and_an_equal_share_of_the_offset():
    z = paper.ingredients_of(W, X, B)
    assert z[2][1] == W[1][2] * X[2] + B[1] / 4
    assert [len(z), len(z[0])] == [4, 3]


@pytest.mark.claim("G5", "G6", "G16")
@pytest.mark.parametrize("members", [[0], [1, 3], [0, 1, 2]])
def test_eq_5_is_the_sum_of_the_groups_ingredients(members):
    equations = paper.equation_5(W, X, B, members)
    assert [(e.prove(), e.source, e.number) for e in equations] == [("∎", "000", "5")] * 3
    assert equations[0].left.coeff(B[0]) == Rational(len(members), 4)


@pytest.mark.claim("G2", "G7")
@pytest.mark.parametrize("grouping", [PAIRS, [[0], [1, 2, 3]], [[0], [1], [2], [3]]])
def test_eq_6_is_a_ratio_of_products_and_no_product_of_ratios(grouping):
    assert paper.equation_6(Z, 1, grouping).prove() == "∎"
    with pytest.raises(Unproved):
        prove(paper.type_2(Z, 1, grouping), -log(paper.equation_6(Z, 1, grouping).right))


@pytest.mark.claim("G8", "G9", "G10")
def test_the_two_types_are_sums_of_softmax_losses_and_the_softmax_loss_for_one_group():
    first, second = (paper.group_logits(Z, members) for members in PAIRS)
    assert prove(paper.type_2(Z, 1, PAIRS), lse(first) - first[1] + lse(second) - second[1])
    twice = [[2 * f_c for f_c in f] for f in (first, second)]
    halves = sum((lse(f) - f[1]) / 2 for f in twice)
    assert prove(paper.type_1(Z, 1, PAIRS), halves)
    whole = lse(paper.logits_of(Z)) - paper.logits_of(Z)[1]
    assert prove(paper.type_1(Z, 1, [range(4)]), whole)
    assert prove(paper.type_2(Z, 1, [range(4)]), whole)


@pytest.mark.claim("G12")
@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 1), (5, 4)])
def test_eq_9_has_two_equal_forms_and_the_scores_add_up_to_the_mean_margin(c, y):
    z = paper.ingredients(3, c)
    assert paper.equation_9(z[0], y).prove() == "∎"
    assert paper.scores_add_up(z, y).prove() == "∎"
    assert paper.score([Integer(7), Integer(1), Integer(3)], 0) == 5


@pytest.mark.claim("G14")
@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 1), (5, 4)])
def test_the_algorithms_score_is_c_minus_1_over_c_of_eq_9(c, y):
    step = paper.step_2(paper.ingredients(1, c)[0], y)
    assert step.prove() == "∎"
    assert step.number == "Algorithm 1, step 2"
    with pytest.raises(Unproved):
        prove(step.left, paper.score(paper.ingredients(1, c)[0], y))


@pytest.mark.claim("G11", "G30")
@pytest.mark.parametrize("y", [0, 2])
def test_type_1_is_the_mean_of_complementary_dropouts(y):
    assert paper.as_dropout(W, X, B, y, PAIRS).prove() == "∎"
    assert paper.as_dropout(W, X, B, y, [[0], [1], [2], [3]]).prove() == "∎"


@pytest.mark.claim("G11", "G30")
def test_it_is_not_where_sizes_differ_and_there_is_an_offset_nor_for_type_2():
    with pytest.raises(Unproved):
        paper.as_dropout(W, X, B, 0, [[0], [1, 2, 3]]).prove()
    assert paper.as_dropout(W, X, [Integer(0)] * 3, 0, [[0], [1, 2, 3]]).prove() == "∎"
    with pytest.raises(Unproved):
        prove(paper.as_dropout(W, X, B, 0, PAIRS).right, paper.type_2(Z, 0, PAIRS))


@pytest.mark.claim("G26")
def test_eq_16_is_the_derivative_and_the_same_for_every_feature():
    equations = paper.equation_16(paper.ingredients(2, 3), 1)
    assert [equation.prove() for equation in equations] == ["∎"] * 6
    assert [e.right for e in equations[:3]] == [e.right for e in equations[3:]]


@pytest.mark.claim("G27")
@pytest.mark.parametrize("kind", [1, 2])
def test_eq_17_is_the_derivative_of_either_type(kind):
    equations = paper.equation_17(paper.ingredients(3, 3), 1, [[0, 2], [1]], kind)
    assert [(e.prove(), e.number) for e in equations] == [("∎", "17")] * 9


@pytest.mark.claim("G20")
def test_eq_14_softmax_leaves_out_products_of_two_groups_odds():
    equation = paper.odds_multiply(Z, 1, PAIRS)
    assert equation.prove() == "∎"
    assert all(term.is_positive for term in equation.right.args)


@pytest.mark.claim("G20")
@pytest.mark.parametrize(("groups", "c"), [(2, 2), (3, 5), (4, 3)])
def test_the_gap_between_the_types_is_widest_at_uniform_logits(groups, c):
    assert paper.widest_gap(groups, c).prove() == "∎"
    assert paper.widest_gap(groups, c).right == (groups - 1) * log(c)
    flat, grouping = torch.zeros(groups, c), [[j] for j in range(groups)]
    gap = of(flat, grouping, 2) - of(flat, grouping, 1)
    assert gap == pytest.approx((groups - 1) * math.log(c), abs=1e-12)


@pytest.mark.claim("G20")
@pytest.mark.parametrize(("d", "c", "sizes"), [(4, 2, (2, 2)), (6, 5, (1, 2, 3)), (8, 3, (2,) * 4)])
def test_proposition_1_and_its_sharp_upper_gap(d, c, sizes):
    places = np.cumsum((0, *sizes))
    grouping = [list(range(a, b)) for a, b in zip(places, places[1:])]  # noqa: RUF007
    for seed in range(60):
        z = draws(d, c, scale=10.0 ** (seed % 3 - 1), seed=seed)
        plain, (first, second) = of(z, [list(range(d))], 1), both(z, grouping)
        most = (len(sizes) - 1) * math.log(c)
        # 1e-12: at large margins all three losses are zero up to round-off.
        assert plain <= first + 1e-12
        assert first < second < first + most


@pytest.mark.claim("G20")
def test_softmax_and_type_1_agree_just_when_all_groups_agree_up_to_a_constant():
    same = draws(1, 4)
    z = torch.cat([same, same + 3, same - 7])
    singles = [[0], [1], [2]]
    assert of(z, singles, 1) == pytest.approx(of(z, [[0, 1, 2]], 1), abs=1e-12)
    z[1, 0] += 0.1
    assert of(z, singles, 1) > of(z, [[0, 1, 2]], 1) + 1e-4


@pytest.mark.claim("G21")
@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sorting_maximises_both_types_with_two_classes_or_rivals_alike(kind, size):
    for seed in range(5):
        for z in (draws(6, 2, seed=seed), draws(6, 2, seed=seed)[:, [0, 1, 1, 1]]):
            most = max(of(z, grouping, kind) for grouping in partitions(6, size))
            ours = of(z, sorted_groups(z, 6 // size), kind)
            assert ours == pytest.approx(most, abs=1e-12)


@pytest.mark.claim("G21")
def test_with_three_classes_another_grouping_can_beat_the_sorted_one():
    z = torch.tensor([[0, 0, 0], [0, 0, 1], [1, -1, 1], [-1, 1, 0]], dtype=torch.float64)
    assert (z[:, 0] - z[:, 1:].mean(1)).tolist() == [0, -0.5, 1, -1.5]
    assert sorted_groups(z, 2) == [[3, 1], [0, 2]]
    assert both(z, sorted_groups(z, 2)) == pytest.approx((2.7023, 3.5172), abs=1e-4)
    assert both(z, [[0, 3], [1, 2]]) == pytest.approx((3.1360, 3.7566), abs=1e-4)


@pytest.mark.claim("G21")
@pytest.mark.parametrize(("c", "low", "high"), [(2, 0, 0), (3, 0.5, 0.8), (10, 0.8, 1)])
def test_how_often_sorting_misses_the_maximum(c, low, high):
    groupings = list(partitions(8, 4))
    assert len(groupings) == 35
    z = draws(200, 8, c)
    # Every grouping of every draw at once: the sums of either half.
    mask = torch.zeros(35, 8, dtype=torch.float64)
    for row, (first, _) in zip(mask, groupings, strict=True):
        row[first] = 1
    halves = torch.stack([mask, 1 - mask])  # (2, 35, 8)
    f = torch.einsum("hgj,njc->nhgc", halves, z)
    loss = (f.logsumexp(3) - f[..., 0]).sum(1)
    missed = 0
    for k in range(200):
        ours = of(z[k], sorted_groups(z[k], 2), 2)
        missed += ours < loss[k].max().item() - 1e-9
    assert low <= missed / 200 <= high


@pytest.mark.claim("G22")
@pytest.mark.parametrize("y", [0, 1])
def test_type_2_is_a_sum_over_mean_margins_and_divergences(y):
    assert paper.type_2_from_margins(Z, y, PAIRS).prove() == "∎"


def surrogate(z, grouping):
    return softplus(math.log(z.shape[1] - 1) - mean_margins(z, grouping)).sum().item()


def divergence(z, grouping):
    return sum(kl_from_uniform(z[part, 1:].sum(0, keepdim=True)).item() for part in grouping)


@pytest.mark.claim("G22")
def test_the_surrogate_is_what_type_2_is_where_rivals_agree():
    told = paper.surrogate([Integer(2), Integer(-1)], 4)
    assert float(told) == pytest.approx(math.log((1 + 3 * math.exp(-2)) * (1 + 3 * math.exp(1))))
    z = draws(4, 2)[:, [0, 1, 1, 1]]
    exactly = paper.surrogate(mean_margins(z, PAIRS).tolist(), 4)
    assert both(z, PAIRS)[1] == pytest.approx(float(exactly), abs=1e-12)


@pytest.mark.claim("G17", "G22")
@pytest.mark.parametrize(("c", "size"), [(3, 3), (5, 2), (4, 1)])
def test_sorting_maximises_the_surrogate_and_misses_no_more_than_the_divergences(c, size):
    for seed in range(4):
        z = draws(6, c, scale=1.5, seed=seed)
        ours = sorted_groups(z, 6 // size)
        best = mean_margins(z, ours).sort().values.cumsum(0)
        slack, most = 0.0, 0.0
        for grouping in partitions(6, size):
            # Majorisation: the smallest k sums of the sorted grouping are smaller than any's.
            sums = mean_margins(z, grouping).sort().values.cumsum(0)
            assert (best <= sums + 1e-12).all()
            assert surrogate(z, grouping) <= surrogate(z, ours) + 1e-12
            two, more = both(z, grouping)[1], divergence(z, grouping)
            assert -1e-12 <= two - surrogate(z, grouping) <= more + 1e-12
            slack, most = max(slack, more), max(most, two)
        assert most - both(z, ours)[1] <= slack


@pytest.mark.claim("G23")
def test_who_gets_the_remainder_matters():
    z = torch.tensor([[1.0, 0], [2, 0], [3, 0]])
    assert sorted_groups(z, 2) == [[0, 1], [2]]
    assert of(z, [[0, 1], [2]], 2) == pytest.approx(0.0972, abs=1e-4)
    assert of(z, [[0], [1, 2]], 2) == pytest.approx(0.3200, abs=1e-4)
    assert sorted_groups(-z, 2) == [[2, 1], [0]]
    every = [[[a], [b for b in range(3) if b != a]] for a in range(3)]
    assert max(of(-z, grouping, 2) for grouping in every) == of(-z, [[2, 1], [0]], 2)


@pytest.mark.claim("G18", "G24")
def test_the_batchs_grouping_maximises_jensens_bound_and_not_the_mean_loss():
    scores = torch.tensor([[1.0, -2, 1, 0], [-2, 0, 0, 0]], dtype=torch.float64)
    weight = torch.stack([torch.ones(4), torch.zeros(4)]).double()
    target = torch.zeros(2, dtype=torch.long)
    assert torch.equal(discriminativity(scores, weight, None, target), scores.mean(0))

    def mean(kind, grouping):
        parts = tuple(map(torch.tensor, grouping))
        told = {"groups": (2,), "kind": kind, "grouping": lambda *_: parts}
        return group_loss(scores, weight, None, target, **told).mean().item()

    shared = [part.tolist() for part in discriminative_groups(scores.mean(0), 2)]
    assert shared == [[1, 0], [3, 2]]
    assert [mean(k, shared) for k in (1, 2)] == pytest.approx([1.7413, 2.2233], abs=1e-4)
    other = [[0, 2], [1, 3]]
    assert [mean(k, other) for k in (1, 2)] == pytest.approx([2.1869, 2.5370], abs=1e-4)
    bound = {}
    for grouping in partitions(4, 2):
        margins = torch.stack([scores.mean(0)[part].sum() for part in grouping])
        bound[str(grouping)] = softplus(-margins).sum().item()
        assert bound[str(grouping)] <= mean(2, grouping)
    assert max(bound.values()) == bound[str([[0, 1], [2, 3]])]


@pytest.mark.claim("G19")
def test_sizes_that_do_not_divide_are_no_hierarchy_and_more_groups_can_cost_less():
    z = torch.tensor([[-5.0, 0]] * 3 + [[6.0, 0]] * 3)
    two, four = sorted_groups(z, 2), sorted_groups(z, 4)
    assert [len(part) for part in four] == [2, 2, 1, 1]
    assert both(z, two) == pytest.approx((15.0, 15.0), abs=1e-6)
    assert both(z, four) == pytest.approx((10.0045, 10.3183), abs=1e-4)


@pytest.mark.claim("G25")
def test_type_2_never_falls_when_a_group_is_parted_and_type_1_can():
    for seed in range(40):
        z = draws(6, 4, scale=2.0, seed=seed)
        coarse, fine = [[0, 1, 2], [3, 4, 5]], [[0], [1, 2], [3, 4, 5]]
        assert of(z, coarse, 2) < of(z, fine, 2)
        equally = [[0], [1], [2], [3], [4], [5]]
        assert of(z, coarse, 1) <= of(z, equally, 1) + 1e-12
    z = torch.tensor([[0.0, 0], [-2, 0], [-2, 0]])
    assert of(z, [[0], [1, 2]], 1) == pytest.approx(4.3467, abs=1e-4)
    assert of(z, [[0], [1], [2]], 1) == pytest.approx(4.2326, abs=1e-4)


def push(logits, kind):
    """1 - p_y of one group's logits, target first: the size of Eq. (17) in its target."""
    scale = 2 if kind == 1 else 1
    return 1 - (scale * torch.tensor(logits)).softmax(0)[0].item()


@pytest.mark.claim("G28")
def test_with_two_classes_the_weakest_group_has_the_larger_update_and_with_three_it_need_not():
    for seed in range(40):
        z = draws(4, 2, seed=seed)
        weak, strong = (z[part].sum(0) for part in sorted_groups(z, 2))
        whole = 1 - z.sum(0).softmax(0)[0].item()
        assert push(weak.tolist(), 1) >= whole >= push(strong.tolist(), 1)
    assert push([0.0, 0, 0], 2) == pytest.approx(0.667, abs=1e-3)
    assert push([0.0, 2, -2.2], 2) == pytest.approx(0.882, abs=1e-3)


@pytest.mark.claim("G29")
def test_neither_types_gradient_is_always_the_larger():
    assert [push([0.0, 1], k) for k in (2, 1)] == pytest.approx([0.731, 0.881], abs=1e-3)
    assert [push([1.0, 0], k) for k in (2, 1)] == pytest.approx([0.269, 0.119], abs=1e-3)


@pytest.mark.claim("G32")
def test_proposition_1_survives_a_margin_in_every_group():
    m = 0.7
    lowered = partial(soft_margin_loss, margin=m)
    for seed in range(30):
        x, w, b, y = case(seed=seed)
        one, two = (group_loss(x, w, b, y, (3,), kind, base=lowered) for kind in (1, 2))
        f = linear(x, w, b)
        assert (soft_margin_loss(f, y, m) <= one + 1e-12).all()
        assert (one < two).all()
        assert (soft_margin_loss(f, y, 3 * m) < two).all()


def test_type_2_believes_in_a_power_of_the_truth_and_type_1_in_the_truth():
    eta = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    ones, y = torch.ones(3, 3, dtype=torch.float64), torch.arange(3)
    for kind, power in ((1, 1), (2, 3)):
        # Three groups of one feature; one example of each class, weighted by its probability.
        # The expected loss is convex in the group logits: where it is level, it is least.
        z = (power / 3 * eta.log()).repeat(3, 1).requires_grad_()
        loss = group_loss(ones, z.T, None, y, (3,), kind)
        (slope,) = torch.autograd.grad(eta @ loss, z)
        assert slope.abs().max() < 1e-15
        belief = z.detach().sum(0).softmax(0)
        torch.testing.assert_close(belief, eta**power / (eta**power).sum())


def test_with_one_and_two_groups_type_2_believes_too_much_but_less():
    f = draws(3, scale=2.0)
    eta = (f.softmax(0) + (f / 2).softmax(0)) / 2
    z = (f / 2).repeat(2, 1).requires_grad_()
    loss = group_loss(torch.ones(3, 2, dtype=f.dtype), z.T, None, torch.arange(3), (1, 2), 2)
    (slope,) = torch.autograd.grad(eta @ loss, z)
    assert slope.abs().max() < 1e-15
    squared = eta.square() / eta.square().sum()
    assert eta.max() < f.softmax(0).max() < squared.max()


def test_type_1_is_an_ensemble_of_masked_classifiers_with_the_whole_as_its_average():
    x, w, _, y = case()
    order = discriminative_groups(discriminativity(x, w, None, y), 3)
    masked = torch.stack([torch.zeros_like(w).index_copy(1, p, 3 * w[:, p]) for p in order])
    ours = group_loss(x, w, None, y, (3,))
    torch.testing.assert_close(ensemble_loss(x, masked, y, diversity=0.0) / 3, ours)
    torch.testing.assert_close(average_classifiers(masked), w)


def test_label_smoothing_is_a_price_on_the_sum_of_the_scores():
    x, w, b, y = case(n=1)
    told = softmax_loss(linear(x, w, b), y) + 0.1 * 3 / 4 * discriminativity(x, w, b, y).sum()
    torch.testing.assert_close(label_smoothing_loss(linear(x, w, b), y), told)


# --- Computed and compared ---------------------------------------------------------------

GROUPINGS = [(1,), (2,), (1, 2), (1, 2, 4), (1, 3), (4, 2, 3), (6, 6, 1)]


@pytest.mark.claim("G8", "G9", "G12", "G16", "G19")
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(6, 13),
    st.integers(2, 5),
    st.sampled_from(GROUPINGS),
    st.sampled_from([1, 2]),
    st.integers(0, 10**6),
)
def test_the_loss_is_algorithm_1(n, d, c, groups, kind, seed):
    batch = case(n, d, c, seed)
    told, score = algorithm_1(*batch, groups, kind)
    # Sums of d products of a few units, in double precision.
    assert discriminativity(*batch).tolist() == pytest.approx(score, abs=1e-13)
    assert group_loss(*batch, groups, kind).tolist() == pytest.approx(told, abs=1e-12)


@pytest.mark.claim("G26", "G27")
@pytest.mark.parametrize(("groups", "kind"), [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2)])
def test_the_gradients_are_eq_16_and_17(groups, kind):
    x, w, b, y = case(d=7)
    x, w, b = (part.requires_grad_() for part in (x, w, b))
    loss = group_loss(x, w, b, y, (groups,), kind).sum()
    by_x, by_w, by_b = torch.autograd.grad(loss, (x, w, b))
    with torch.no_grad():
        told_x, told_w, told_b = (torch.zeros_like(part) for part in (x, w, b))
        for part in discriminative_groups(discriminativity(x, w, b, y), groups):
            scale = groups if kind == 1 else 1
            f = x[:, part] @ w[:, part].T + b * len(part) / 7
            gap = (scale * f).softmax(1) - torch.eye(4, dtype=f.dtype)[y]
            told_x[:, part] = gap @ w[:, part]
            told_w[:, part] = gap.T @ x[:, part]
            told_b += gap.sum(0) * len(part) / 7
    for ours, told in ((by_x, told_x), (by_w, told_w), (by_b, told_b)):
        torch.testing.assert_close(ours, told)


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize("d", [4, 5])
def test_first_and_second_derivatives_are_those_of_finite_differences(kind, d):
    x, w, b, y = case(3, d, 3)
    inputs = tuple(part.requires_grad_() for part in (x, w, b))

    def loss(x, w, b):
        return group_loss(x, w, b, y, (1, 2, 4), kind)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


# torch's own forward derivatives still use its deprecated compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", [1, 2])
def test_forward_derivatives_are_those_of_finite_differences(kind):
    x, w, b, y = case(3, 5, 3)
    inputs = tuple(part.requires_grad_() for part in (x, w, b))
    loss = partial(group_loss, target=y, groups=(2, 3), kind=kind)
    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True)


@pytest.mark.parametrize("kind", [1, 2])
def test_torch_func_differentiates_it_as_autograd_does(kind):
    x, w, b, y = case(6, 5, 3)

    def loss(w):
        return group_loss(x, w, b, y, (1, 2), kind).sum()

    twice = torch.func.jacrev(torch.func.grad(loss))(w)
    torch.testing.assert_close(twice, torch.autograd.functional.hessian(loss, w))


@pytest.mark.claim("G10")
@pytest.mark.parametrize("kind", [1, 2])
def test_one_group_is_torchs_cross_entropy(kind):
    x, w, b, y = case(64, 20, 10)
    told = cross_entropy(linear(x, w, b), y, reduction="none")
    torch.testing.assert_close(group_loss(x, w, b, y, (1,), kind), told)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor holds that is made inside."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.size = max(self.size, part.numel())
        return made


@pytest.mark.claim("G31")
@pytest.mark.parametrize("groups", [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 8)])
def test_the_products_cost_what_softmaxs_cost_and_no_ingredient_is_formed(groups):
    x, w, b, y = case(16, 64, 24)
    inputs = [part.requires_grad_() for part in (x, w, b)]

    def cost(loss):
        with FlopCounterMode(display=False) as counted, Largest() as largest:
            torch.autograd.grad(loss().sum(), inputs)
        return counted.get_total_flops(), largest.size

    plain, _ = cost(lambda: cross_entropy(linear(x, w, b), y, reduction="none"))
    ours, largest = cost(lambda: group_loss(x, w, b, y, groups))
    assert ours == plain == 3 * 2 * 16 * 64 * 24
    assert largest == 64 * 24


@pytest.mark.claim("G31")
def test_groups_that_do_not_nest_take_a_product_of_their_own():
    x, w, b, y = case(16, 60, 24)
    for groups, products in (((1, 3), 1), ((2, 3), 2), ((2, 3, 6), 1), ((2, 3, 5), 3)):
        with FlopCounterMode(display=False) as counted:
            group_loss(x, w, b, y, groups)
        assert counted.get_total_flops() == products * 2 * 16 * 60 * 24


def test_a_shared_random_or_fixed_grouping_is_what_is_added_up():
    x, w, b, y = case(d=7)
    halves = [torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 6])]
    told = sum(softmax_loss(x[:, part] @ w[:, part].T + b * len(part) / 7, y) for part in halves)
    ours = group_loss(x, w, b, y, (2,), 2, grouping=fixed_groups)
    torch.testing.assert_close(ours, told)
    torch.manual_seed(0)
    (first, second) = random_groups(torch.zeros(7), 2)
    torch.manual_seed(0)
    ours = group_loss(x, w, b, y, (2,), 2, grouping=random_groups)
    told = group_loss(x, w, b, y, (2,), 2, grouping=lambda *_: (first, second))
    assert torch.equal(ours, told)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(7))
    assert (len(first), len(second)) == (4, 3)


# --- Told and checked --------------------------------------------------------------------


def test_the_defaults_are_type_1_with_one_and_two_groups():
    batch = case()
    told = group_loss(*batch, (1, 2), 1, softmax_loss, discriminative_groups)
    assert torch.equal(group_loss(*batch), told)


@pytest.mark.claim("G15")
@pytest.mark.parametrize(
    ("d", "groups", "sizes"), [(7, 2, [4, 3]), (6, 4, [2, 2, 1, 1]), (3, 3, [1] * 3)]
)
def test_the_least_discriminative_come_first_and_the_first_groups_are_the_larger(d, groups, sizes):
    score = draws(d)
    parts = discriminative_groups(score, groups)
    assert [len(part) for part in parts] == sizes == [len(p) for p in np.array_split(score, groups)]
    assert torch.equal(torch.cat(parts), score.argsort())


@pytest.mark.claim("G15")
def test_a_tie_keeps_the_features_order():
    first, second = discriminative_groups(torch.zeros(100), 2)
    assert first.tolist() + second.tolist() == list(range(100))


@pytest.mark.claim("G14")
def test_the_offset_lifts_all_scores_alike():
    x, w, b, y = case()
    lift = discriminativity(x, w, b, y) - discriminativity(x, w, None, y)
    told = (b[y] - (b.sum() - b[y]) / 3).mean() / 6
    torch.testing.assert_close(lift, told.expand(6))


@pytest.mark.claim("G6")
@pytest.mark.parametrize("sizes", [(3, 3), (4, 2), (1, 5)])
def test_a_group_has_its_share_of_the_offset(sizes):
    w, b = torch.zeros(3, 6, dtype=torch.float64), draws(3)
    parts = torch.arange(6).split(sizes)
    x = torch.zeros(1, 6, dtype=torch.float64)
    ours = group_loss(x, w, b, ZERO, (2,), 2, grouping=lambda *_: parts)
    told = sum(softmax_loss(b[None] * size / 6, ZERO) for size in sizes)
    torch.testing.assert_close(ours, told)


def test_without_an_offset_it_is_that_of_zeros():
    x, w, b, y = case()
    assert torch.equal(group_loss(x, w, None, y), group_loss(x, w, 0 * b, y))


@pytest.mark.claim("G18")
def test_the_batch_shares_one_grouping_by_the_mean_score():
    x, w, b, y = case()
    alone = [discriminativity(x[i : i + 1], w, b, y[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(discriminativity(x, w, b, y), torch.stack(alone).mean(0))
    seen = []

    def spy(score, groups):
        seen.append((score, groups))
        return discriminative_groups(score, groups)

    group_loss(x.requires_grad_(), w, b, y, (1, 2), grouping=spy)
    ((score, groups),) = seen
    assert groups == 2
    assert not score.requires_grad
    torch.testing.assert_close(score, discriminativity(x, w, b, y))


@pytest.mark.claim("G32")
def test_any_loss_of_logits_can_stand_in_the_groups():
    x, w, b, y = case()
    margins = torch.rand(5, dtype=torch.float64)
    ours = group_loss(x, w, b, y, (1,), base=partial(soft_margin_loss, margin=margins))
    torch.testing.assert_close(ours, soft_margin_loss(linear(x, w, b), y, margins))
    scaled = group_loss(x, w, b, y, (2,), 1, base=lambda f, y: f.square().sum(1))
    parts = discriminative_groups(discriminativity(x, w, b, y), 2)
    told = sum((2 * (x[:, p] @ w[:, p].T + b / 2)).square().sum(1) / 2 for p in parts)
    torch.testing.assert_close(scaled, told)


def test_a_number_that_occurs_twice_counts_twice():
    batch = case()
    told = (2 * group_loss(*batch, (1,)) + group_loss(*batch, (2,))) / 3
    torch.testing.assert_close(group_loss(*batch, [1, 2, 1]), told)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, w, b, y = case(8, 6, 4)
    halves = [part.to(dtype) for part in (x, w, b)]
    wide = [part.float() for part in halves]
    assert torch.equal(group_loss(*halves, y), group_loss(*wide, y))
    assert discriminativity(*halves, y).dtype == torch.float32
    # And under autocast the logits are not rounded to the half precision that it chooses.
    with torch.autocast("cpu", dtype):
        assert torch.equal(group_loss(*wide, y), group_loss(*halves, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_extremes_are_finite(dtype):
    x = torch.tensor([[300.0, -300, 0, 1], [0, 0, 0, 0]], dtype=dtype, requires_grad=True)
    w = torch.tensor([[100.0, 0, 5, 0], [0, 100, 5, 0], [0, 0, 5, 0]], dtype=dtype)
    w.requires_grad_()
    loss = group_loss(x, w, None, torch.tensor([1, 2]), (1, 2, 4), 2)
    assert loss.isfinite().all()
    assert loss.dtype == (torch.float32 if dtype == torch.float16 else dtype)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.sum(), (x, w)))


def test_labels_of_any_integer_kind_will_do():
    x, w, b, y = case()
    assert torch.equal(group_loss(x, w, b, y.to(torch.uint8)), group_loss(x, w, b, y))


def test_it_compiles_to_one_graph():
    torch.compiler.reset()
    x, w, b, y = case()
    compiled = torch.compile(group_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, w, b, y), group_loss(x, w, b, y))
    told = group_loss(x, w, None, y, (1, 4, 3), 2)
    torch.testing.assert_close(compiled(x, w, None, y, (1, 4, 3), 2), told)


def test_no_examples_have_no_losses():
    x, w, b, y = case(n=0)
    assert group_loss(x, w, b, y).shape == (0,)


def test_the_head_is_the_loss_of_its_own_classifier():
    x, _, _, y = case()
    head = GroupHead(6, 4, groups=(1, 3), kind=2).double()
    told = group_loss(x, head.weight, head.bias, y, (1, 3), 2)
    torch.testing.assert_close(head(x, y), told.mean())
    torch.testing.assert_close(head.logits(x), linear(x, head.weight, head.bias))


# What the exercises ask for.


def test_the_weakest_group_is_no_dropout_of_the_strongest():
    # Of four features with the scores 3, 1, -1, 0 softmax hears 3; type 2 hears -1 and 4.
    z = torch.tensor([[3.0, 0], [1, 0], [-1, 0], [0, 0]])
    assert of(z, [range(4)], 1) == pytest.approx(math.log1p(math.exp(-3)), abs=1e-12)
    told = math.log1p(math.exp(1)), math.log1p(math.exp(-4))
    assert sorted_groups(z, 2) == [[2, 3], [1, 0]]
    assert of(z, sorted_groups(z, 2), 2) == pytest.approx(sum(told), abs=1e-12)


# What the study measures.


def test_the_fisher_score_is_one_for_classes_apart_and_zero_for_what_never_changes():
    features = torch.tensor([[0.0, 1.0, 7.0, 0.0], [0, 3, 7, 0], [1, 1, 7, 1], [1, 3, 7, 3]])
    labels = torch.tensor([0, 0, 1, 1])
    # Of the last: between the classes 4 * 1, in all 4 * 1 + 2 (the second class's own spread).
    told = [1, 0, 0, 2 / 3]
    assert lab.fisher(features, labels, 3).tolist() == pytest.approx(told, abs=1e-12)
    # The second and the third say nothing new: three features change, in three pairs.
    found = lab.correlations(features).tolist()
    told = np.corrcoef(features[:, [0, 1, 3]].T.double().numpy())
    assert found == pytest.approx([told[0, 1], told[0, 2], told[1, 2]], abs=1e-12)


def test_the_plane_is_fishers():
    # Two classes apart along the first axis, a wide spread along the second: the plane sees the
    # first axis, in units of the spread within.
    x = draws(400, 3) * torch.tensor([1.0, 10, 1])
    labels = torch.arange(400) % 2
    x[:, 0] += 5 * labels
    view = x @ lab.plane(x, labels)
    apart = [view[labels == k, 0].mean() for k in (0, 1)]
    assert abs(apart[0] - apart[1]).item() == pytest.approx(5, abs=0.5)
    assert view[labels == 0, 0].std().item() == pytest.approx(1, abs=0.1)


# What the paper prints.


@pytest.mark.claim("G34")
def test_type_2_beats_the_hand_crafted_method_in_every_column_and_type_1_in_one():
    # Table 4: Caltech-256 and SUN-397, ResNet50 and VGG16; the hand-crafted one has no network.
    hand = [42.7, 42.7, 52.8, 52.8]
    rows = {"softmax": [48.4, 51.3, 55.7, 58.8]}
    rows |= {"I": [42.8, 46.1, 52.9, 52.2], "II": [37.5, 41.8, 50.4, 50.0]}
    better = {
        name: sum(e < h for e, h in zip(row, hand, strict=True)) for name, row in rows.items()
    }
    assert better == {"softmax": 0, "I": 1, "II": 4}
    assert min(44.5, 44.6, 45.4) < 46.1  # L-Softmax, center loss, adversarial dropout


@pytest.mark.claim("G33")
def test_type_1_catches_up_with_the_number_of_classes_and_not_on_resnet50():
    one, two, softmax = [14.6, 16.3, 19.0, 23.3], [13.0, 15.6, 19.1, 24.1], [15.4, 18.1, 20.2, 23.5]
    lead = [a - b for a, b in zip(one, two, strict=True)]
    assert lead == sorted(lead, reverse=True)
    assert lead[1] > 0 > lead[2]
    assert all(a < s for a, s in zip(one, softmax, strict=True))
    assert two[3] > softmax[3]


# What the record holds.


def desk(**wanted):
    return evidence.recall("group").select(scale="desk", **wanted)


FASHION = ("fashion-10", "fashion-30", "fashion-100")


@pytest.mark.claim("G33", "G35")
@pytest.mark.parametrize("regime", [*FASHION, "characters-30", "characters-100", "omniglot-15"])
def test_on_record_neither_type_errs_less_than_the_softmax_loss(regime):
    runs = desk(regime=regime)
    for method in ("type1-12", "type2-124"):
        assert not runs.paired(method, "softmax", "error").detectable
    # Nor is there a lead of type 2 over type 1 that could shrink as the classes grow in number.
    assert not runs.paired("type2-124", "type1-12", "error").detectable


@pytest.mark.claim("G35")
def test_on_record_more_groups_of_eight_features_harm_type_1_and_not_type_2():
    runs = desk(regime="characters-100")
    for groups, verdict in (("124", "improves"), ("1248", "improves")):
        assert runs.paired(f"type2-{groups}", f"type1-{groups}", "error").verdict == verdict
    assert runs.paired("type1-1248", "softmax", "error").verdict == "worsens"
    for method in ("type1-124", "type2-12", "type2-1248"):
        assert not runs.paired(method, "softmax", "error").detectable


@pytest.mark.claim("G36")
@pytest.mark.parametrize("method", ["type1-12", "type2-124"])
def test_on_record_the_discriminative_grouping_is_worse_than_a_fixed_one(method):
    runs = desk(regime="characters-100")
    assert runs.paired(method, f"{method}-fixed", "error").verdict == "worsens"
    assert not runs.paired(method, f"{method}-random", "error").detectable


def test_on_record_both_types_err_more_on_photographs():
    runs = desk(regime="cifar")
    for method in ("type1-12", "type2-124"):
        assert runs.paired(method, "softmax", "error").verdict == "worsens"
        assert not runs.paired(method, "softmax", "fisher_mean").detectable


@pytest.mark.claim("G32")
def test_on_record_no_combination_changes_the_error_detectably():
    runs = desk(regime="characters-100")
    assert not runs.paired("type2-124-soft-margin", "soft-margin", "error").detectable
    assert not runs.paired("type2-124-disagreement", "type2-124", "error").detectable


@pytest.mark.parametrize("regime", FASHION)
def test_on_record_type_2_pays_with_its_probabilities_and_type_1_gains(regime):
    runs = desk(regime=regime)
    assert runs.paired("type2-124", "softmax", "nll").verdict == "worsens"
    assert runs.paired("type1-12", "softmax", "nll").verdict == "improves"


@pytest.mark.claim("G37")
@pytest.mark.parametrize("regime", [*FASHION, "characters-100", "omniglot-15"])
def test_on_record_the_features_tell_the_classes_apart_better(regime):
    runs = desk(regime=regime)
    assert runs.paired("type2-124", "softmax", "fisher_mean").verdict == "higher"
    for run in runs.runs:
        fisher = run.measures["test"]["fisher"]
        assert len(fisher) == 64
        assert fisher == sorted(fisher)
        assert sum(fisher) / 64 == pytest.approx(run.measures["test"]["fisher_mean"], abs=1e-4)


# --- Refused -----------------------------------------------------------------------------

GOOD = dict(zip(("features", "weight", "bias", "target"), case(), strict=True))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"features": torch.zeros(5, 7)}, ValueError, r"features \(5, 7\) and weight \(4, 6\)"),
        ({"target": torch.zeros(4).long()}, ValueError, r"and target \(4,\)"),
        ({"weight": torch.zeros(1, 6), "bias": None}, ValueError, "needs a rival"),
        ({"bias": torch.zeros(3)}, ValueError, r"expected bias \(4,\) or None; got \(3,\)"),
        ({"bias": torch.zeros(4).long()}, TypeError, "bias must be floating point; got"),
        ({"target": torch.zeros(5)}, TypeError, "class indices"),
        ({"target": torch.tensor([0, 1, 4, 0, 0])}, ValueError, "labels from 0 to 3.*4 in row 2"),
        ({"target": torch.tensor([0, 1, 0, -1, 0])}, ValueError, "labels from 0 to 3.*-1 in row 3"),
    ],
)
@pytest.mark.parametrize("function", [discriminativity, group_loss])
def test_a_bad_batch_is_refused(function, change, error, says):
    with pytest.raises(error, match=says):
        function(**GOOD | change)


@pytest.mark.claim("G5")
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"groups": (1, 7)},
            ValueError,
            r"groups from 1 to 6, the number of features; got \(1, 7\)",
        ),
        ({"groups": [0, 2]}, ValueError, r"got \(0, 2\)"),
        ({"groups": ()}, ValueError, "expected one or more numbers of groups"),
        ({"groups": 2}, TypeError, r"integers in a tuple, such as \(1, 2\); got 2"),
        ({"groups": (1, 2.0)}, TypeError, r"got \(1, 2.0\)"),
        ({"kind": 3}, ValueError, r"kind must be 1 or 2, for Eq. \(7\) or \(8\); got 3"),
        ({"kind": "I"}, ValueError, "got 'I'"),
        (
            {"grouping": lambda score, groups: [torch.arange(6)]},
            ValueError,
            r"a grouping of 6 features into 2 index tensors; got sizes \[6\]",
        ),
        (
            {"grouping": lambda score, groups: [torch.arange(3), torch.arange(2)]},
            ValueError,
            r"got sizes \[3, 2\]",
        ),
    ],
)
def test_groups_that_are_none_are_refused(change, error, says):
    with pytest.raises(error, match=says):
        group_loss(**GOOD | change)
