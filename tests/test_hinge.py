"""Chapter 2: hinge losses, the table they stand in, and the chain they form."""

from fractions import Fraction
from itertools import combinations, pairwise
from math import e, expm1, log, log1p

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import Heaviside, Rational, diff, exp, lambdify, symbols
from torch.nn.functional import multi_margin_loss

from marginlib import (
    dense_hinge_loss,
    hard_bias_loss,
    hinge_loss,
    margin,
    soft_margin_loss,
    softmax_loss,
    sparsemax_loss,
)
from marginlib.lab import evidence
from marginlib.lab.studies.hinge import METHODS, odds_hinge_loss, summed_hinge_loss, touched
from marginlib.symbolic import hinge as paper
from marginlib.symbolic.logits import (
    entropy,
    expectation,
    kl,
    logits,
    lse,
    rivals,
    softmax,
    softplus,
)
from marginlib.symbolic.proof import Unproved, prove

RHO = symbols("rho", positive=True)
CELLS = {
    ("hinge", "max"): hinge_loss,
    ("softplus", "max"): hard_bias_loss,
    ("hinge", "LSE"): odds_hinge_loss,
    ("softplus", "LSE"): soft_margin_loss,
}
# Quarters: exact in float64, and few enough that ties and margins of exactly 1 are common.
quarter = st.integers(-16, 16).map(lambda k: k / 4)
rows = st.integers(2, 5).flatmap(lambda c: st.lists(quarter, min_size=c, max_size=c))
# A probability vector of c entries, corners and edges included.
weights = st.lists(st.sampled_from([0.0, 0.0, 0.3, 1.0, 4.0]), min_size=5, max_size=5)


def of(loss, row, target=0, **options):
    """One number: the loss of one row of logits."""
    batch = torch.tensor([row], dtype=torch.float64)
    return loss(batch, torch.tensor([target]), **options).item()


def pull(loss, row, target=0, **options):
    """The gradient of the loss of one row in its logits, by autograd."""
    batch = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(batch, torch.tensor([target]), **options).sum(), batch)
    return found[0].tolist()


def projection(row):
    """The point of the simplex nearest to the row, found by bisection on its threshold."""
    low, high = max(row) - 1.0, max(row)
    for _ in range(80):
        tau = (low + high) / 2
        low, high = (tau, high) if sum(max(x - tau, 0.0) for x in row) > 1 else (low, tau)
    return [max(x - low, 0.0) for x in row]


# --- What the paper claims, proved -----------------------------------------------------------


@pytest.mark.claim("L1")
@pytest.mark.parametrize(("c", "y"), [(2, 1), (3, 0), (4, 2)])
def test_the_hinge_is_the_best_corner_of_the_simplex_in_every_order(c, y):
    f = logits(c)
    equation = paper.equation_1(f, y, RHO)
    for order in paper.orders(f, y, RHO):
        assert prove(equation.left.subs(order), equation.right.subs(order))
        assert prove(equation.left.subs(order), paper.crammer_singer(f, y, RHO).subs(order))


@pytest.mark.claim("L19")
@pytest.mark.parametrize(("c", "y"), [(2, 1), (3, 0), (4, 2)])
def test_the_dense_hinge_is_the_best_corner_of_a_box_in_every_order(c, y):
    f = logits(c)
    equation = paper.equation_14(f, y)
    for order in paper.orders(f, y, Rational(1)):
        assert prove(equation.left.subs(order), equation.right.subs(order))


def test_the_orders_are_all_the_orders():
    f = logits(4)
    found = paper.orders(f, 1, RHO)
    # Draw the gaps positive: then each substitution shows one strict order of the raised logits.
    seen = set()
    for order in found:
        values = {name: 1 + k for k, name in enumerate(symbols("gap_1:4", nonnegative=True))}
        values |= {symbols("top", real=True): 0, RHO: Rational(1, 2)}
        raised = [
            (f_c + (0 if c == 1 else RHO)).subs(order).subs(values) for c, f_c in enumerate(f)
        ]
        seen.add(tuple(sorted(range(4), key=lambda c: -raised[c])))
        assert sorted(raised, reverse=True) == [0, -1, -3, -6]
    assert len(found) == len(seen) == 24


