"""Chapter 8: several classifiers on one feature vector, proved, computed and told."""

import math
from functools import partial
from itertools import combinations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, spearmanr
from sympy import Matrix, Rational, Symbol, cos, diff, exp, sin, symbols
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

from marginlib import (
    average_classifiers,
    ensemble_loss,
    hsic,
    large_margin_loss,
    soft_margin_loss,
    softmax_loss,
)
from marginlib.ensemble import resemblance, unit_vectors
from marginlib.lab import evidence
from marginlib.symbolic import ensemble as paper
from marginlib.symbolic.logits import lse
from marginlib.symbolic.proof import prove

LAM, M = symbols("lambda m", positive=True)
A, B = (paper.classifier(name, 3, 2) for name in "ab")
# One feature is enough to see where a factor or a margin stands, and is proved in a second.
X = Matrix([Symbol("x", real=True)])
SLIM = [A[:, :1], B[:, :1]]


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def tensor(matrix):
    return torch.tensor(matrix.tolist(), dtype=torch.float64)


def centring(c):
    return torch.eye(c, dtype=torch.float64) - 1 / c


def printed_hsic(w, u):
    """Eq. (5) as it stands, with the centring matrix and without its factor."""
    h = centring(len(w))
    return torch.trace(w @ w.T @ h @ u @ u.T @ h)


def printed_loss(features, weights, target, margin, diversity):
    """Eq. (8) as it stands, each classifier's loss by torch."""
    unit = normalize(weights, dim=2)
    total = features.new_zeros(len(target))
    for v in range(len(weights)):
        logits = features @ weights[v].T
        lowered = logits.clone()
        rows = torch.arange(len(target))
        lowered[rows, target] = logits[rows, target] - margin
        total = total + cross_entropy(lowered, target, reduction="none")
        for u in range(len(weights)):
            if u != v:
                total = total + diversity * printed_hsic(unit[v], unit[u])
    return total


def batch(n=6, v=3, c=4, d=5, seed=0):
    return draws(n, d, seed=seed), draws(v, c, d, seed=seed + 1), torch.arange(n) % c


# --- Claimed and proved ------------------------------------------------------------------


@pytest.mark.claim("E12")
def test_with_inner_products_hsic_is_the_squared_covariance_over_the_classes():
    equation = paper.equation_5(A, paper.classifier("b", 3, 1))
    assert equation.prove() == "∎"
    assert (equation.source, equation.number) == ("001", "5")
    numbers = Matrix([[1, 4], [-2, 0], [5, 1], [7, 7]]), Matrix([[0], [3], [1], [-8]])
    w, u = (tensor(matrix) for matrix in numbers)
    crossed = torch.cov(torch.cat([w, u], dim=1).T)[:2, 2:].square().sum()
    assert float(paper.equation_5(*numbers).right) == pytest.approx(crossed.item())
    assert float(paper.hsic(*numbers)) == pytest.approx(9 * crossed.item())


@pytest.mark.claim("E12")
def test_a_classifier_and_its_square_are_independent_to_hsic_and_not_to_another_kernel():
    w, u = Matrix([-1, 0, 1]), Matrix([1, 0, 1])
    assert u == w.applyfunc(lambda x: x**2)
    assert paper.hsic(w, u) == 0
    assert hsic(tensor(w), tensor(u)) == 0
    h = paper.centring(3)
    squared = paper.gram(w).applyfunc(lambda k: (1 + k) ** 2)
    assert (squared * h * paper.gram(u) * h).trace() == Rational(4, 9)


@pytest.mark.claim("E13")
def test_rank_correlations_see_every_monotone_dependence_and_miss_what_hsic_misses():
    x = range(1, 9)
    cube = [t**3 for t in x]
    assert spearmanr(x, cube).statistic == pytest.approx(1)
    assert kendalltau(x, cube).statistic == pytest.approx(1)
    assert pearsonr(x, cube).statistic == pytest.approx(0.9318, abs=1e-4)
    w, u = [-2.0, -1.0, 1.0, 2.0], [4.0, 1.0, 1.0, 4.0]
    assert spearmanr(w, u).statistic == pytest.approx(0, abs=1e-12)
    assert kendalltau(w, u).statistic == pytest.approx(0, abs=1e-12)
    assert hsic(torch.tensor(w)[:, None], torch.tensor(u)[:, None]) == 0


@pytest.mark.claim("E14")
def test_eq_6_has_three_equal_forms():
    slim = [paper.classifier(name, 3, 1) for name in "abd"]
    equations = paper.equation_6(slim, 1)
    assert [equation.prove() for equation in equations] == ["∎"] * 3
    assert [equation.number for equation in equations] == ["6, left", "6, middle", "6, right"]
    # With more features, in whole numbers, which SymPy does not round.
    whole = [Matrix(4, 2, lambda k, j, v=v: (5 * v + 3 * k * k + 7 * j * k) % 11) for v in range(3)]
    for v in range(3):
        sides = [(equation.left, equation.right) for equation in paper.equation_6(whole, v)]
        assert len({*sides[0], *sides[1], *sides[2]}) == 1
        u, w = (whole[place] for place in range(3) if place != v)
        assert sides[0][0] == paper.hsic(whole[v], u) + paper.hsic(whole[v], w) > 0


