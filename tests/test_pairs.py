"""Chapter 10: pairs and triplets, proved, computed and told."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from sympy import (
    Integer,
    Rational,
    Symbol,
    cos,
    diff,
    exp,
    lambdify,
    limit,
    log,
    oo,
    pi,
    simplify,
    sqrt,
    symbols,
)
from torch.nn.functional import (
    cosine_embedding_loss,
    pairwise_distance,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)

from marginlib import hinge_loss, soft_margin_loss, softmax_loss
from marginlib.lab import evidence
from marginlib.lab.studies import pairs as lab
from marginlib.pairs import contrastive_loss, triplet_loss
from marginlib.symbolic import pairs as paper
from marginlib.symbolic.logits import lse, softplus
from marginlib.symbolic.proof import prove

D = 3
A, P, N = (list(symbols(f"{letter}_:{D}", real=True)) for letter in "apn")
M, T = symbols("m t", positive=True)
GAPS = list(symbols("t_:4", real=True))
NUMBER = Symbol("n", positive=True)
mp.dps = 30

vectors = st.lists(st.floats(-10, 10), min_size=D, max_size=D)


def draws(n, d=D, scale=1.0, seed=0):
    return scale * torch.randn(n, d, dtype=torch.float64, generator=torch.manual_seed(seed))


def batch(*rows):
    return [torch.tensor([row], dtype=torch.float64) for row in rows]


def slope(loss, *sets):
    sets = [x.clone().requires_grad_() for x in sets]
    return torch.autograd.grad(loss(*sets).sum(), sets)


SAME, DIFFERENT = torch.tensor([True]), torch.tensor([False])

# --- Claimed and proved ------------------------------------------------------------------


@pytest.mark.claim("W1")
def test_a_pair_of_one_class_is_pulled_along_its_whole_length():
    equations = paper.pull(A, P)
    assert [equation.prove() for equation in equations] == ["∎"] * D
    assert {equation.source for equation in equations} == {"004"}
    assert prove(paper.same_pair(A, P), sum((a - p) ** 2 for a, p in zip(A, P)) / 2)


@pytest.mark.claim("W1")
def test_a_pair_of_two_classes_is_pushed_by_what_it_lacks():
    assert [equation.prove() for equation in paper.push(A, P, M)] == ["∎"] * D
    on_a_line = paper.different_pair([Integer(0)], [T], M)
    assert prove(on_a_line, (M - T) ** 2 / 2)
    # The force is m - d: zero where the margin is kept, and at its full m where the pair meets.
    force = -diff(on_a_line, T)
    assert simplify(force.subs(T, M)) == 0
    assert limit(force, T, 0, "+") == M


@pytest.mark.claim("W1")
def test_where_two_classes_meet_no_gradient_is_right():
    # From either side the slope is -m and +m: a peak.
    x = Symbol("x", real=True)
    peak = (M - sqrt(x**2)) ** 2 / 2
    assert limit(diff(peak, x), x, 0, "+") == -M
    assert limit(diff(peak, x), x, 0, "-") == M


@pytest.mark.claim("W2")
def test_the_anchor_s_squares_cancel_in_a_triplet():
    equation = paper.linear_in_anchor(A, P, N, M)
    assert equation.prove() == "∎"
    assert all(diff(equation.left, a, 2) == 0 for a in A)
    # Its slope in the anchor is 2 (n - p), wherever the anchor is.
    for a, p, n in zip(A, P, N):
        assert prove(diff(equation.left, a), 2 * (n - p))


def test_a_triplet_is_bounded_by_the_two_pairs_in_it():
    assert paper.triplet_from_pairs(A, P, N, M).prove() == "∎"
    a, p, n = draws(3000), draws(3000, seed=1, scale=0.7), draws(3000, seed=2)
    yes, no = torch.ones(3000, dtype=torch.bool), torch.zeros(3000, dtype=torch.bool)
    for m in (0.5, 2.0):
        same, different = contrastive_loss(a, p, yes, m), contrastive_loss(a, n, no, m)
        bound = 2 * same + 2 * m * (2 * different).sqrt() - 2 * different
        three = triplet_loss(a, p, n, m * m)
        assert (three <= bound + 1e-12).all()
        near = (a - n).norm(dim=1) < m
        assert near.any()
        torch.testing.assert_close(three[near], bound[near], rtol=0, atol=1e-12)


def test_a_contented_triplet_says_nothing_of_its_pairs():
    a, p, n = batch([0.0, 0.0], [100.0, 0.0], [0.0, 101.0])
    assert triplet_loss(a, p, n).item() == 0
    assert contrastive_loss(a, p, SAME).item() == 5000


def test_larger_features_make_a_margin_smaller():
    assert [equation.prove() for equation in paper.larger_features(A, P, N, M, T)] == ["∎"] * 2
    a, p, n = draws(50), draws(50, seed=1), draws(50, seed=2)
    no = torch.zeros(50, dtype=torch.bool)
    for t in (0.1, 7.0):
        torch.testing.assert_close(
            triplet_loss(t * a, t * p, t * n, 2.0), t * t * triplet_loss(a, p, n, 2 / t**2)
        )
        torch.testing.assert_close(
            contrastive_loss(t * a, t * p, no, 2.0), t * t * contrastive_loss(a, p, no, 2 / t)
        )
    # So any triplet in the right order is satisfied by growing.
    wrong, right = batch([0.0], [1.0])[0], batch([0.0], [1.0])[1]
    assert triplet_loss(wrong, right, right + 0.01).item() > 0
    assert triplet_loss(10 * wrong, 10 * right, 10 * (right + 0.01)).item() == 0


def test_at_unit_length_a_squared_distance_is_two_less_two_cosines():
    alpha, beta = symbols("alpha beta", real=True)
    equation = paper.on_the_circle(alpha, beta)
    assert equation.prove() == "∎"
    assert equation.right.subs({alpha: pi, beta: 0}) == 4
    assert prove(equation.right, 2 - 2 * cos(beta - alpha))


@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 2), (4, 1)])
def test_softmax_over_proxies_is_a_smooth_triplet(c, y):
    distances = list(symbols(f"d_:{c}", positive=True))
    assert paper.smooth_triplet(distances, y, M).prove() == "∎"


def test_the_skeleton_of_softmax_is_the_worst_triplet():
    equation = paper.above_the_largest(GAPS)
    assert equation.prove() == "∎"
    # With t_1 the largest and not negative, the slack is the log of a number from 1 to c:
    # every term but the 1 lies between 0 and 1.
    assert equation.right.subs(dict.fromkeys(GAPS, 0)) == log(5)
    assert limit(equation.right.subs(dict.fromkeys(GAPS[1:], -5)), GAPS[0], oo) == 0


@pytest.mark.parametrize("c", [2, 3, 10])
@pytest.mark.parametrize("m", [0.0, 0.5])
def test_softmax_over_proxies_lies_within_log_c_of_the_worst_triplet(c, m):
    x, proxies = draws(400, scale=2.0), draws(c, seed=1)
    y = torch.arange(400) % c
    loss = soft_margin_loss(-torch.cdist(x, proxies).square() / 2, y, m)
    every = torch.stack(
        [triplet_loss(x, proxies[y], proxies[[k]].expand(400, D), 2 * m) for k in range(c)]
    )
    every[y, torch.arange(400)] = 0
    worst = every.amax(0) / 2
    assert (worst < loss).all()
    assert (loss <= worst + math.log(c)).all()
    # And log c is reached: all proxies equally far, no margin.
    even = -torch.ones(1, c, dtype=torch.float64)
    assert soft_margin_loss(even, torch.tensor([0]), 0.0).item() == pytest.approx(math.log(c))


@pytest.mark.parametrize("s", [1.0, 10.0, 1000.0])
def test_a_sharper_softmax_nears_the_worst_triplet(s):
    squared, y = 5 * draws(200, 6).square(), torch.arange(200) % 6
    smooth = soft_margin_loss(-s * squared / 2, y, s * 0.1) / s
    hinge = hinge_loss(-squared / 2, y, bias=0.1)
    assert (smooth - hinge).min() > -1e-12
    assert (smooth - hinge).max() <= math.log(6) / s


def test_rivals_asked_one_by_one_cost_more_than_all_at_once():
    equation = paper.sum_above_softmax(GAPS[:3])
    assert equation.prove() == "∎"
    # Two rivals: log(1 + product / (1 + sum)), never below zero.
    a, b = GAPS[:2]
    more = exp(a + b) / (1 + exp(a) + exp(b))
    assert prove(paper.sum_above_softmax([a, b]).right, log(1 + more))


@pytest.mark.parametrize("y", [0, 2])
def test_one_positive_against_a_batch_is_the_softmax_loss(y):
    others = [P[:2], N[:2], A[1:]]
    equation = paper.against_a_batch(A[:2], others, y)
    assert equation.prove() == "∎"
    with_one_rival = paper.against_a_batch(A[:2], [P[:2], N[:2]], 0)
    gap = sum(a * (n - p) for a, p, n in zip(A[:2], P, N))
    assert prove(with_one_rival.right, softplus(gap))
    assert prove(with_one_rival.left, lse([gap, Integer(0)]))


# Counting.


@pytest.mark.claim("S19", "W18")
@pytest.mark.parametrize("counts", [[1, 1], [2, 3], [1, 2, 4], [3, 3, 3, 3]])
def test_pairs_and_triplets_are_counted_by_looking_at_every_one(counts):
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    every = list(itertools.combinations(labels, 2))
    assert paper.same_pairs(counts) == sum(a == b for a, b in every)
    assert paper.different_pairs(counts) == sum(a != b for a, b in every)
    places = range(len(labels))
    three = [
        (a, p, n)
        for a, p, n in itertools.product(places, repeat=3)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    assert paper.triplets(counts) == len(three)


@pytest.mark.parametrize("c", [2, 3, 10])
def test_equal_classes_have_the_short_formulas(c):
    assert [equation.prove() for equation in paper.counted(c, NUMBER)] == ["∎"] * 3
    same, different, three, proxies = paper.balanced(c, Integer(4))
    assert (same, different) == (6 * c, 8 * c * (c - 1))
    # An image has c - 1 rival proxies; each stands for n (n - 1) triplets.
    assert proxies == 4 * c * (c - 1)
    assert three == proxies * 4 * 3
    assert [equation.number for equation in paper.counted(c, NUMBER)] == [
        "count, same", "count, different", "count, triplets",
    ]  # fmt: skip


@pytest.mark.parametrize("together", [2, 3])
def test_the_share_of_an_epoch_is_a_chance_and_can_be_counted(together):
    total, size = 6, 3
    met = sum(
        len({order.index(k) // size for k in range(together)}) == 1
        for order in itertools.permutations(range(total))
    )
    share = paper.share_of_an_epoch(Integer(size), Integer(total), together)
    assert share == Rational(met, math.factorial(total))


@pytest.mark.parametrize("n", [2, 3, 6])
def test_all_pairs_of_a_class_are_its_distances_from_the_mean(n):
    x = list(symbols(f"x_:{n}", real=True))
    equation = paper.pairs_from_centre(x)
    assert equation.prove() == "∎"
    points = draws(n)
    i, j = torch.triu_indices(n, n, 1)
    pairs = contrastive_loss(points[i], points[j], torch.ones(len(i), dtype=torch.bool)).sum()
    about = 0.5 * (points - points.mean(0)).square().sum()
    assert pairs.item() == pytest.approx(n * about.item(), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_mean_stands_for_its_class_up_to_the_spread(n):
    a, x = Symbol("a", real=True), list(symbols(f"x_:{n}", real=True))
    assert paper.about_the_mean(a, x).prove() == "∎"


def test_the_triplet_of_two_means_is_below_the_mean_triplet():
    first, second, anchors = draws(6), draws(5, seed=1) + 1, draws(50, seed=2, scale=3.0)
    means = first.mean(0), second.mean(0)
    spread = [(x - x.mean(0)).square().sum(1).mean() for x in (first, second)]
    assert (spread[0] - spread[1]).abs() > 0.1
    for m in (0.0, 1.0, 5.0):
        every = [
            triplet_loss(anchors, p.expand(50, D), n.expand(50, D), m)
            for p, n in itertools.product(first, second)
        ]
        to_means = [(anchors - mean).square().sum(1) for mean in means]
        one = (to_means[0] - to_means[1] + spread[0] - spread[1] + m).relu()
        mean_of_all = torch.stack(every).mean(0)
        assert (mean_of_all >= one - 1e-12).all()
        open_ = torch.stack(every).amin(0) > 0
        torch.testing.assert_close(mean_of_all[open_], one[open_])


# --- Computed and compared ---------------------------------------------------------------

EXACT_SAME = lambdify([A, P], paper.same_pair(A, P), "mpmath")
EXACT_DIFFERENT = lambdify([A, P, M], paper.different_pair(A, P, M), "mpmath")
EXACT_TRIPLET = lambdify([A, P, N, M], paper.triplet(A, P, N, M), "mpmath")


@pytest.mark.claim("W1")
@settings(max_examples=60, deadline=None)
@given(vectors, vectors, st.floats(0, 30))
def test_the_contrastive_loss_is_the_formula_to_fifteen_digits(a, p, m):
    first, second = batch(a, p)
    exact_a, exact_p, exact_m = list(map(mp.mpf, a)), list(map(mp.mpf, p)), mp.mpf(m)
    same = contrastive_loss(first, second, SAME, m).item()
    assert same == pytest.approx(float(EXACT_SAME(exact_a, exact_p)), rel=1e-14, abs=1e-300)
    different = contrastive_loss(first, second, DIFFERENT, m).item()
    distance = mp.sqrt(2 * EXACT_SAME(exact_a, exact_p))
    open_ = float(EXACT_DIFFERENT(exact_a, exact_p, exact_m)) if distance < exact_m else 0.0
    # Where d is nearly m the difference of two numbers of size 30 is squared.
    assert different == pytest.approx(open_, rel=1e-12, abs=1e-13)


@pytest.mark.claim("W2")
@settings(max_examples=60, deadline=None)
@given(vectors, vectors, vectors, st.floats(0, 30))
def test_the_triplet_loss_is_the_formula_to_fifteen_digits(a, p, n, m):
    exact = EXACT_TRIPLET(*(list(map(mp.mpf, row)) for row in (a, p, n)), mp.mpf(m))
    # 1e-12: some ulps of the largest square, 3 (20)^2.
    ours = triplet_loss(*batch(a, p, n), m).item()
    assert ours == pytest.approx(max(0.0, float(exact)), rel=1e-12, abs=1e-12)


@pytest.mark.claim("W1", "W2")
def test_the_gradient_is_sympy_s():
    a, p, n = draws(3, seed=5).tolist()
    at = dict(zip(A + P + N, a + p + n, strict=True)) | {M: 5.0}
    rows = batch(a, p, n)
    pulled, pushed = slope(lambda x, y: contrastive_loss(x, y, SAME), *rows[:2])
    assert pulled[0].tolist() == pytest.approx([float(e.right.subs(at)) for e in paper.pull(A, P)])
    torch.testing.assert_close(pushed, -pulled)
    pushed, _ = slope(lambda x, y: contrastive_loss(x, y, DIFFERENT, 5.0), *rows[:2])
    told = [float(equation.right.subs(at)) for equation in paper.push(A, P, M)]
    assert pushed[0].tolist() == pytest.approx(told)
    by = slope(lambda *x: triplet_loss(*x, 50.0), *rows)
    hinge = paper.triplet(A, P, N, M)
    for got, names in zip(by, (A, P, N), strict=True):
        told = [float(diff(hinge, name).subs(at)) for name in names]
        assert got[0].tolist() == pytest.approx(told)


def test_first_and_second_derivatives_agree_with_finite_differences():
    a, p, n = (draws(6, seed=k).requires_grad_() for k in range(3))
    same = torch.arange(6) % 2
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, y: contrastive_loss(x, y, same, 3.0), (a, p))
        assert check(lambda x, y, z: triplet_loss(x, y, z, 2.0), (a, p, n))


@pytest.mark.claim("W2")
def test_torch_s_triplet_with_squared_distances_is_ours():
    def squared(x, y):
        return (x - y).square().sum(-1)

    a, p, n = (draws(200, seed=k) for k in range(3))
    for m in (0.01, 0.2, 1.5):
        theirs = triplet_margin_with_distance_loss(
            a, p, n, distance_function=squared, margin=m, reduction="none"
        )
        torch.testing.assert_close(triplet_loss(a, p, n, m), theirs, rtol=0, atol=1e-13)
    torch.testing.assert_close(triplet_loss(a, p, n), triplet_loss(a, p, n, 0.2))


def test_torch_s_own_triplet_asks_another_question():
    # Squared: 25 - 36 + 0.2 < 0.  Without the squares, and with torch's margin: 5 - 6 + 1 = 0.
    a, p, n = batch([0.0, 0.0], [5.0, 0.0], [0.0, 6.0])
    assert triplet_loss(a, p, n).item() == 0
    assert triplet_margin_loss(a, p, n, eps=0.0).item() == 0
    assert triplet_margin_loss(a, p, n, margin=2.0, eps=0.0).item() == pytest.approx(1)
    # Nearly the same length: a difference that the squares magnify.
    _, p, n = batch([0.0, 0.0], [50.0, 0.0], [0.0, 50.1])
    assert triplet_loss(a, p, n, 1.0).item() == 0
    assert triplet_margin_loss(a, p, n, eps=0.0).item() == pytest.approx(0.9)


def test_torch_s_distance_is_not_zero_for_equal_features():
    a = torch.ones(1, 4, dtype=torch.float64)
    assert pairwise_distance(a, a).item() == pytest.approx(2e-6)
    by, _ = slope(lambda x, y: triplet_margin_loss(x, y, y + 1, 4.0), a, a)
    assert by.abs().max() > 0.4  # a slope along (1, 1, 1, 1), which nothing in the data asked for
    by, _ = slope(lambda x, y: contrastive_loss(x, y, SAME), a, a)
    assert by.abs().max() == 0


def test_at_unit_length_torch_s_cosine_loss_is_half_of_ours():
    a, p = (torch.nn.functional.normalize(draws(50, seed=k)) for k in range(2))
    same = torch.arange(50) % 2 == 0
    theirs = cosine_embedding_loss(a, p, same.int() * 2 - 1, margin=0.5, reduction="none")
    ours = contrastive_loss(a, p, same)
    torch.testing.assert_close(ours[same], theirs[same], rtol=0, atol=1e-12)
    # Cosine 0.5 is distance 1: both let the same pairs alone, and charge the others differently.
    assert ((ours[~same] > 0) == (theirs[~same] > 0)).all()
    assert (ours[~same] - theirs[~same]).abs().max() > 0.05


@pytest.mark.claim("W2")
def test_a_triplet_is_the_hinge_of_two_logits():
    a, p, n = (draws(50, seed=k) for k in range(3))
    logits = -torch.stack([(a - p).square().sum(1), (a - n).square().sum(1)], dim=1)
    first = torch.zeros(50, dtype=torch.long)
    torch.testing.assert_close(triplet_loss(a, p, n, 0.3), hinge_loss(logits, first, bias=0.3))


def test_against_a_batch_in_one_line():
    a, p = draws(5), draws(5, seed=1)
    ours = softmax_loss(a @ p.T, torch.arange(5))
    for i in range(5):
        gaps = torch.stack([a[i] @ p[j] - a[i] @ p[i] for j in range(5) if j != i])
        assert ours[i].item() == pytest.approx(math.log1p(gaps.exp().sum().item()))


# --- Told and checked --------------------------------------------------------------------


@pytest.mark.claim("W1")
def test_pairs_that_meet_have_a_defined_gradient():
    point = torch.ones(2, D, dtype=torch.float64)
    same = torch.tensor([True, False])
    losses = contrastive_loss(point, point, same, 3.0)
    assert losses.tolist() == [0.0, 4.5]
    for by in slope(lambda x, y: contrastive_loss(x, y, same, 3.0), point, point):
        assert by.tolist() == [[0.0] * D] * 2
    # Beside that point the push has the length m.
    beside = point + torch.tensor([1e-9, 0.0, 0.0], dtype=torch.float64)
    by, _ = slope(lambda x, y: contrastive_loss(x, y, same, 3.0), beside, point)
    assert by[1].tolist() == pytest.approx([-3.0, 0.0, 0.0])


def test_second_derivatives_are_finite_where_pairs_meet():
    point = torch.ones(1, D, dtype=torch.float64, requires_grad=True)
    for same in (SAME, DIFFERENT):
        loss = contrastive_loss(point, torch.ones_like(point), same, 3.0).sum()
        (first,) = torch.autograd.grad(loss, point, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), point)
        assert second.isfinite().all()


def test_a_kept_margin_costs_nothing_and_pulls_nothing():
    first, second = batch([0.0, 0.0], [3.0, 4.0])
    assert contrastive_loss(first, second, DIFFERENT, 5.0).item() == 0
    assert contrastive_loss(first, second, DIFFERENT, 6.0).item() == 0.5
    assert contrastive_loss(first, second, DIFFERENT).item() == 0
    assert contrastive_loss(first / 10, second / 10, DIFFERENT).item() == 0.125
    (by, *_) = slope(lambda x, y: contrastive_loss(x, y, DIFFERENT), first, second)
    assert by.tolist() == [[0.0, 0.0]]
    # A triplet that keeps its margin exactly is left alone too.
    a, p, n = batch([0.0], [0.5], [1.0])
    for by in slope(lambda *x: triplet_loss(*x, 0.75), a, p, n):
        assert by.item() == 0


def test_same_is_told_by_booleans_or_by_ones():
    a, p = draws(4), draws(4, seed=1)
    told = torch.tensor([True, False, True, False])
    expected = contrastive_loss(a, p, told, 4.0)
    for other in (torch.tensor([1, 0, 1, 0]), torch.tensor([1, -1, 1, -1])):
        torch.testing.assert_close(contrastive_loss(a, p, other, 4.0), expected, rtol=0, atol=0)
        assert expected.min() > 0


def test_a_common_shift_costs_few_digits():
    # Features at 1e3 with differences of 1e-2; the anchor stands far from both.
    a = (1e3 + draws(100)).float()
    p, n = (draws(100, scale=0.01, seed=k).float() for k in (1, 2))
    exact = triplet_loss(a.double(), p.double(), n.double(), 1e4)
    printed = (a - p).square().sum(1) - (a - n).square().sum(1) + 1e4
    worst = (triplet_loss(a, p, n, 1e4).double() - exact).abs().max()
    assert worst < 2e-3  # an ulp of 1e4
    assert (printed.double() - exact).abs().max() > 50 * worst


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, p, n = (draws(20, seed=k, scale=200.0).to(dtype) for k in range(3))
    same = torch.arange(20) % 2 == 0
    wide = [x.float() for x in (a, p, n)]
    for half, whole in (
        (contrastive_loss(a, p, same, 500.0), contrastive_loss(*wide[:2], same, 500.0)),
        (triplet_loss(a, p, n), triplet_loss(*wide)),
    ):
        assert half.dtype == torch.float32
        assert half.isfinite().all()
        torch.testing.assert_close(half, whole, rtol=0, atol=0)


def test_the_losses_keep_the_precision_they_are_given():
    for dtype in (torch.float32, torch.float64):
        a, p, n = (draws(3, seed=k).to(dtype) for k in range(3))
        assert contrastive_loss(a, p, torch.ones(3, dtype=torch.long)).dtype == dtype
        assert triplet_loss(a, p, n).dtype == dtype


def test_far_apart_is_let_alone_even_where_the_square_overflows():
    far = torch.full((1, D), 1e30)
    by, _ = slope(lambda x, y: contrastive_loss(x, y, DIFFERENT), far, -far)
    assert contrastive_loss(far, -far, DIFFERENT).item() == 0
    assert by.tolist() == [[0.0] * D]


def test_a_proxy_may_be_equally_far_on_both_sides():
    # The two squared distances overflow in float32, their difference does not.
    a, p = torch.full((1, D), 1e20), torch.zeros(1, D)
    assert triplet_loss(a, p, p).item() == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["contrastive", "triplet"])
def test_the_losses_compile_to_one_graph_and_work_under_autocast(kind):
    a, p, n = (draws(6, seed=k).float().requires_grad_() for k in range(3))
    same = torch.arange(6) % 2 == 0

    def loss(a, p, n):
        if kind == "contrastive":
            return contrastive_loss(a, p, same, 3.0)
        return triplet_loss(a, p, n, 3.0)

    plain = loss(a, p, n)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, p, n), plain)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(a, p, n), plain)


def test_one_example_and_none_are_batches_too():
    assert triplet_loss(*batch([1.0], [2.0], [3.0])).shape == (1,)
    none = torch.zeros(0, 4)
    assert triplet_loss(none, none, none).shape == (0,)
    assert contrastive_loss(none, none, torch.zeros(0, dtype=torch.bool)).shape == (0,)


# Collapse.


def test_where_all_features_are_one_point_the_triplet_loss_is_its_margin_and_silent():
    point = torch.full((4, D), 0.7, dtype=torch.float64)
    assert triplet_loss(point, point, point, 0.35).tolist() == [0.35] * 4
    for by in slope(lambda *x: triplet_loss(*x, 0.35), point, point, point):
        assert by.abs().max() == 0


def test_a_shrinking_batch_is_downhill_just_when_the_positive_is_the_farther():
    # t^2 (D_p - D_n) + m along the ray t x.
    a, p, n = batch([0.0], [2.0], [1.0])
    far = [triplet_loss(t * a, t * p, t * n).item() for t in (1.0, 0.5, 0.0)]
    assert far == pytest.approx([3.2, 0.95, 0.2])
    near = [triplet_loss(t * a, t * n, t * p, 4.0).item() for t in (1.0, 0.5, 0.0)]
    assert near == pytest.approx([1.0, 3.25, 4.0])


@pytest.mark.parametrize("closer", [True, False])
def test_the_way_out_of_a_collapse_is_downhill_just_when_positives_are_nearer(closer):
    a, p, n = draws(40), draws(40, seed=1), draws(40, seed=2, scale=1.5 if closer else 0.5)
    gap = ((a - p).square() - (a - n).square()).sum(1).mean()
    assert (gap < 0) == closer
    squares = torch.linspace(0, 2, 201, dtype=torch.float64)
    path = torch.stack([triplet_loss(t * a, t * p, t * n).mean() for t in squares.sqrt()])
    assert path[0].item() == pytest.approx(0.2)
    assert path.diff().diff().min() > -1e-12
    if closer:
        assert path[1] < path[0]
    else:
        assert path.diff().min() > 0


def test_near_a_collapse_a_triplet_fades_and_a_pair_does_not():
    a, p, n = (draws(1, seed=k) for k in range(3))
    for t in (1e-3, 1e-6):
        by, *_ = slope(triplet_loss, t * a, t * p, t * n)
        assert by.norm().item() == pytest.approx(2 * t * (n - p).norm().item())
        by, _ = slope(lambda x, y: contrastive_loss(x, y, DIFFERENT), t * a, t * n)
        assert by.norm().item() == pytest.approx(1, abs=0.01)


# What the exercises ask for.


def test_the_number_of_triplets_is_a_polynomial_in_the_class_sizes():
    sizes = list(symbols("n_:4", positive=True))
    total = sum(sizes)
    told = (total + 1) * sum(n**2 for n in sizes) - sum(n**3 for n in sizes) - total**2
    assert prove(paper.triplets(sizes), told)
    assert (paper.same_pairs([1, 2, 3]), paper.different_pairs([1, 2, 3])) == (4, 11)
    assert paper.triplets([1, 2, 3]) == 26


def test_the_edge_of_a_right_angled_triplet_is_four_degrees_off_the_bisector():
    degrees = torch.arange(-180, 180, 0.01, dtype=torch.float64)
    a = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)
    p, n = torch.eye(2, dtype=torch.float64)
    kept = degrees[triplet_loss(a, p.expand_as(a), n.expand_as(a), 0.2) == 0]
    assert kept.min().item() == pytest.approx(-130.95, abs=0.02)
    assert kept.max().item() == pytest.approx(40.95, abs=0.02)


def test_a_softened_triplet_has_half_its_slope_where_the_hinge_opens():
    t = paper.triplet(A[:2], P[:2], N[:2], M)
    for a, p, n in zip(A[:2], P[:2], N[:2], strict=True):
        assert prove(diff(softplus(t), a), 2 * (n - p) / (1 + exp(-t)))


def test_most_triplets_can_be_content_with_a_network_that_confuses_two_classes():
    points = torch.eye(10, dtype=torch.float64)
    points[1] = points[0]
    a, n = torch.cartesian_prod(torch.arange(10), torch.arange(10)).unbind(1)
    a, n = a[a != n], n[a != n]
    costly = triplet_loss(points[a], points[a], points[n]) > 0
    assert costly.double().mean().item() == pytest.approx(2 / 90)


# What the study does, and what its record holds.


def some_embeddings():
    return torch.nn.functional.normalize(draws(12, 4)), torch.arange(12) % 3


def test_the_study_s_triplets_are_triplets():
    x, y = some_embeddings()
    distances = torch.cdist(x, x)
    for i in range(12):
        mine = [j for j in range(12) if y[j] == y[i] and j != i]
        others = [j for j in range(12) if y[j] != y[i]]
        far = max(distances[i, j] for j in mine)
        near = min(distances[i, j] for j in others)
        expected = max(0.0, (far**2 - near**2 + 0.2).item())
        assert lab.hardest_triplets(x, y, x)[i].item() == pytest.approx(expected)
        allowed = [triplet_loss(x[[i]], x[[p]], x[[n]]).item() for p in mine for n in others]
        found = lab.random_triplets(x, y, x)[i].item()
        assert min(abs(found - value) for value in allowed) < 1e-12
        semi = []
        for p in mine:
            beyond = [n for n in others if distances[i, n] > distances[i, p]]
            n = (
                min(beyond, key=lambda n: distances[i, n])
                if beyond
                else max(others, key=lambda n: distances[i, n])
            )
            semi.append(triplet_loss(x[[i]], x[[p]], x[[n]]).item())
        found = lab.semi_hard_triplets(x, y, x)[i].item()
        assert min(abs(found - value) for value in semi) < 1e-12


def test_all_triplets_of_a_batch_are_those_of_the_library():
    x, y = some_embeddings()
    three = [
        (a, p, n)
        for a, p, n in itertools.product(range(12), repeat=3)
        if a != p and y[a] == y[p] != y[n]
    ]
    a, p, n = torch.tensor(three).T
    torch.testing.assert_close(lab.every_triplet(x, y, x), triplet_loss(x[a], x[p], x[n]))


def test_an_image_without_company_has_no_triplet():
    x, y = some_embeddings()
    y = y.clone()
    y[0] = 7
    for objective in (lab.random_triplets, lab.hardest_triplets, lab.semi_hard_triplets):
        assert len(objective(x, y, x)) == 11


def desk():
    return evidence.recall("pairs").select(scale="desk")


def test_on_record_the_hardest_triplets_collapse_in_every_run():
    runs = desk().select(method="triplet-hard").runs
    assert len(runs) == 5
    for run in runs:
        assert run.test["active"] == 100
        assert abs(run.measures["train"]["loss"][1] - lab.MARGIN) < 1e-3


def test_on_record_which_triplets_are_asked_matters():
    for method in ("triplet-every", "triplet-semi", "contrastive"):
        assert desk().paired(method, "triplet").high < 0
    assert desk().paired("triplet-hard", "triplet").low > 0
    for method in ("triplet-every", "triplet-semi"):
        assert not desk().paired(method, "contrastive").detectable


def test_on_record_most_random_triplets_are_idle_and_more_than_a_tenth_are_not():
    for run in desk().select(method="triplet").runs:
        assert 10 < run.measures["validation"]["active"][-1] < 15


def test_on_record_the_judge_decides_who_wins():
    record = desk()
    assert record.paired("softmax", "contrastive").low > 0
    own, rest = (
        {run.seed: run.test[measure] for run in record.select(method=method).runs}
        for method, measure in (("softmax", "own_error"), ("contrastive", "error"))
    )
    assert all(own[seed] < rest[seed] for seed in own)
    assert not record.paired("proxies", "softmax").detectable
    assert not record.paired("proxies", "softmax", "own_error").detectable


def test_on_record_free_features_mostly_shrink():
    lengths = [
        run.measures["validation"]["feature_norm"]
        for run in desk().select(method="triplet-free").runs
    ]
    assert sum(run[-1] < run[0] for run in lengths) == 4


# --- Refused -----------------------------------------------------------------------------

X = torch.zeros(2, 3)
YES = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("sets", "error", "says"),
    [
        ((X, X[:1]), ValueError, r"got first \(2, 3\), second \(1, 3\)"),
        ((X, X[:, :2]), ValueError, r"of one shape \(n, d\)"),
        ((X[0], X[0]), ValueError, r"got first \(3,\), second \(3,\)"),
        ((X.long(), X), TypeError, "first must be floating point; got torch.int64"),
        ((X, X.bool()), TypeError, "second must be floating point; got torch.bool"),
    ],
)
def test_pairs_that_do_not_match_are_refused(sets, error, says):
    with pytest.raises(error, match=says):
        contrastive_loss(*sets, YES)


@pytest.mark.parametrize(
    ("sets", "error", "says"),
    [
        ((X, X, X[:1]), ValueError, r"anchor \(2, 3\), positive \(2, 3\), negative \(1, 3\)"),
        ((X, X[:1], X), ValueError, r"positive \(1, 3\)"),
        ((X[None], X[None], X[None]), ValueError, r"got anchor \(1, 2, 3\)"),
        ((X, X, X.int()), TypeError, "negative must be floating point; got torch.int32"),
    ],
)
def test_triplets_that_do_not_match_are_refused(sets, error, says):
    with pytest.raises(error, match=says):
        triplet_loss(*sets)


@pytest.mark.parametrize(
    ("same", "error", "says"),
    [
        (YES[:1], ValueError, r"expected same \(n,\) with n = 2 pairs; got \(1,\)"),
        (YES[:, None], ValueError, r"got \(2, 1\)"),
        (torch.ones(2), TypeError, "same must be boolean or integer; got torch.float32"),
        (torch.ones(2) * 1j, TypeError, "same must be boolean or integer; got torch.complex64"),
    ],
)
def test_an_unclear_same_is_refused(same, error, says):
    with pytest.raises(error, match=says):
        contrastive_loss(X, X, same)


@pytest.mark.parametrize(
    ("margin", "error", "says"),
    [
        (-0.1, ValueError, "margin must be non-negative and finite; got -0.1"),
        (math.inf, ValueError, "margin must be"),
        ("1", TypeError, "margin must be a number; got str"),
    ],
)
def test_a_margin_that_is_none_is_refused(margin, error, says):
    with pytest.raises(error, match=says):
        contrastive_loss(X, X, YES, margin)
    with pytest.raises(error, match=says):
        triplet_loss(X, X, X, margin)