def test_an_order_refutes_what_is_false_in_it():
    f = logits(3)
    order = paper.orders(f, 0, RHO)[-1]
    with pytest.raises(Unproved):
        prove(paper.crammer_singer(f, 0, RHO).subs(order), paper.largest(f).subs(order))


@pytest.mark.claim("L1")
def test_the_source_calls_increasing_what_does_not_fall():
    # "Monotonically increasing L" (section 2.1): the hinge stays at zero from -2 to -1.
    assert of(hinge_loss, [3.0, 0.0]) == of(hinge_loss, [2.0, 0.0]) == 0
    assert of(hard_bias_loss, [3.0, 0.0]) < of(hard_bias_loss, [2.0, 0.0])


def test_softplus_is_a_log_sum_exp_with_a_zero_in_it():
    f = logits(4)
    raised = [f_c - f[1] + RHO for f_c in rivals(f, 1)]
    assert prove(paper.table(f, 1, RHO)["softplus", "LSE"], lse([Rational(0), *raised]))


def test_gibbs_no_mixture_beats_softmax_and_the_shortfall_is_a_divergence():
    f, p = logits(4), softmax(list(symbols("g_:4", real=True)))
    assert prove(lse(f) - expectation(p, f) - entropy(p), kl(p, softmax(f)))


def test_gibbs_for_the_coin_is_softplus():
    xi, s = symbols("xi s", real=True)
    tails, heads = softmax([Rational(0), s])
    gap = softplus(xi) - heads * xi - entropy([tails, heads])
    assert prove(gap, kl([tails, heads], softmax([Rational(0), xi])))


@pytest.mark.parametrize("y", range(3))
def test_the_two_entropies_of_the_table_add_up_to_the_entropy_of_p(y):
    p = softmax(list(symbols("g_:3", real=True)))
    both = paper.omega(p, y, RHO, "softplus", "LSE")
    assert prove(both, RHO * (1 - p[y]) + entropy(p))
    first = paper.omega(p, y, RHO, "softplus", "max") - paper.omega(p, y, RHO, "hinge", "max")
    second = paper.omega(p, y, RHO, "hinge", "LSE") - paper.omega(p, y, RHO, "hinge", "max")
    assert prove(both, paper.omega(p, y, RHO, "hinge", "max") + first + second)
    assert prove(paper.omega(p, y, RHO, "hinge", "max"), RHO * (1 - p[y]))


@pytest.mark.parametrize("y", range(3))
def test_what_hinge_pays_beyond_sparsemax_is_half_a_squared_distance(y):
    p = softmax(list(symbols("g_:3", real=True)))
    gap = paper.omega(p, y, Rational(1), "hinge", "max") - paper.omega_sparsemax(p)
    corner = [Rational(c == y) for c in range(3)]
    assert prove(gap, paper.distance(p, y))
    assert prove(paper.distance(p, y), sum((a - b) ** 2 for a, b in zip(p, corner)) / 2)


SUPPORTS = [some for size in (1, 2, 3) for some in combinations(range(3), size)]


@pytest.mark.parametrize("support", SUPPORTS)
def test_sparsemax_as_printed_is_the_maximum_in_every_case_of_three_classes(support):
    f = logits(3)
    for y in range(3):
        loss = paper.sparsemax_maximum(f, y, support)
        assert prove(loss, paper.sparsemax_printed(f, y, support))
        for c, p_c in enumerate(paper.sparsemax(f, support)):
            assert prove(diff(loss, f[c]), p_c - (1 if c == y else 0))
    assert prove(sum(paper.sparsemax(f, support)), Rational(1))


@pytest.mark.parametrize("support", [some for some in SUPPORTS if len(some) > 1])
def test_neighbouring_cases_of_sparsemax_meet_where_a_class_drops_out(support):
    f = logits(3)
    for dropped in support:
        fewer = tuple(c for c in support if c != dropped)
        border = {f[dropped]: paper.threshold(f, fewer)}
        here, there = paper.sparsemax(f, support), paper.sparsemax(f, fewer)
        assert all(prove(a.subs(border), b.subs(border)) for a, b in zip(here, there))
        losses = (paper.sparsemax_printed(f, 0, some).subs(border) for some in (support, fewer))
        assert prove(*losses)