@pytest.mark.claim("E14")
def test_the_factor_that_eq_6_leaves_out_grows_with_the_square_of_the_classes():
    assert [(c - 1) ** 2 for c in (10, 100, 1000)] == [81, 9801, 998001]
    w, u = draws(10, 3), draws(10, 3, seed=1)
    whole = float(paper.equation_5(Matrix(w.tolist()), Matrix(u.tolist())).right)
    assert hsic(w, u).item() == pytest.approx(81 * whole)


@pytest.mark.claim("E15")
def test_hsic_is_quadratic_in_the_size_of_each():
    a, b = symbols("s t", positive=True)
    assert paper.scaled(A[:, :1], B[:, :1], a, b).prove() == "∎"
    assert not any(s in paper.hsic(A, B).free_symbols for s in (a, b))
    w, u = draws(5, 3), draws(5, 4, seed=1)
    torch.testing.assert_close(hsic(3 * w, -2 * u), 36 * hsic(w, u))


@pytest.mark.claim("E16")
@pytest.mark.parametrize("c", range(2, 8))
def test_between_unit_class_vectors_hsic_lies_between_0_and_the_squared_classes(c):
    unit = unit_vectors(draws(200, 2, c, 3))
    values = torch.stack([hsic(w, u) for w, u in unit])
    assert values.min() > 0
    assert values.max() < c * c
    # On a line unit vectors are signs: all of them are tried.
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=c)))[:, :, None]
    most = max(hsic(w, w).item() for w in signs)
    assert most == pytest.approx(c * c if c % 2 == 0 else (c - 1 / c) ** 2)


@pytest.mark.claim("E17")
def test_turning_one_classifier_changes_its_predictions_and_not_hsic():
    t = Symbol("t", real=True)
    w, u = (paper.classifier(name, 2, 2) for name in "ab")
    assert paper.turned(w, u, Matrix([[cos(t), -sin(t)], [sin(t), cos(t)]])).prove() == "∎"
    features, w = draws(100, 5), draws(4, 5)
    turn = torch.linalg.qr(draws(5, 5, seed=3))[0]
    torch.testing.assert_close(hsic(w, w @ turn), hsic(w, w))
    agree = (features @ w.T).argmax(1) == (features @ (w @ turn).T).argmax(1)
    assert agree.double().mean() < 0.5


@pytest.mark.claim("E18")
def test_a_classifier_of_full_rank_leaves_its_partner_only_constants():
    for c, d, seed in ((3, 2, 0), (4, 6, 1), (6, 5, 2)):
        w, u = draws(c, d, seed=seed), draws(c, d, seed=seed + 10)
        h = centring(c)
        least = torch.linalg.svdvals(h @ w)[c - 2]
        assert hsic(w, u) >= least**2 * (h @ u).square().sum() * (1 - 1e-12)
    assert hsic(w, u.mean(0).expand(c, d)) < 1e-25


@pytest.mark.claim("E18")
def test_zero_hsic_shares_out_the_rank():
    # Four classes as two bits: each classifier sees one of them.
    first = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    second = torch.tensor([[0, 1.0], [0, -1], [0, 1], [0, -1]])
    assert hsic(first, second) == 0
    h = centring(4).float()
    ranks = [torch.linalg.matrix_rank(h @ w).item() for w in (first, second)]
    assert sum(ranks) == 2 <= 3
    # Alone neither tells all classes apart; their average does.
    assert len(first.unique(dim=0)) == len(second.unique(dim=0)) == 2
    average = average_classifiers(torch.stack([first, second]))
    assert ((average @ average.T).argmax(1) == torch.arange(4)).all()
    # In general: the ranks of a pair with zero HSIC add up to c - 1 at most.
    w = draws(5, 3)
    within = torch.linalg.svd(centring(5) @ w)[0][:, 3:]  # orthogonal to w's columns
    free = within @ draws(2, 4, seed=1)
    assert hsic(w, centring(5) @ free) < 1e-25
    assert torch.linalg.matrix_rank(centring(5) @ free, atol=1e-9) == 1


@pytest.mark.claim("E18")
@pytest.mark.parametrize("c", [2, 3, 4])
def test_next_to_a_simplex_every_partner_of_one_spread_costs_the_same(c):
    u, v = paper.classifier("u", c, 2), Symbol("v", positive=True)
    assert paper.beside_a_simplex(u, v).prove() == "∎"
    simplex = unit_vectors(centring(c))
    assert hsic(simplex, simplex).item() == pytest.approx(c * c / (c - 1))
    partner = draws(c, 3)
    partner = unit_vectors(partner - partner.mean(0))
    spread = (partner - partner.mean(0)).square().sum()
    assert hsic(simplex, partner).item() == pytest.approx(c / (c - 1) * spread.item())


