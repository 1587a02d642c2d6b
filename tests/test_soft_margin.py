"""Chapter 3: the soft margin, its calculus of odds, and what it does to probabilities."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import (
    Add,
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
    sin,
    symbols,
)
from torch.nn.functional import cross_entropy, one_hot

from marginlib import hinge_loss, margin, soft_margin_loss, softmax_loss
from marginlib.lab.studies import soft_margin as study
from marginlib.symbolic import soft_margin as paper
from marginlib.symbolic.logits import logits, rivals, softmax, softplus
from marginlib.symbolic.proof import prove

C = 4
F = logits(C)
M, N, ELL, THETA = symbols("m n ell theta", real=True)
TARGETS = range(C)

MARGINS = (-1.5, 0.0, 0.1, 1.0, 10.0)
ROWS = [
    [0.3, -1.2, 2.0, 0.7],
    [1.0, 1.0, 1.0, 1.0],  # a tie of all
    [5.0, 5.0, -5.0, -5.0],  # a tie for the first place
    [30.0, 0.0, 0.0, 0.0],  # a loss of 3e-13
    [-30.0, 0.0, 0.0, 0.0],
    [700.0, -700.0, 0.0, 1.0],  # e^700 is near the end of float64
]
finite = st.floats(-20, 20)
rows = st.lists(finite, min_size=C, max_size=C)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def softmax_loss_printed(f, y):
    """-log p_y, from the shared vocabulary."""
    return -log(softmax(f)[y])


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


# --- What the source claims, proved --------------------------------------------------------


@pytest.mark.claim("E5")
def test_the_slack_of_eq_2_is_a_product_of_two_sines():
    assert paper.equation_2(THETA, M).prove() == "∎"


@pytest.mark.claim("E5")
@pytest.mark.parametrize("m", [2, 3, 4, Rational(3, 2)])
def test_the_chain_of_eq_2_holds_up_to_two_pi_over_m_plus_one_and_then_fails(m):
    slack = paper.equation_2(THETA, m).left
    end = 2 * pi / (m + 1)
    assert all(slack.subs(THETA, end * k / 20).evalf() > 0 for k in range(1, 20))
    assert slack.subs(THETA, end).equals(0)
    assert slack.subs(THETA, end * Rational(11, 10)).evalf() < 0


@pytest.mark.claim("E5")
def test_at_162_degrees_the_doubled_angle_is_the_better_one():
    theta = 0.9 * math.pi
    assert math.cos(theta) == pytest.approx(-0.951, abs=5e-4)
    assert math.cos(2 * theta) == pytest.approx(0.809, abs=5e-4)


@pytest.mark.claim("E6")
def test_the_cosine_of_m_theta_has_a_derivative_for_every_real_m():
    assert diff(cos(M * THETA), THETA) == -M * sin(M * THETA)


@pytest.mark.claim("E6")
def test_the_branches_of_psi_meet_in_value_and_slope_for_every_real_m():
    m, k = Symbol("m", positive=True), Symbol("k", integer=True)
    seam = k * pi / m
    before, after = paper.psi(THETA, m, k - 1), paper.psi(THETA, m, k)
    assert simplify((after - before).subs(THETA, seam)) == 0
    assert simplify(diff(after, THETA).subs(THETA, seam)) == 0
    assert simplify(diff(before, THETA).subs(THETA, seam)) == 0
    assert simplify(after.subs(THETA, seam)) == 1 - 2 * k


@pytest.mark.claim("E6")
@pytest.mark.parametrize("m", [1.0, 1.5, 2.0, 3.7])
@pytest.mark.parametrize("theta", [0.2, 1.3, 2.9])
def test_psi_is_one_minus_m_times_the_integral_of_a_sine_without_sign(m, theta):
    seams = [k * math.pi / m for k in range(math.ceil(m)) if k * math.pi / m < theta]
    area = mpmath.quad(lambda t: abs(mpmath.sin(m * t)), [*seams, theta])
    value = paper.psi(theta, m, math.floor(m * theta / math.pi))
    assert float(value) == pytest.approx(1 - m * float(area), abs=1e-12)


@pytest.mark.claim("E6")
def test_a_whole_m_buys_a_finite_slope_in_the_cosine_at_pi():
    slope = diff(paper.psi(THETA, 2, 1), THETA) / diff(cos(THETA), THETA)
    assert limit(slope, THETA, pi) == 4
    m = Rational(3, 2)
    slope = diff(paper.psi(THETA, m, 1), THETA) / diff(cos(THETA), THETA)
    assert limit(slope, THETA, pi, "-") == oo
    assert float(slope.subs(THETA, pi - Rational(1, 10000))) == pytest.approx(1.5e4, rel=1e-3)


@pytest.mark.claim("E7")
def test_eq_3_is_a_line_moved_by_m_over_the_distance_of_the_class_vectors():
    w, v, x = (list(symbols(f"{name}_1:3", real=True)) for name in "wvx")
    assert paper.equation_3(w, v, x, M).prove() == "∎"


@pytest.mark.claim("E7")
@given(rows, st.floats(0, 5))
def test_eq_3_for_all_rivals_says_that_the_margin_exceeds_m(row, m):
    f = torch.tensor([row], dtype=torch.float64)
    target = torch.tensor([1])
    lowered = f - m * one_hot(target, C)
    # At a lead of m to the last bit, rounding decides.
    if abs(margin(f, target).item() - m) > 1e-12:
        assert (margin(lowered, target) > 0) == (margin(f, target) > m)


@pytest.mark.claim("E8")
def test_the_unnumbered_score_is_the_softmax_of_the_lowered_logits():
    lowered = paper.lowered(F, 1, M)
    assert [a - b for a, b in zip(F, lowered, strict=True)] == [0, M, 0, 0]
    total = exp(F[1] - M) + Add(*(exp(f) for f in rivals(F, 1)))
    assert prove(softmax(lowered)[1], exp(F[1] - M) / total) == "∎"


@pytest.mark.claim("E9")
@pytest.mark.parametrize("y", TARGETS)
def test_eq_4_is_softplus_of_what_the_rivals_have_over_the_target_plus_m(y):
    assert paper.equation_4(F, y, M).prove() == "∎"


@pytest.mark.claim("E9")
@pytest.mark.parametrize("y", TARGETS)
def test_eq_4_is_a_function_of_the_softmax_loss_alone(y):
    loss = softmax_loss_printed(F, y)
    assert prove(paper.equation_4(F, y, M).left, paper.raised(loss, M)) == "∎"


@pytest.mark.claim("E10")
def test_without_a_margin_eq_4_is_the_softmax_loss():
    assert prove(paper.equation_4(F, 1, Integer(0)).left, softmax_loss_printed(F, 1)) == "∎"


@pytest.mark.claim("L20")
@pytest.mark.parametrize("y", TARGETS)
def test_eq_15_of_002_is_eq_4_of_001_at_one(y):
    fifteen, four = paper.equation_15(F, y), paper.equation_4(F, y, Integer(1))
    assert (fifteen.source, fifteen.number) == ("002", "15")
    assert fifteen.prove() == "∎"
    assert prove(fifteen.right, four.left) == "∎"


def test_the_numbers_are_those_of_the_source():
    w = list(symbols("w_1:3", real=True))
    equations = [
        paper.equation_2(THETA, M),
        paper.equation_3(w, F[:2], F[2:], M),
        paper.equation_4(F, 0, M),
    ]
    assert [(e.source, e.number) for e in equations] == [("001", "2"), ("001", "3"), ("001", "4")]


def test_theorem_1_the_odds_are_rivals_over_target():
    p_y = softmax(F)[2]
    told = paper.odds(softmax_loss_printed(F, 2))
    assert prove(told, (1 - p_y) / p_y) == "∎"
    assert prove(told, Add(*(exp(f - F[2]) for f in rivals(F, 2)))) == "∎"


def test_theorem_1_a_margin_multiplies_the_odds():
    assert prove(paper.odds(paper.raised(ELL, M)), exp(M) * paper.odds(ELL)) == "∎"


def test_theorem_1_margins_add_up():
    assert prove(paper.raised(paper.raised(ELL, N), M), paper.raised(ELL, M + N)) == "∎"
    assert prove(paper.raised(paper.raised(ELL, M), -M), ELL) == "∎"
    assert prove(paper.raised(ELL, Integer(0)), ELL) == "∎"


def test_theorem_1_the_weight_is_the_slope():
    assert prove(diff(paper.raised(ELL, M), ELL), paper.weight(exp(-ELL), M)) == "∎"


@pytest.mark.parametrize("c", range(C))
def test_theorem_1_the_gradient_is_the_softmax_gradient_times_the_weight(c):
    gradient = diff(paper.equation_4(F, 1, M).left, F[c])
    p = softmax(F)
    assert prove(gradient, paper.weight(p[1], M) * (p[c] - int(c == 1))) == "∎"


def test_theorem_1_the_weight_times_the_error_is_the_error_of_the_lowered_logits():
    p_y, lowered = softmax(F)[0], softmax(paper.lowered(F, 0, M))[0]
    assert prove(paper.weight(p_y, M) * (1 - p_y), 1 - lowered) == "∎"


def test_theorem_1_the_curvature_has_the_sign_of_minus_m():
    # phi'' = -a e^-ell / (1 - a e^-ell)^2: all but a = 1 - e^-m is a square or positive.
    a = 1 - exp(-M)
    curvature = diff(paper.raised(ELL, M), ELL, 2)
    assert prove(curvature, -a * exp(-ELL) / (1 - a * exp(-ELL)) ** 2) == "∎"


@given(st.floats(0, 40), st.floats(0, 12))
def test_theorem_1_the_price_of_a_margin_lies_between_zero_and_its_bounds(loss, m):
    with mpmath.workdps(50):
        loss, m = mpmath.mpf(loss), mpmath.mpf(m)
        price = mpmath.log(1 + mpmath.exp(m) * mpmath.expm1(loss)) - loss
        most = min(m, mpmath.expm1(m) * (1 - mpmath.exp(-loss)))
        # 50 digits against numbers up to e^52: what rounding leaves is far below 1e-20.
        assert -mpmath.mpf("1e-20") <= price <= most + mpmath.mpf("1e-20")


def test_the_loss_is_convex_in_the_margin():
    p_after = exp(-paper.raised(ELL, M))
    assert prove(diff(paper.raised(ELL, M), M), 1 - p_after) == "∎"
    assert prove(diff(paper.raised(ELL, M), M, 2), p_after * (1 - p_after)) == "∎"


def test_a_margin_multiplies_the_tail_of_the_loss_and_does_nothing_else_to_it():
    lead = Symbol("u", positive=True)
    assert limit(softplus(M - lead) * exp(lead), lead, oo) == exp(M)


def test_theorem_4_a_the_recalibrated_scores_make_every_slope_of_the_risk_zero():
    f, m = logits(3), list(symbols("m_0:3", real=True))
    eta = paper.recalibrated(softmax(f), m)
    slopes = [[diff(paper.equation_4(f, y, m[y]).right, f_c) for f_c in f] for y in range(3)]
    for c in range(3):
        assert prove(Add(*(eta[y] * slopes[y][c] for y in range(3))), Integer(0)) == "∎"


def test_theorem_4_a_the_recalibrated_scores_are_probabilities():
    assert prove(Add(*paper.recalibrated(softmax(F), [M] * C)), Integer(1)) == "∎"


def test_theorem_4_a_two_scores_keep_their_order():
    s, t, a = symbols("s t a", real=True)
    # a < 1 and s + t <= 1, so the second factor is positive.
    assert prove(s * (1 - a * s) - t * (1 - a * t), (s - t) * (1 - a * (s + t))) == "∎"


def test_theorem_4_a_nine_tenths_told_are_eight_tenths_true():
    eta = paper.recalibrated([Rational(9, 10), Rational(1, 10)], [Integer(1)] * 2)
    assert float(eta[0]) == pytest.approx(0.8055, abs=5e-5)


def test_theorem_4_a_for_two_classes_the_log_odds_are_a_soft_threshold_of_the_gap():
    gap = Symbol("z", real=True)
    eta = paper.recalibrated(softmax([gap, Integer(0)]), [M, M])
    assert prove(log(eta[0] / eta[1]), paper.log_odds(gap, M)) == "∎"
    assert prove(paper.log_odds(gap, Integer(0)), gap) == "∎"


# --- What the library computes, against what was proved ------------------------------------

PRINTED = [lambdify([F, M], paper.equation_4(F, y, M).left, "mpmath") for y in TARGETS]
SLOPES = [
    lambdify([F, M], [diff(paper.equation_4(F, y, M).left, f) for f in [*F, M]], "mpmath")
    for y in TARGETS
]


def agree_with_the_page(row, m, y, digits):
    f = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    m = torch.tensor([m], dtype=torch.float64, requires_grad=True)
    loss = soft_margin_loss(f, torch.tensor([y]), m)
    loss.sum().backward()
    with mpmath.workdps(digits):
        value = float(PRINTED[y](row, m.item()))
        slopes = [float(slope) for slope in SLOPES[y](row, m.item())]
    assert loss.item() == pytest.approx(value, rel=1e-9, abs=1e-300)
    assert [*f.grad[0].tolist(), m.grad.item()] == pytest.approx(slopes, rel=1e-9, abs=1e-9)


@pytest.mark.claim("E9")
@given(rows, st.floats(-5, 10), st.integers(0, C - 1))
def test_loss_and_gradient_are_those_of_eq_4_at_random(row, m, y):
    agree_with_the_page(row, m, y, digits=60)


@pytest.mark.claim("E9")
@pytest.mark.parametrize("y", [0, 1])
@pytest.mark.parametrize("m", MARGINS)
@pytest.mark.parametrize("row", ROWS)
def test_loss_and_gradient_are_those_of_eq_4_at_the_boundary(row, m, y):
    # The printed form adds e^700 to e^-700: 608 digits lie between them.
    agree_with_the_page(row, m, y, digits=700)


@pytest.mark.parametrize("m", MARGINS)
def test_torchs_cross_entropy_of_lowered_logits_agrees(m):
    f, target = torch.randn(32, 7, dtype=torch.float64), torch.arange(32) % 7
    theirs = cross_entropy(f - m * one_hot(target, 7).double(), target, reduction="none")
    # Both are right to float64's last digits; their roundings differ.
    torch.testing.assert_close(soft_margin_loss(f, target, m), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", MARGINS)
def test_the_gradient_is_the_softmax_gradient_times_the_proved_weight(m):
    f = torch.randn(16, 5, dtype=torch.float64, requires_grad=True)
    target = torch.arange(16) % 5
    (raised,) = torch.autograd.grad(soft_margin_loss(f, target, m).sum(), f)
    (plain,) = torch.autograd.grad(softmax_loss(f, target).sum(), f)
    p_y = (-softmax_loss(f, target)).exp().tolist()
    weights = doubles(*(float(paper.weight(p, m)) for p in p_y))
    torch.testing.assert_close(raised, weights[:, None] * plain, rtol=1e-11, atol=1e-13)


def test_the_margin_that_is_not_given_is_one():
    f, target = torch.randn(3, 4), torch.arange(3)
    assert torch.equal(soft_margin_loss(f, target), soft_margin_loss(f, target, 1.0))


def test_each_example_may_have_its_own_margin():
    f, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    margins = torch.tensor([0.0, 0.5, 2.0, -1.0])
    one_by_one = [soft_margin_loss(f[i : i + 1], target[i : i + 1], margins[i]) for i in range(4)]
    torch.testing.assert_close(soft_margin_loss(f, target, margins), torch.cat(one_by_one))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int64])
def test_the_kind_of_the_margins_does_not_change_the_kind_of_the_loss(kind):
    f, target = torch.randn(2, 3), torch.tensor([0, 1])
    loss = soft_margin_loss(f, target, torch.tensor([2, 1], dtype=kind))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_margin_loss(f, target, torch.tensor([2.0, 1.0])))


def test_the_population_optimum_recalibrates_to_the_true_probabilities():
    eta, m = doubles(0.6, 0.3, 0.1), doubles(2.0, 0.5, -1.0)
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([z], max_iter=200, tolerance_grad=1e-13, tolerance_change=0)

    def risk():
        descent.zero_grad()
        total = (eta * soft_margin_loss(z.expand(3, 3), torch.arange(3), m)).sum()
        total.backward()
        return total

    descent.step(risk)
    found = paper.recalibrated(z.softmax(0).tolist(), m.tolist())
    # A slope of 1e-13 at curvature about 0.1 leaves 1e-12 in z; line searches stop earlier.
    assert [float(p) for p in found] == pytest.approx(eta.tolist(), abs=1e-7)


@given(rows, st.floats(-3, 10))
def test_the_studys_recalibration_is_the_proved_one(row, m):
    f = torch.tensor([row], dtype=torch.float64)
    proved = paper.recalibrated(f[0].softmax(0).tolist(), [m] * C)
    found = study.recalibrated(f, m).softmax(dim=1)[0]
    # The told probabilities lose what 1 - a s loses: at m = 10, four digits of sixteen.
    assert found.tolist() == pytest.approx([float(p) for p in proved], rel=1e-9, abs=1e-12)


# --- What the reader is told, checked -------------------------------------------------------


@pytest.mark.claim("E10")
def test_margin_zero_is_the_softmax_loss_to_the_last_bit():
    f, target = torch.randn(64, 10), torch.arange(64) % 10
    assert torch.equal(soft_margin_loss(f, target, 0.0), softmax_loss(f, target))


def test_a_negative_margin_undoes_a_positive_one():
    f, target = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 5
    raised = soft_margin_loss(f - 2 * one_hot(target, 5), target, -2.0)
    torch.testing.assert_close(raised, softmax_loss(f, target), rtol=1e-12, atol=1e-12)


@pytest.mark.claim("L20")
@given(rows)
def test_eq_15_lies_between_softmax_loss_and_hinge_and_not_far_above_either(row):
    f, target = torch.tensor([row], dtype=torch.float64), torch.tensor([2])
    fifteen = soft_margin_loss(f, target, 1.0).item()
    plain, hinge = softmax_loss(f, target).item(), hinge_loss(f, target).item()
    # Rounding of numbers up to 41.
    slack = 1e-12
    assert plain - slack <= fifteen <= plain + 1 + slack
    assert hinge - slack <= fifteen <= hinge + math.log(C) + slack


@pytest.mark.claim("E11")
@pytest.mark.parametrize(("scale", "price"), [(1, 0.573), (5, 0.041), (20, 2e-7)])
def test_scaling_right_logits_up_makes_the_same_margin_free(scale, price):
    f, target = scale * doubles(1.0, 0.0, 0.2)[None], torch.tensor([0])
    paid = (soft_margin_loss(f, target, 1.0) - softmax_loss(f, target)).item()
    # As printed: three decimals, and one digit of the last.
    assert paid == pytest.approx(price, abs=5e-4 if scale < 20 else 5e-8)


@pytest.mark.claim("E11")
@given(rows, st.floats(0, 6))
def test_the_price_of_a_margin_dies_with_the_loss(row, m):
    f, target = torch.tensor([row], dtype=torch.float64), torch.tensor([0])
    plain = softmax_loss(f, target).item()
    paid = soft_margin_loss(f, target, m).item() - plain
    # The difference of two losses up to 50 carries their rounding.
    assert -1e-12 <= paid <= min(m, -math.expm1(m) * math.expm1(-plain)) + 1e-12
    assert -math.expm1(-plain) <= math.expm1(plain)  # 1 - p_y is at most the odds


@pytest.mark.parametrize("shift", [1e5, -1e5])
def test_a_shift_common_to_all_classes_costs_no_digit_of_the_margin(shift):
    f, target = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0])
    # 2 + 1e5 and 1e5 are exact in float32, so the differences are too.
    assert torch.equal(soft_margin_loss(f + shift, target, 0.01), soft_margin_loss(f, target, 0.01))
    naive = cross_entropy(f + shift - 0.001 * one_hot(target, 3), target)
    assert naive.item() == softmax_loss(f, target).item()  # the margin fell between two floats


def test_in_bfloat16_a_margin_of_half_vanishes_unless_it_is_added_to_the_difference():
    f, target = torch.tensor([[300.0, 298.0]]).bfloat16(), torch.tensor([0])
    lowered = f - (0.5 * one_hot(target, 2)).bfloat16()
    assert torch.equal(lowered, f)
    exact = math.log1p(math.exp(-2 + 0.5))
    assert soft_margin_loss(f, target, 0.5).item() == pytest.approx(exact, rel=1e-6)


def test_the_easy_example_gains_most():
    ratio = [float(paper.weight(p, 2.0)) for p in (0.01, 0.5, 0.99)]
    assert ratio == sorted(ratio)
    assert 1 < ratio[0] < 1.01
    assert ratio[-1] == pytest.approx(1 / (1 - (1 - math.exp(-2)) * 0.99))


def test_at_margin_five_an_easy_example_pulls_like_one_at_two_fifths():
    assert float(paper.weight(0.99, 5)) * 0.01 == pytest.approx(1 - 0.4, abs=5e-3)


@given(rows, st.floats(0, 5), st.sampled_from([1.0, 10.0, 100.0]))
def test_cooled_down_the_loss_becomes_the_hinge_with_the_margin_as_its_bias(row, m, s):
    f, target = torch.tensor([row], dtype=torch.float64), torch.tensor([3])
    cooled = soft_margin_loss(s * f, target, s * m).item() / s
    # Rounding of numbers up to 45 * s, over s.
    assert -1e-12 <= cooled - hinge_loss(f, target, bias=m).item() <= math.log(C) / s + 1e-12


def test_a_share_told_is_never_below_the_largest_true_share():
    told = torch.rand(200, 5, dtype=torch.float64).softmax(dim=1)
    for m in (0.5, 2.0, 8.0):
        true = study.recalibrated(told.log(), m).softmax(dim=1)
        assert (told.amax(1) > true.amax(1)).all()
        assert (told.argmax(1) == true.argmax(1)).all()
    meek = study.recalibrated(told.log(), -1.0).softmax(dim=1)
    assert (told.amax(1) < meek.amax(1)).all()


def test_uniform_scores_stay_uniform_whatever_the_margin():
    uniform = study.recalibrated(torch.zeros(1, 4, dtype=torch.float64), 3.0).softmax(dim=1)
    torch.testing.assert_close(uniform, torch.full((1, 4), 0.25, dtype=torch.float64))


def test_arcfaces_margin_turns_negative_beyond_pi_minus_half_of_it():
    m = Symbol("m", positive=True)
    as_product = 2 * sin(m / 2) * sin(THETA + m / 2)
    assert prove(cos(THETA) - cos(THETA + m), as_product) == "∎"
    assert math.cos(3.0) - math.cos(3.5) < 0 < math.cos(2.8) - math.cos(3.3)


def test_the_study_takes_the_margins_of_the_source_and_none():
    assert {study.margin_of(name) for name in study.METHODS} >= {0.0, 0.5, 1.0, 5.0, 10.0}
    f, target = torch.randn(6, 3), torch.arange(6) % 3
    for name, loss in study.METHODS.items():
        expected = soft_margin_loss(f, target, study.margin_of(name))
        assert torch.equal(loss(f, target), expected)


@pytest.mark.claim("E2")
def test_hsic_of_linear_kernels_is_the_squared_length_of_the_cross_covariance():
    n = 6
    x, y = torch.randn(n, 2, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    hsic = torch.trace(x @ x.T @ h @ y @ y.T @ h) / (n - 1) ** 2
    covariance = torch.cov(torch.cat([x, y], dim=1).T)[:2, 2:]
    torch.testing.assert_close(hsic, covariance.square().sum())


@pytest.mark.claim("E3")
def test_the_centring_matrix_is_a_symmetric_projection_that_takes_means_away():
    n = 5
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    torch.testing.assert_close(h @ h, h)
    assert torch.equal(h, h.T)
    gram = torch.randn(n, n, dtype=torch.float64)
    assert (h @ gram @ h).sum(dim=0).abs().max() < 1e-13  # five terms of size one


@pytest.mark.claim("E4")
def test_with_a_linear_kernel_hsic_is_zero_for_a_variable_and_its_square():
    h = torch.eye(3) - 1 / 3
    x = torch.tensor([-1.0, 0.0, 1.0])
    hsic = torch.trace(torch.outer(x, x) @ h @ torch.outer(x**2, x**2) @ h)
    assert hsic.abs() < 1e-6  # float32; exactly 0 on paper


# --- What the library refuses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (math.inf, ValueError, "margin must be finite; got inf"),
        (-math.inf, ValueError, "margin must be finite; got -inf"),
        (math.nan, ValueError, "margin must be finite; got nan"),
        ("1", TypeError, "margin must be a number or a tensor; got str"),
        (None, TypeError, "margin must be a number or a tensor; got NoneType"),
        (
            torch.ones(2, 1),
            ValueError,
            r"expected one margin, or one per example \(2,\); got margin \(2, 1\)",
        ),
        (
            torch.ones(3),
            ValueError,
            r"expected one margin, or one per example \(2,\); got margin \(3,\)",
        ),
    ],
)
def test_refusals_say_what_they_got(wrong, error, says):
    with pytest.raises(error, match=f"^{says}$"):
        soft_margin_loss(torch.zeros(2, 3), torch.tensor([0, 1]), wrong)


def test_whole_numbers_and_scalar_tensors_are_margins_too():
    f, target = torch.randn(2, 3), torch.tensor([0, 1])
    expected = soft_margin_loss(f, target, 2.0)
    assert torch.equal(soft_margin_loss(f, target, 2), expected)
    assert torch.equal(soft_margin_loss(f, target, torch.tensor(2.0)), expected)


def test_every_class_needs_its_margin():
    with pytest.raises(ValueError, match="zip"):
        paper.recalibrated(softmax(F), [M] * 3)