# --- What the library computes, against what was proved --------------------------------------

PRINTED = {}
for _c in (2, 3, 4, 5):
    _f = logits(_c)
    PRINTED[_c] = {
        "table": {
            cell: lambdify([_f, RHO], formula, "mpmath")
            for cell, formula in paper.table(_f, 0, RHO).items()
        },
        "14": lambdify([_f], paper.equation_14(_f, 0).left, "mpmath"),
    }


@pytest.mark.parametrize("cell", CELLS)
@given(rows, st.sampled_from([0.0, 0.25, 1.0, 2.5]))
def test_the_library_has_the_four_losses_of_the_table(cell, row, rho):
    # The study's odds hinge keeps rho at 1.
    name = "margin" if cell == ("softplus", "LSE") else "bias"
    options = {} if cell == ("hinge", "LSE") else {name: rho}
    printed = PRINTED[len(row)]["table"][cell](row, rho if options else 1.0)
    # Both sides round at 1e-16 of numbers below 20.
    assert of(CELLS[cell], row, **options) == pytest.approx(float(printed), abs=1e-13)
    if options and rho == 1.0:
        assert of(CELLS[cell], row) == of(CELLS[cell], row, **options)


@pytest.mark.claim("L19")
@given(rows)
def test_the_dense_hinge_is_equation_14_and_torch_divides_by_c(row):
    ours, c = of(dense_hinge_loss, row), len(row)
    assert ours == pytest.approx(float(PRINTED[c]["14"](row)), abs=1e-13)
    theirs = multi_margin_loss(torch.tensor([row], dtype=torch.float64), torch.tensor([0]))
    assert ours == pytest.approx(theirs.item() * c / (c - 1), abs=1e-13)


@given(rows, st.sampled_from([0.0, 0.5, 3.0]))
def test_the_dense_hinge_asks_each_rival_for_its_bias(row, bias):
    by_hand = [max(0.0, f_c - row[0] + bias) for f_c in row[1:]]
    assert of(dense_hinge_loss, row, bias=bias) == pytest.approx(sum(by_hand) / len(by_hand))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("y", [0, 2])
def test_autograd_of_the_table_is_sympys_derivative(cell, y):
    f = logits(4)
    formula = paper.table(f, y, Rational(1))[cell]
    # SymPy's Max and Heaviside share a tie of two equally, as the library does.
    step = {"Heaviside": lambda x, at=0.5: float(x > 0) + 0.5 * (x == 0)}
    slopes = [lambdify([f], diff(formula, f_c), [step, "mpmath"]) for f_c in f]
    assert any(diff(formula, f_c).has(Heaviside) for f_c in f) == (cell != ("softplus", "LSE"))
    points = torch.randn(40, 4, generator=torch.manual_seed(0), dtype=torch.float64) * 2
    tied = torch.tensor([[1.0, 1.0, 1.0, -3.0], [-2.0, 0.5, 0.0, 0.5]], dtype=torch.float64)
    for row in torch.cat([points, tied]).tolist():
        ours = pull(CELLS[cell], row, y)
        assert ours == pytest.approx([float(s(row)) for s in slopes], abs=1e-9)


@given(rows)
def test_the_gradient_of_sparsemax_is_the_projection_less_the_target(row):
    expected = [p_c - (c == 0) for c, p_c in enumerate(projection(row))]
    assert pull(sparsemax_loss, row) == pytest.approx(expected, abs=1e-9)


@given(rows)
def test_sparsemax_is_its_printed_form_on_the_support_that_the_logits_choose(row):
    p = projection(row)
    # 1e-9 parts the support from the bisection's rounding; quarters keep p a multiple of 1/20.
    support = tuple(c for c, p_c in enumerate(p) if p_c > 1e-9)
    f = [Rational(x) for x in row]
    assert of(sparsemax_loss, row) == pytest.approx(
        float(paper.sparsemax_printed(f, 0, support)), abs=1e-12
    )
    assert p == pytest.approx([float(x) for x in paper.sparsemax(f, support)], abs=1e-9)