@pytest.mark.claim("E19")
@pytest.mark.parametrize("y", range(3))
def test_eq_7_is_the_softmax_losses_and_twice_every_pair(y):
    equation = paper.equation_7(X, SLIM, y, LAM)
    assert equation.prove() == "∎"
    assert equation.number == "7"
    assert prove(diff(equation.right, LAM), 2 * paper.hsic(*SLIM))
    losses = sum(lse(list(w * X)) - (w * X)[y] for w in SLIM)
    assert prove(equation.right.subs(LAM, 0), losses)


@pytest.mark.claim("E20")
@pytest.mark.parametrize("v", [0, 2])
def test_the_penaltys_slope_is_four_times_what_is_printed(v):
    weights = [paper.classifier(name, 3, 1) for name in "abd"]
    assert [equation.prove() for equation in paper.equation_9(weights, v)] == ["∎"] * 3
    slope = paper.slope(paper.penalty(weights), weights[v])
    assert prove(slope[0], 4 * paper.printed_slope(weights, v)[0])
    # With the partners' own terms held fixed one factor of two is left.
    own = (weights[v].T * paper.others(weights, v) * weights[v]).trace()
    assert prove(diff(own, weights[v][0]), 2 * paper.printed_slope(weights, v)[0])


@pytest.mark.claim("E20")
def test_autograd_finds_the_same_four():
    w, u = draws(5, 3).requires_grad_(), draws(5, 3, seed=1)
    (slope,) = torch.autograd.grad(2 * hsic(w, u), w)
    h = centring(5)
    printed = h @ u @ u.T @ h @ w.detach()
    torch.testing.assert_close(slope, 4 * printed)


@pytest.mark.claim("E21")
@pytest.mark.parametrize("d", [2, 3])
def test_a_unit_vector_moves_across_itself(d):
    equations = paper.projection(d)
    assert len(equations) == d * d
    assert [equation.prove() for equation in equations] == ["∎"] * d * d


@pytest.mark.claim("E21")
def test_normalised_the_slope_is_projected_and_divided_by_the_length():
    weights = draws(3, 4, 5).requires_grad_()
    (slope,) = torch.autograd.grad(resemblance(weights), weights)
    w, h = weights.detach(), centring(4)
    unit, lengths = normalize(w, dim=2), w.norm(dim=2, keepdim=True)
    for v in range(3):
        k = sum(h @ unit[u] @ unit[u].T @ h for u in range(3) if u != v)
        straight = 4 * k @ unit[v]
        along = (straight * unit[v]).sum(1, keepdim=True) * unit[v]
        torch.testing.assert_close(slope[v], (straight - along) / lengths[v])
    assert (slope * w).sum(2).abs().max() < 1e-12


@pytest.mark.claim("E21")
def test_the_printed_direction_is_another_one():
    cosines = []
    for seed in range(100):
        weights = draws(2, 10, 5, seed=seed).requires_grad_()
        (slope,) = torch.autograd.grad(resemblance(weights), weights)
        w, u = normalize(weights.detach(), dim=2)
        printed = centring(10) @ u @ u.T @ centring(10) @ w
        cosines.append(torch.cosine_similarity(slope[0].flatten(), printed.flatten(), dim=0))
    mean = torch.stack(cosines).mean().item()
    assert mean == pytest.approx(0.6, abs=0.1)


@pytest.mark.claim("E22")
@pytest.mark.parametrize("y", range(3))
def test_eq_8_is_eq_7_with_the_target_lowered_in_every_classifier(y):
    equation = paper.equation_8(X, SLIM, y, M, LAM)
    assert equation.prove() == "∎"
    assert equation.number == "8"
    assert prove(equation.right.subs(M, 0), paper.equation_7(X, SLIM, y, LAM).right)


@pytest.mark.claim("E23")
def test_the_features_hear_every_classifiers_shifted_softmax_and_no_penalty():
    features, weights, target = batch()
    features.requires_grad_()
    (slope,) = torch.autograd.grad(
        ensemble_loss(features, weights, target, 0.7, 5.0).sum(), features
    )
    label = torch.nn.functional.one_hot(target, 4).double()
    logits = features.detach() @ weights.mT - 0.7 * label
    told = ((logits.softmax(2) - label) @ weights).sum(0)
    torch.testing.assert_close(slope, told)