@pytest.mark.parametrize("loss", [hinge_loss, hard_bias_loss, dense_hinge_loss, sparsemax_loss])
def test_a_target_elsewhere_is_the_same_loss(loss):
    row = [0.25, 1.0, -0.5, 0.75]
    for y in range(4):
        swapped = [row[y], *row[:y], *row[y + 1 :]]
        assert of(loss, row, y) == of(loss, swapped, 0)


# --- What the reader is told, checked --------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@given(rows, weights)
def test_no_mixture_pays_the_opponent_more_than_the_loss(cell, row, weight):
    weight = weight[: len(row)]
    total = sum(weight)
    p = [w / total for w in weight] if total else [1.0] + [0.0] * (len(row) - 1)
    pay = float(omega_at(p, *cell)) + sum(a * b for a, b in zip(p, row)) - row[0]
    assert pay <= of(CELLS[cell], row) + 1e-12


@pytest.mark.parametrize("cell", CELLS)
@given(rows)
def test_the_gradient_is_the_best_mixture_less_the_target(cell, row):
    p = [g + (c == 0) for c, g in enumerate(pull(CELLS[cell], row))]
    assert min(p) >= -1e-12  # the target's is 1 less a sum, and rounds
    assert sum(p) == pytest.approx(1)
    pay = float(omega_at(p, *cell)) + sum(a * b for a, b in zip(p, row)) - row[0]
    assert pay == pytest.approx(of(CELLS[cell], row), abs=1e-12)


def omega_at(p, row, column):
    """Omega at a number p.  An entropy has 0 log 0 = 0, which no formula says by itself."""
    tiny = [max(p_c, 1e-30) for p_c in p]
    return paper.omega([Rational(x) for x in tiny], 0, 1, row, column).evalf(30)


@pytest.mark.claim("L20", "L19")
@given(rows)
def test_the_hinge_chain(row):
    c = len(row)
    sparse, hard = of(sparsemax_loss, row), of(hard_bias_loss, row)
    hinge, dense = of(hinge_loss, row), of(dense_hinge_loss, row)
    soft, plain = of(soft_margin_loss, row), of(softmax_loss, row)
    links = [0, sparse, hinge, hard, soft, min(hinge + log(c), plain + 1)]
    assert all(a <= b + 1e-12 for a, b in pairwise(links))
    assert sparse <= plain + 1e-12
    assert hinge - 1e-12 <= of(odds_hinge_loss, row) <= soft + 1e-12
    assert hinge / (c - 1) - 1e-12 <= dense <= hinge + 1e-12


@pytest.mark.claim("L20")
def test_each_link_of_the_chain_is_strict_somewhere():
    row = [0.0, 0.0, 0.0]
    found = [of(x, row) for x in (sparsemax_loss, hinge_loss, hard_bias_loss, soft_margin_loss)]
    assert found == pytest.approx([1 / 3, 1, log(1 + e), log(1 + 2 * e)])
    # Either arm of the last bound can be the smaller one.
    assert of(hinge_loss, [1.0, 0.0, 0.0]) + log(3) < of(softmax_loss, [1.0, 0.0, 0.0]) + 1
    assert of(hinge_loss, [0.0, 5.0, 0.0]) + log(3) > of(softmax_loss, [0.0, 5.0, 0.0]) + 1


@pytest.mark.claim("L20")
def test_the_chain_is_tight_where_the_chapter_says_so():
    # One rival: nothing to sum, so the third link is an equality.
    assert of(hard_bias_loss, [0.5, 2.0]) == pytest.approx(of(soft_margin_loss, [0.5, 2.0]))
    # Rivals tie at a margin of exactly 1: the last link is an equality.
    assert of(soft_margin_loss, [1.0, 0.0, 0.0, 0.0]) == pytest.approx(log(4))
    assert of(hinge_loss, [1.0, 0.0, 0.0, 0.0]) == 0


@pytest.mark.claim("L19")
def test_the_bounds_on_the_dense_hinge_are_reached():
    assert of(dense_hinge_loss, [0.0, 3.0, -2.0, -2.0]) == of(hinge_loss, [0.0, 3.0, -2.0]) / 3
    assert of(dense_hinge_loss, [0.0, 3.0, 3.0, 3.0]) == of(hinge_loss, [0.0, 3.0, 3.0]) == 4


def test_the_softmax_loss_and_the_hinge_cross():
    assert of(softmax_loss, [0.0, 0.0]) < of(hinge_loss, [0.0, 0.0])
    assert of(softmax_loss, [1.0, 0.0]) > of(hinge_loss, [1.0, 0.0]) == 0


def test_the_dense_hinge_and_sparsemax_cross():
    lone, crowd = [0.0, 0.0, -9.0, -9.0, -9.0, -9.0], [0.0, 0.0, 0.0]
    assert of(dense_hinge_loss, lone) < of(sparsemax_loss, lone) == 1 / 4
    assert of(dense_hinge_loss, crowd) == 1 > of(sparsemax_loss, crowd)


@given(rows)
def test_sparsemax_rests_exactly_where_the_hinge_does(row):
    wide = margin(torch.tensor([row]), torch.tensor([0])).item() >= 1
    assert (of(sparsemax_loss, row) == 0) == (of(hinge_loss, row) == 0) == wide


@given(rows)
def test_the_hinge_exceeds_sparsemax_by_half_its_squared_gradient_at_least(row):
    slack = of(hinge_loss, row) - of(sparsemax_loss, row)
    assert slack >= sum(g * g for g in pull(sparsemax_loss, row)) / 2 - 1e-12


@given(rows, rows)
def test_sparsemax_is_the_moreau_envelope_of_the_hinge(row, other):
    if len(other) != len(row):
        other = (other * 3)[: len(row)]

    def price(g):
        return of(hinge_loss, g) + sum((a - b) ** 2 for a, b in zip(row, g)) / 2

    nearest = [f_c - g_c for f_c, g_c in zip(row, pull(sparsemax_loss, row))]
    # At the best point the hinge's two sides meet up to rounding of its arguments.
    assert price(nearest) == pytest.approx(of(sparsemax_loss, row), abs=1e-12)
    assert price(other) >= of(sparsemax_loss, row) - 1e-12


@pytest.mark.parametrize("xi", [-1.0, 0.0, 0.5, 1.0, 2.0, 3.5])
def test_two_classes_leave_four_losses_and_sparsemax_is_the_modified_huber(xi):
    row = [0.0, xi - 1]
    huber = 0.0 if xi <= 0 else xi * xi / 4 if xi <= 2 else xi - 1
    assert of(sparsemax_loss, row) == pytest.approx(huber)
    assert of(dense_hinge_loss, row) == of(hinge_loss, row) == of(odds_hinge_loss, row)
    assert of(hard_bias_loss, row) == pytest.approx(of(soft_margin_loss, row))


@pytest.mark.claim("L18")
def test_a_maximum_touches_two_logits_and_a_sum_all():
    row = torch.randn(10, generator=torch.manual_seed(0), dtype=torch.float64).tolist()

    def count(loss):
        return sum(g != 0 for g in pull(loss, row))

    assert of(hinge_loss, row) > 0
    assert count(hinge_loss) == count(hard_bias_loss) == 2
    assert count(softmax_loss) == count(odds_hinge_loss) == 10