@pytest.mark.claim("E24")
def test_averaging_weights_averages_logits_and_neither_probabilities_nor_votes():
    features, weights, _ = batch()
    together = features @ average_classifiers(weights).T
    torch.testing.assert_close(together, (features @ weights.mT).mean(0))
    logits = torch.tensor([[10.0, 0, 0], [-7, 0, 0], [-1, 1, 0]], dtype=torch.float64)
    assert logits.mean(0).tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    shares = logits.softmax(1).mean(0)
    assert shares.tolist() == pytest.approx([0.363, 0.388, 0.248], abs=1e-3)
    assert logits.mean(0).argmax() == 0
    assert shares.argmax() == logits.argmax(1).mode().values == 1


@pytest.mark.claim("E25")
def test_two_members_losses_exceed_twice_their_averages_by_a_sum_of_squares():
    f, g = (list(symbols(f"{name}_:3", real=True)) for name in "fg")
    equation = paper.jensen_for_two(f, g)
    assert equation.prove() == "∎"
    middle = [(a + b) / 2 for a, b in zip(f, g, strict=True)]
    assert prove(equation.left, exp(lse(f) + lse(g)) - exp(2 * lse(middle)))


@pytest.mark.claim("E25")
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 5))
@settings(max_examples=30)
def test_the_training_loss_bounds_the_averaged_classifiers(seed, v, margin):
    features, weights, target = batch(v=v, seed=seed)
    together = soft_margin_loss(features @ average_classifiers(weights).T, target, margin)
    members = ensemble_loss(features, weights, target, margin, diversity=0.0)
    assert (members >= v * together - 1e-12).all()
    if v == 1:
        torch.testing.assert_close(members, together)


@pytest.mark.claim("E27")
@pytest.mark.parametrize(
    ("c", "d", "k", "most"),
    [
        (100, 8, 8, 2 * 100 * 64),
        (100, 8, 24, 2 * 100 * 192),
        (4, 64, 64, 2 * 16 * 128),
        (10, 12, 12, 2 * 10 * 144),
        (10, 25, 25, 2 * 100 * 50),
        (10, 25, 16, 2 * 10 * 400),
        (3, 4, 64, 2 * 9 * 68),
        (3, 64, 4, 2 * 9 * 68),
    ],
)
def test_hsic_takes_the_cheaper_of_two_products_and_no_centring_matrix(c, d, k, most):
    w, u = draws(c, d), draws(c, k, seed=1)
    with FlopCounterMode(display=False) as counted:
        hsic(w, u)
    assert counted.get_total_flops() == most
    with FlopCounterMode(display=False) as naive:
        printed_hsic(w, u)
    assert naive.get_total_flops() > most


@pytest.mark.parametrize(
    ("v", "c", "d", "most"),
    [
        (2, 40, 64, 2 * 40 * 64 * 64),  # one pair
        (2, 24, 64, 2 * 2 * 24 * 24 * 64),  # two Gram matrices
        (5, 64, 31, 10 * 2 * 64 * 31 * 31),
        (5, 64, 33, 5 * 2 * 64 * 64 * 33),
    ],
)
def test_an_ensemble_makes_a_gram_matrix_each_or_a_product_for_each_pair(v, c, d, most):
    with FlopCounterMode(display=False) as counted:
        resemblance(draws(v, c, d))
    assert counted.get_total_flops() == most


# The source's tables: accuracies in per cent, in the order of their columns.
TABLE_1 = {
    "HingeLoss": (99.53, 90.09, 93.31, 67.10, 68.48),
    "CenterLoss": (99.41, 91.65, 93.82, 69.23, 70.97),
    "A-Softmax": (99.66, 91.72, 93.98, 70.87, 72.23),
    "N-Softmax": (99.48, 91.46, 93.90, 70.49, 71.85),
    "L-Softmax": (99.69, 92.42, 94.08, 70.47, 71.96),
    "Softmax": (99.60, 90.95, 93.50, 67.26, 69.15),
    "M-Softmax": (99.70, 92.50, 94.27, 70.72, 72.54),
    "E-Softmax": (99.69, 92.38, 93.92, 70.34, 71.33),
    "EM-Softmax": (99.73, 93.31, 95.02, 72.21, 75.69),
}


def gains(over, columns, of="EM-Softmax"):
    pairs = zip(TABLE_1[of], TABLE_1[over], strict=True)
    every = [round(ours - theirs, 2) for ours, theirs in pairs]
    return [every[column] for column in columns]


@pytest.mark.claim("E28")
def test_on_cifar10_plus_the_gain_is_not_two_points():
    assert gains("Softmax", (1, 2)) == [2.36, 1.52]


@pytest.mark.claim("E29")
def test_on_cifar100_the_gain_is_five_points_but_for_rounding():
    assert gains("Softmax", (3, 4)) == [4.95, 6.54]


@pytest.mark.claim("E30")
def test_over_one_margin_the_gain_is_three_points_only_with_augmentation():
    assert gains("L-Softmax", (3, 4)) == [1.74, 3.73]
    assert gains("A-Softmax", (3, 4)) == [1.34, 3.46]