@pytest.mark.claim("L18")
def test_rivals_that_tie_share_the_gradient_equally():
    assert pull(hinge_loss, [0.0, 1.0, 1.0, -5.0]) == [-1, 0.5, 0.5, 0]
    assert pull(hinge_loss, [0.0, 0.0, 0.0, 0.0]) == pytest.approx([-1, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.claim("L18")
def test_a_hinge_at_its_kink_rests():
    for loss in (hinge_loss, dense_hinge_loss, sparsemax_loss):
        assert pull(loss, [1.0, 0.0, 0.0]) == [0, 0, 0]


@pytest.mark.claim("L19")
@given(rows)
def test_the_dense_hinge_is_dense_over_violated_rivals_only(row):
    violated = [f_c - row[0] + 1 > 0 for f_c in row[1:]]
    share = 1 / len(violated)
    assert pull(dense_hinge_loss, row) == pytest.approx(
        [-share * sum(violated), *(share * v for v in violated)]
    )


@pytest.mark.claim("L19")
def test_equation_14_can_be_as_sparse_as_the_hinge():
    assert pull(dense_hinge_loss, [3.0, 2.5, 0.0, 0.0, 0.0]) == [-0.25, 0.25, 0, 0, 0]


@pytest.mark.claim("L2")
def test_the_bias_is_a_strict_bound_for_the_hinge_and_a_pseudo_bound_for_softplus():
    for bias in (0.5, 1.0, 2.0):
        assert of(hinge_loss, [bias, 0.0], bias=bias) == 0
        assert of(hinge_loss, [bias - 1e-6, 0.0], bias=bias) > 0
        assert of(hard_bias_loss, [bias, 0.0], bias=bias) == pytest.approx(log(2))
        for loss in (0.5, 0.1, 1e-3):
            needed = bias - log(expm1(loss))
            assert of(hard_bias_loss, [needed, 0.0], bias=bias) == pytest.approx(loss)


@pytest.mark.claim("L2")
def test_softplus_dies_away_exponentially_between_two_exponentials():
    for xi in (0.0, -0.5, -3.0, -20.0):
        ratio = log1p(e**xi) / e**xi
        assert log(2) - 1e-12 <= ratio <= 1


@given(rows, st.sampled_from([0.25, 2.0, 4.0]))
def test_a_hinges_bias_is_a_unit_of_length(row, rho):
    scaled = [f_c / rho for f_c in row]
    assert of(hinge_loss, row, bias=rho) == pytest.approx(rho * of(hinge_loss, scaled))


@given(rows, st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from([1, 3, 20]))
def test_the_soft_margin_loss_of_large_logits_is_the_hinge(row, m, s):
    cold = of(soft_margin_loss, [s * f_c for f_c in row], margin=s * m) / s
    assert -1e-12 <= cold - of(hinge_loss, row, bias=m) <= log(len(row)) / s + 1e-12


def test_the_temperature_bound_is_reached_by_a_tie():
    assert of(soft_margin_loss, [4.0, 0.0, 0.0], margin=4.0) / 4 == pytest.approx(log(3) / 4)


def expected(loss, eta, row):
    """The mean loss where class y is right with probability eta_y."""
    return sum(weight * of(loss, row, y) for y, weight in enumerate(eta))


@pytest.mark.claim("L24")
@pytest.mark.parametrize("loss", [hinge_loss, hard_bias_loss])
@given(st.lists(quarter, min_size=3, max_size=3))
def test_without_a_majority_a_maximum_is_content_with_a_tie(loss, row):
    eta = (0.4, 0.3, 0.3)
    first, second = sorted(row, reverse=True)[:2]
    bound = of(loss, [-(1 - 2 * 0.4) * (first - second), 0.0])  # L at the least mean of xi
    assert expected(loss, eta, row) >= bound - 1e-12
    assert bound >= expected(loss, eta, [0.0, 0.0, 0.0]) - 1e-12


@pytest.mark.claim("L24")
@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (odds_hinge_loss, 1),
        (soft_margin_loss, 3 * e / (1 + 3 * e)),
        (softmax_loss, 3 / 4),
        (dense_hinge_loss, 1),
        (sparsemax_loss, 3 / 4),
    ],
)
def test_the_others_raise_every_class_that_is_likelier_than_average(loss, slope):
    eta, level = (0.4, 0.3, 0.2, 0.1), [0.0] * 4
    pulls = [pull(loss, level, y) for y in range(4)]
    for c, eta_c in enumerate(eta):
        mean = sum(weight * g[c] for weight, g in zip(eta, pulls, strict=True))
        assert mean == pytest.approx(slope * (1 - 4 * eta_c) / 3)


@pytest.mark.claim("L24")
def test_soft_margin_leaves_equal_logits_for_any_class_above_average():
    f, some = logits(4), list(symbols("eta_:3", positive=True))
    eta = [*some, 1 - sum(some)]
    worry = sum(eta_y * paper.table(f, y, RHO)["softplus", "LSE"] for y, eta_y in enumerate(eta))
    slope = diff(worry, f[0]).subs(dict.fromkeys(f, 0))
    assert prove(slope, 3 * exp(RHO) / (1 + 3 * exp(RHO)) * (1 - 4 * eta[0]) / 3)