@pytest.mark.claim("E31")
def test_on_imagenet32_both_gains_are_2_3_points():
    assert (round(49.22 - 46.89, 2), round(74.22 - 71.94, 2)) == (2.33, 2.28)


@pytest.mark.claim("E32")
def test_the_tables_tell_one_method_by_several_numbers():
    table_3 = {"LiuNet": (15.7, 67.26), "LiuNet(96)": (31.0, 67.26), "EM-Softmax": (31.1, 72.74)}
    assert table_3["EM-Softmax"][1] != TABLE_1["EM-Softmax"][3]
    assert TABLE_1["Softmax"][1] != 90.90  # Table 5
    assert table_3["LiuNet"][1] == table_3["LiuNet(96)"][1]
    # A second classifier of 100 classes on LiuNet's 256 features is the 0.1 MB that it adds.
    assert pytest.approx(31.1 - 31.0, abs=0.01) == 256 * 100 * 4 / 1e6


@pytest.mark.claim("E33")
def test_an_ensemble_alone_gains_less_than_half_a_point_with_augmentation():
    assert gains("Softmax", (1, 2), of="E-Softmax") == [1.43, 0.42]
    assert gains("L-Softmax", (1, 2), of="M-Softmax") == [0.08, 0.19]
    assert gains("A-Softmax", (1, 2), of="M-Softmax") == [0.78, 0.29]
    mnist = {name: row[0] for name, row in TABLE_1.items()}
    leading = sorted(mnist, key=mnist.get)[-5:]
    assert set(leading) == {"A-Softmax", "L-Softmax", "M-Softmax", "E-Softmax", "EM-Softmax"}
    assert max(mnist[name] for name in TABLE_1 if name not in leading) == 99.60


@pytest.mark.claim("E34")
def test_on_imagenet32_the_least_lead_over_the_others_is_more_than_a_point():
    # Table 2: hinge, center loss, A-, N- and L-Softmax.
    top_1, top_5 = (46.52, 47.43, 48.12, 47.52, 47.85), (71.56, 71.98, 72.51, 72.06, 72.63)
    assert (round(49.22 - max(top_1), 2), round(74.22 - max(top_5), 2)) == (1.10, 1.59)
    assert round(49.22 - 48.21, 2) == 1.01  # M-Softmax


# The groups of chapter 7 are members of an ensemble.


def test_group_softmax_of_type_i_is_the_mean_loss_of_masked_classifiers():
    w, x = paper.classifier("w", 2, 3), Matrix(symbols("x_:3", real=True))
    groups = [[0, 1], [2]]
    assert paper.groups_are_members(x, w, 1, groups).prove() == "∎"
    assert paper.resemblance_of_groups(w, groups).prove() == "∎"
    assert paper.groups_are_members(x, w, 1, [[0], [1], [2]]).prove() == "∎"
    # The average of the masked classifiers is the classifier itself.
    members = [paper.masked(w, group, 2) for group in groups]
    assert (members[0] + members[1]) / 2 == w


def test_masked_classifiers_in_the_library():
    features, weight, target = draws(6, 5), draws(4, 5, seed=1), torch.arange(6) % 4
    groups = [[0, 3], [1, 4], [2]]
    members = torch.zeros(3, 4, 5, dtype=torch.float64)
    for member, group in zip(members, groups, strict=True):
        member[:, group] = 3 * weight[:, group]
    told = [softmax_loss(3 * features[:, group] @ weight[:, group].T, target) for group in groups]
    ours = ensemble_loss(features, members, target, diversity=0.0)
    torch.testing.assert_close(ours, sum(told))
    torch.testing.assert_close(average_classifiers(members), weight)
    block = (weight.T @ centring(4) @ weight)[[0, 3]][:, [1, 4]]
    torch.testing.assert_close(hsic(members[0], members[1]), 3**4 * block.square().sum())


@pytest.mark.claim("E16", "E17")
def test_a_common_vector_buys_the_penalty_and_changes_no_prediction():
    features, weights, _ = batch(v=2)
    prices = []
    for t in (0.0, 10.0, 100.0):
        moved = weights + t
        shares = (features @ moved.mT).softmax(2)
        torch.testing.assert_close(shares, (features @ weights.mT).softmax(2))
        prices.append(resemblance(moved).item())
        # Centred first and scaled afterwards it is not for sale.
        centred = moved - moved.mean(1, keepdim=True)
        told = resemblance(weights - weights.mean(1, keepdim=True))
        assert resemblance(centred).item() == pytest.approx(told.item())
    assert prices[0] > 1
    assert prices[1] < 0.01
    assert prices[2] < 1e-6


def test_with_three_classes_no_partner_of_a_line_tells_them_all_apart():
    first = Matrix([-1, 0, 1])
    every = product((-1, 0, 1), repeat=3)
    zero = [u for u in every if paper.hsic(first, Matrix(u)) == 0]
    assert len(zero) == 9
    assert all(u[0] == u[2] for u in zero)


# What the record holds.


def desk(regime):
    return evidence.recall("ensemble").select(scale="desk", regime=regime)


@pytest.mark.claim("E18")
@pytest.mark.parametrize("regime", ["twenty", "hundred"])
def test_on_record_the_penalty_lowers_the_resemblance(regime):
    assert desk(regime).paired("em-softmax", "em-0", "resemblance").high < 0


@pytest.mark.claim("E18")
def test_on_record_it_halves_the_rank_of_a_member():
    values = [desk("twenty").select(method=m).values("rank") for m in ("em-softmax", "em-0")]
    split, whole = (sum(ranks) / len(ranks) for ranks in values)
    assert split < 0.6 * whole


@pytest.mark.claim("E17")
def test_on_record_five_classifiers_resemble_little_and_agree_much():
    five = desk("twenty").select(method="em-of-5")
    free = desk("twenty").select(method="em-0")
    assert max(five.values("resemblance")) < 1 < min(free.values("resemblance"))
    assert max(five.values("differ")) < min(free.values("differ"))


# --- Computed and compared ---------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=40)
def test_hsic_is_eq_5_as_printed(seed, c, d, k):
    w, u = draws(c, d, seed=seed), draws(c, k, seed=seed + 1)
    torch.testing.assert_close(hsic(w, u), printed_hsic(w, u))
    torch.testing.assert_close(hsic(w, u), hsic(u, w))


@pytest.mark.claim("E19", "E22")
@pytest.mark.parametrize("d", [2, 5, 9])
@pytest.mark.parametrize("v", [1, 2, 3, 4])
def test_value_and_gradients_are_those_of_eq_8_as_printed(v, d):
    features, weights, target = batch(v=v, d=d)
    for margin, diversity in ((0.0, 0.1), (0.35, 0.7)):
        slopes = []
        for loss in (ensemble_loss, printed_loss):
            x, w = features.clone().requires_grad_(), weights.clone().requires_grad_()
            value = loss(x, w, target, margin, diversity)
            slopes.append((value.detach(), *torch.autograd.grad(value.square().sum(), (x, w))))
        for ours, theirs in zip(*slopes, strict=True):
            # 1e-10: a few units in the last place of sums of squares near 1e4.
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)


def test_resemblance_is_twice_the_sum_over_pairs():
    # By products of features, and, where that is less, by those of classes.
    for v, c, d in product((2, 3, 5), (4, 3), (3, 4)):
        weights = draws(v, c, d, seed=v)
        unit = normalize(weights, dim=2)
        told = 2 * sum(hsic(unit[a], unit[b]) for a, b in combinations(range(v), 2))
        torch.testing.assert_close(resemblance(weights), told)
    assert resemblance(weights[:1]) == 0