def test_with_a_majority_the_hinge_takes_its_side():
    eta = (0.6, 0.2, 0.2)
    assert expected(hinge_loss, eta, [1.0, 0.0, 0.0]) == pytest.approx(0.8)


def test_without_a_majority_the_softmax_loss_and_sparsemax_still_rank():
    eta = (0.4, 0.3, 0.3)
    ranked = [log(x) for x in eta]
    assert expected(softmax_loss, eta, ranked) < expected(softmax_loss, eta, [0.0, 0.0, 0.0])
    assert expected(sparsemax_loss, eta, list(eta)) < expected(sparsemax_loss, eta, [0.0] * 3)


def test_a_hinge_that_counts_the_target_among_its_rivals_never_rests():
    def flawed(batch, target):
        f_y = batch.gather(1, target[:, None])
        return (batch - f_y + 1).amax(dim=1).relu()

    assert of(hinge_loss, [9.0, 0.0, 0.0]) == 0
    assert of(flawed, [9.0, 0.0, 0.0]) == 1


def test_the_exact_numbers_of_the_counter_examples():
    thirds = [Fraction(1, 3)] * 3
    assert (1 - sum(p * p for p in thirds)) / 2 == Fraction(1, 3)
    assert of(sparsemax_loss, [0.0, 0.0, 0.0]) == pytest.approx(1 / 3)


def test_the_summed_hinge_is_the_dense_hinge_without_its_mean():
    row = [0.0, 0.25, -0.5, 1.0]
    assert of(summed_hinge_loss, row) == sum(max(0.0, f_c + 1) for f_c in row[1:])


def test_the_study_counts_touched_logits():
    batch = torch.tensor([[0.0, 0.5, -3.0], [4.0, 0.0, 0.0]])
    target = torch.tensor([0, 0])
    assert touched(hinge_loss)(batch, target).tolist() == [2, 0]
    assert touched(METHODS["softmax"])(batch, target).tolist() == [3, 3]
    assert not batch.requires_grad


@pytest.mark.claim("L24")
def test_the_record_says_of_hinges_what_the_chapter_says():
    record = evidence.recall("hinge").select(scale="desk")

    def mean(regime, method, measure="error", split="test"):
        found = record.select(regime=regime, method=method).values(measure, split)
        return sum(found) / len(found)

    for deaf, hearing in (("hinge", "odds-hinge"), ("hard-bias", "soft-margin")):
        assert mean("hundred-0.1", deaf) > 98 > 90 > mean("hundred-0.1", hearing)
        assert mean("doubt-0.1", deaf) > 80 > 40 > mean("doubt-0.1", hearing)
        assert mean("ten-0.1", hearing) < mean("ten-0.1", deaf) < 40
        for regime in ("hundred-0.1", "doubt-0.1"):
            norms = [mean(regime, m, "feature_norm", "validation") for m in (deaf, hearing)]
            assert norms[0] < 0.1 < 1 < norms[1]


# --- What the library refuses ----------------------------------------------------------------


@pytest.mark.parametrize("loss", [hinge_loss, hard_bias_loss, dense_hinge_loss])
@pytest.mark.parametrize(
    ("bias", "error", "says"),
    [
        (-0.5, ValueError, "bias must be non-negative and finite; got -0.5"),
        (float("inf"), ValueError, "bias must be non-negative and finite; got inf"),
        (float("nan"), ValueError, "bias must be non-negative and finite; got nan"),
        ("1", TypeError, "bias must be a number; got str"),
    ],
)
def test_a_bias_that_is_no_margin_is_refused(loss, bias, error, says):
    with pytest.raises(error, match=says):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]), bias=bias)


@pytest.mark.parametrize("loss", [hinge_loss, hard_bias_loss, dense_hinge_loss, sparsemax_loss])
def test_one_hot_targets_are_refused(loss):
    with pytest.raises(ValueError, match=r"logits \(2, 3\) and target \(2, 3\)"):
        loss(torch.zeros(2, 3), torch.eye(3)[:2].long())