def test_gradients_are_right_to_the_second_order():
    features, weights, target = batch(n=2, v=2, c=3, d=4)
    given_ = (features.requires_grad_(), weights.requires_grad_())

    def loss(x, w):
        return ensemble_loss(x, w, target[:2], 0.3, 0.2)

    assert torch.autograd.gradcheck(loss, given_)
    assert torch.autograd.gradgradcheck(loss, given_)
    wide = (draws(5, 2).requires_grad_(), draws(5, 1, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(hsic, wide)
    assert torch.autograd.gradcheck(average_classifiers, given_[1])


def test_unit_vectors_are_torchs_at_every_size():
    weights = draws(2, 3, 4)
    torch.testing.assert_close(unit_vectors(weights), normalize(weights, dim=2))
    small = weights.float()
    for scale in (1e-36, 1.0, 1e36):
        w = (scale * small).requires_grad_()
        unit = unit_vectors(w)
        torch.testing.assert_close(unit.detach(), normalize(small, dim=2))
        (slope,) = torch.autograd.grad(unit[0, 0, 0], w)
        assert slope.isfinite().all()
        assert slope[0, 0, 0] * scale > 0.01


# --- Told and checked --------------------------------------------------------------------


def test_the_defaults_are_no_margin_a_tenth_and_the_softmax_loss():
    features, weights, target = batch()
    assert torch.equal(
        ensemble_loss(features, weights, target),
        ensemble_loss(features, weights, target, 0.0, 0.1, softmax_loss),
    )
    torch.testing.assert_close(
        ensemble_loss(features, weights, target), printed_loss(features, weights, target, 0, 0.1)
    )


def test_one_classifier_is_the_base_loss():
    features, weights, target = batch(v=1)
    logits = features @ weights[0].T
    torch.testing.assert_close(
        ensemble_loss(features, weights, target, 1.5, 100.0),
        soft_margin_loss(logits, target, 1.5),
    )


def test_every_example_carries_the_penalty_so_that_the_mean_holds_it_once():
    features, weights, target = batch()
    priced = ensemble_loss(features, weights, target, diversity=0.3)
    free = ensemble_loss(features, weights, target, diversity=0.0)
    torch.testing.assert_close(priced - free, (0.3 * resemblance(weights)).expand(6))


@pytest.mark.parametrize("margin", [0.0, 2.0])
def test_any_loss_of_logits_can_be_the_base(margin):
    features, weights, target = batch(v=2)
    base = partial(large_margin_loss, strength=0.5)
    ours = ensemble_loss(features, weights, target, margin, 0.0, base)
    told = [
        soft_margin_loss(z, target, margin) + base(z, target) - softmax_loss(z, target)
        for z in features @ weights.mT
    ]
    torch.testing.assert_close(ours, sum(told))
    # A base may know its examples: it is called with each of them once a classifier.
    own = partial(soft_margin_loss, margin=torch.arange(6.0))
    shifted = ensemble_loss(features, weights, target, 0.0, 0.0, own)
    told = [own(z, target) for z in features @ weights.mT]
    torch.testing.assert_close(shifted, sum(told))


def test_a_scheduled_margin_and_strength_may_be_tensors():
    features, weights, target = batch()
    of = torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    assert torch.equal(
        ensemble_loss(features, weights, target, *of),
        ensemble_loss(features, weights, target, 0.5, 0.25),
    )


@pytest.mark.parametrize("diversity", [0.0, 0.1, 10.0])
def test_classifiers_that_start_alike_stay_alike_whatever_the_penalty(diversity):
    features, weights, target = batch(v=2)
    same = weights[:1].repeat(2, 1, 1).requires_grad_()
    descent = torch.optim.SGD([same], lr=0.1, momentum=0.9)
    for _ in range(20):
        descent.zero_grad()
        ensemble_loss(features, same, target, 0.5, diversity).mean().backward()
        descent.step()
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-12)
    assert (same[0] - weights[0]).abs().max() > 0.01


def test_two_alike_without_a_penalty_are_one_with_twice_the_gradient_for_the_features():
    features, weights, target = batch(v=1)
    slopes = []
    for copies in (1, 2):
        x, w = features.clone().requires_grad_(), weights.repeat(copies, 1, 1).requires_grad_()
        loss = ensemble_loss(x, w, target, 1.0, 0.0).sum()
        slopes.append(torch.autograd.grad(loss, (x, w)))
    torch.testing.assert_close(slopes[1][0], 2 * slopes[0][0])
    torch.testing.assert_close(slopes[1][1][0], slopes[0][1][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_vector_of_zeros_is_defined_and_does_not_move(dtype):
    weights = draws(2, 4, 3).to(dtype)
    weights[0, 1] = 0
    weights.requires_grad_()
    told = unit_vectors(weights)
    assert (told[0, 1] == 0).all()
    value = resemblance(weights)
    (slope,) = torch.autograd.grad(value, weights, create_graph=True)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert (slope[0, 1] == 0).all()
    assert (slope[0, 0] != 0).all()
    (second,) = torch.autograd.grad(slope.square().sum(), weights)
    assert second.isfinite().all()
    assert resemblance(torch.zeros(2, 4, 3)) == 0
    # Numbers too small to be normal have no inverse in their type; they count as zero.
    tiny = torch.full((1, 2), torch.finfo(dtype).tiny, dtype=dtype)
    assert (unit_vectors(tiny / 2) == 0).all()
    torch.testing.assert_close(unit_vectors(tiny), torch.full_like(tiny, 0.5**0.5))


def test_what_all_classes_share_costs_no_precision():
    # The shifted weights are rounded first, to steps of 2^-10.
    shifted = (draws(5, 3) + 1e4).float(), (draws(5, 2, seed=1) - 1e4).float()
    exact = hsic(*(w.double() for w in shifted))
    assert hsic(*shifted).item() == pytest.approx(exact.item(), rel=1e-5)
    wide = (draws(3, 5) + 1e4).float(), (draws(3, 6, seed=1) - 1e4).float()
    exact = hsic(*(w.double() for w in wide))
    assert hsic(*wide).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    features, weights, target = batch(v=2)
    features, weights = features.to(dtype), weights.to(dtype)
    ours = ensemble_loss(features, weights, target)
    assert ours.dtype == hsic(weights[0], weights[1]).dtype == torch.float32
    assert unit_vectors(weights).dtype == torch.float32
    assert average_classifiers(weights).dtype == dtype
    exact = ensemble_loss(features.double(), weights.double(), target)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    # The network's features are half, the classifiers are not.
    mixed = ensemble_loss(features, weights.float(), target)
    torch.testing.assert_close(mixed, ours)
    large = ensemble_loss(300 * features, 300 * weights, target)
    assert large.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    features, weights, target = batch()
    features, weights = features.float(), weights.float()
    with torch.autocast("cpu", dtype):
        cast = ensemble_loss(features, weights, target, 1.0)
        pair = hsic(weights[0], weights[1])
    assert torch.equal(cast, ensemble_loss(features, weights, target, 1.0))
    assert torch.equal(pair, hsic(weights[0], weights[1]))


def test_a_loss_of_float64_keeps_its_margins_digits():
    features, weights, target = batch(v=1)
    ours = ensemble_loss(features, weights, target, margin=0.35)
    assert ours.dtype == torch.float64
    exact = soft_margin_loss(features @ weights[0].T, target, 0.35)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-13)


def test_it_compiles_as_one_graph():
    features, weights, target = batch(v=3)
    for function, given_ in (
        (partial(ensemble_loss, margin=0.3), (features, weights, target)),
        (hsic, (weights[0], weights[1])),
        (average_classifiers, (weights,)),
    ):
        # The eager backend traces as the others do and needs no compiler.
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*given_), function(*given_))


def test_one_example_and_two_classes_are_enough():
    loss = ensemble_loss(draws(1, 3), draws(2, 2, 3), torch.tensor([1], dtype=torch.uint8))
    assert loss.shape == (1,)
    assert loss.isfinite().all()


# --- Refused -----------------------------------------------------------------------------

LONG = torch.zeros(2, dtype=torch.long)
FEATURES, WEIGHTS = torch.zeros(2, 3), torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("features", "weights", "target", "error", "says"),
    [
        (FEATURES, WEIGHTS[0], LONG, ValueError, r"weights \(v, c, d\).*got \(4, 3\)"),
        (FEATURES, WEIGHTS[:0], LONG, ValueError, r"v >= 1 classifiers.*got \(0, 4, 3\)"),
        (FEATURES, WEIGHTS[:, :1], LONG, ValueError, r"c >= 2 classes; got \(2, 1, 3\)"),
        (FEATURES, WEIGHTS.long(), LONG, TypeError, "weights must be floating point; got"),
        (FEATURES[:, :2], WEIGHTS, LONG, ValueError, r"features \(2, 2\) and weight \(4, 3\)"),
        (FEATURES, WEIGHTS, LONG[:1], ValueError, r"features \(2, 3\) and target \(1,\)"),
        (FEATURES.long(), WEIGHTS, LONG, TypeError, "features must be floating point"),
        (FEATURES, WEIGHTS, torch.zeros(2), TypeError, "class indices"),
        (FEATURES, WEIGHTS, LONG + 4, ValueError, "labels from 0 to 3.*row 0"),
    ],
)
def test_bad_batches_are_refused(features, weights, target, error, says):
    with pytest.raises(error, match=says):
        ensemble_loss(features, weights, target)


@pytest.mark.parametrize("name", ["margin", "diversity"])
@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (-0.1, ValueError, "must be non-negative and finite; got -0.1"),
        (math.inf, ValueError, "must be"),
        (math.nan, ValueError, "must be"),
        ("0.1", TypeError, "must be a number; got str"),
        (torch.zeros(2), ValueError, r"must be one number; got a tensor \(2,\)"),
    ],
)
def test_margins_and_strengths_out_of_range_are_refused(name, value, error, says):
    with pytest.raises(error, match=f"{name} {says}"):
        ensemble_loss(FEATURES, WEIGHTS, LONG, **{name: value})


def test_a_base_that_averages_is_refused():
    with pytest.raises(ValueError, match=r"one number per example, \(2,\); it returned \(\)"):
        ensemble_loss(FEATURES, WEIGHTS, LONG, base=lambda z, y: softmax_loss(z, y).mean())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.zeros(3), WEIGHTS[0]),
        (WEIGHTS[0], WEIGHTS),
        (WEIGHTS[0], torch.zeros(len(WEIGHTS[0]))),
        (FEATURES, WEIGHTS[0]),
    ],
)
def test_hsic_needs_two_classifiers_of_the_same_classes(first, second):
    with pytest.raises(ValueError, match=r"the same classes, \(c, d\) and \(c, k\); got \("):
        hsic(first, second)


def test_hsic_needs_floating_point():
    for pair in ((WEIGHTS[0], WEIGHTS[0].long()), (WEIGHTS[0].long(), WEIGHTS[0])):
        with pytest.raises(TypeError, match=r"must be floating point; got torch\.int64"):
            hsic(*pair)


def test_only_a_stack_of_classifiers_can_be_averaged():
    with pytest.raises(ValueError, match=r"weights \(v, c, d\) of v >= 1 classifiers"):
        average_classifiers(WEIGHTS[0])
    with pytest.raises(ValueError, match=r"got \(4, 3\)"):
        resemblance(WEIGHTS[0])
