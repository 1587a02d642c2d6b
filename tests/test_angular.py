"""Chapter 5: angles that are multiplied or moved, proved, computed and told."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from sympy import (
    Integer,
    Rational,
    Symbol,
    chebyshevt,
    cos,
    diff,
    expand,
    pi,
    simplify,
    sin,
    solve,
    symbols,
)
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from marginlib import (
    a_softmax_logits,
    a_softmax_loss,
    a_softmax_margin,
    annealing_schedule,
    arcface_loss,
    arcface_margin,
    cosface_loss,
    cosine_logits,
    l_softmax_loss,
    l_softmax_margin,
    normface_loss,
    psi,
    soft_margin_loss,
)
from marginlib.lab import evidence
from marginlib.symbolic import angular as paper
from marginlib.symbolic.logits import lse, rivals
from marginlib.symbolic.proof import Unproved, prove

mp.dps = 30
THETA, M, R, LAM = symbols("theta m r lambda", positive=True)
F = list(symbols("f_:4", real=True))
N, C, D = 6, 4, 5
LOSSES = {
    "l-softmax": l_softmax_loss,
    "l-softmax, m = 1.5": partial(l_softmax_loss, margin=1.5, annealing=0.3),
    "a-softmax": partial(a_softmax_loss, margin=3),
    "a-softmax, m = 2.5": partial(a_softmax_loss, margin=2.5),
    "normface": normface_loss,
    "cosface": partial(cosface_loss, scale=8.0),
    "arcface": partial(arcface_loss, scale=8.0),
    "arcface, m = 2": partial(arcface_loss, scale=4.0, margin=2.0),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def sample(n=N, c=C, d=D, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(k, d, generator=draw, dtype=torch.float64) for k in (n, c))
    return x.to(dtype), w.to(dtype), torch.arange(n) % c


def at_angle(theta, length=2.0, other=1.7, d=4):
    """One feature at this angle from the first of d class vectors, all at right angles."""
    x = torch.zeros(1, d, dtype=torch.float64)
    x[0, 0], x[0, 1] = length * math.cos(theta), length * math.sin(theta)
    return x, other * torch.eye(d, dtype=torch.float64), torch.tensor([0])


def gradients(loss, x, w, y, **options):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    return torch.autograd.grad(loss(x, w, y).sum(), (x, w), **options)


def phi(t):
    """1 minus the integral of |sin| from 0 to t: psi's form for every real multiple."""
    k = mp.floor(mp.mpf(t) / mp.pi)
    return mp.cos(t - k * mp.pi) - 2 * k


# --- Claimed and proved --------------------------------------------------------------------


@pytest.mark.claim("S11")
@pytest.mark.parametrize("m", range(1, 9))
def test_the_expansion_is_the_cosine_of_m_theta(m):
    c = Symbol("c")
    equation = paper.multiple_angle(THETA, m)
    assert equation.prove() == "∎"
    assert (equation.source, equation.number) == ("003", f"cos {m} theta")
    assert expand(paper.expansion(c, m)) == chebyshevt(m, c)
    assert paper.expansion(cos(1), m).evalf(20) == pytest.approx(math.cos(m), abs=1e-12)
    assert paper.de_moivre(cos(THETA), sin(THETA), m).subs(THETA, 1).evalf() == pytest.approx(
        math.cos(m), abs=1e-12
    )


@pytest.mark.claim("S12")
def test_the_printed_row_for_m_2_is_wrong_and_its_result_right():
    row, right = paper.printed_row(THETA, 2), paper.expansion(cos(THETA), 2)
    assert float(row.subs(THETA, 1)) == pytest.approx(0.2316, abs=5e-5)
    assert math.cos(2) == pytest.approx(-0.4161, abs=5e-5)
    with pytest.raises(Unproved):
        prove(row, right)
    assert prove(right, 2 * cos(THETA) ** 2 - 1) == "∎"


@pytest.mark.claim("S14")
def test_the_printed_row_for_m_4_is_wrong_by_the_sixth_power_of_the_sine():
    row, right = paper.printed_row(THETA, 4), paper.expansion(cos(THETA), 4)
    assert prove(row - right, -(sin(THETA) ** 6)) == "∎"
    assert float(row.subs(THETA, 1)) == pytest.approx(-1.0086, abs=5e-5)
    assert math.cos(4) == pytest.approx(-0.6536, abs=5e-5)


@pytest.mark.claim("S13")
def test_doubling_twice_gives_the_same_polynomial():
    c = cos(THETA)
    doubled = 2 * (2 * c**2 - 1) ** 2 - 1
    assert prove(doubled, 8 * c**4 - 8 * c**2 + 1) == "∎"
    assert expand(doubled - paper.expansion(c, 4)) == 0


@pytest.mark.claim("S10")
def test_the_parts_of_psi_meet_in_value_and_in_slope():
    m, k = Symbol("m", positive=True), Symbol("k", integer=True)
    seam = k * pi / m
    before, after = paper.psi(THETA, m, k - 1), paper.psi(THETA, m, k)
    assert simplify(after.subs(THETA, seam)) == 1 - 2 * k
    assert simplify(before.subs(THETA, seam)) == 1 - 2 * k
    for part in (k - 1, k):
        equation = paper.slope(THETA, m, part)
        assert equation.number == "psi, slope"
        assert simplify(equation.left - equation.right) == 0
        assert simplify(equation.right.subs(THETA, seam)) == 0


@pytest.mark.claim("S9", "S10")
@pytest.mark.parametrize("m", [1, 2, 3, 4, 1.5, 3.7])
def test_psi_is_one_minus_an_area_and_falls_and_stays_below_the_cosine(m):
    theta = torch.linspace(0, math.pi, 801, dtype=torch.float64)
    found = psi(theta.cos(), m)
    due = [float(phi(mp.mpf(m) * t)) for t in theta.tolist()]
    # The cosine is rounded, and for m that are not whole its slope has no bound next to pi.
    assert found.tolist() == pytest.approx(due, abs=1e-12)
    area = mp.quad(lambda t: abs(mp.sin(t)), [0, *(j * mp.pi for j in range(1, int(m) + 1)), m * 3])
    assert float(phi(3 * mp.mpf(m))) == pytest.approx(float(1 - area), abs=1e-12)
    assert (found.diff() < 0).all()
    assert (found <= theta.cos() + 1e-12).all()
    assert found[0] == 1
    assert (found - (1 - 2 * m * theta / math.pi)).abs().max() <= 0.2106
    if isinstance(m, int):
        assert found[-1].item() == pytest.approx(1 - 2 * m, abs=1e-13)


@pytest.mark.claim("S10")
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_target_logit_changes_at_most_by_its_lipschitz_constant(m):
    u = Symbol("u")
    (top,) = solve(diff(paper.squared_slope(u, M), u), u) if m > 1 else (Integer(0),)
    due = paper.squared_slope(top, M).subs(M, m) if m > 1 else Integer(1)
    assert simplify(due - paper.steepest(M).subs(M, m) ** 2) == 0
    x = torch.randn(4000, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    length = x.norm(dim=1)

    def logit(x):
        return x.norm() * psi(x[0] / x.norm(), m)

    slopes = torch.func.vmap(torch.func.grad(logit))(x).norm(dim=1)
    bound = float(paper.steepest(m))
    assert length.min() > 0
    assert slopes.max() <= bound + 1e-9
    assert slopes.max() >= 0.99 * bound
    assert bound == pytest.approx([1, 3.0551, 5.1962, 7.3756][m - 1], abs=1e-4)


@pytest.mark.claim("S10")
@pytest.mark.parametrize("m", [2, 3])
def test_the_squared_slope_is_that_of_psi_on_its_last_part(m):
    theta = Symbol("theta", real=True)
    last = paper.psi(theta, m, m - 1)
    due = last**2 + diff(last, theta) ** 2
    assert prove(paper.squared_slope((-1) ** (m - 1) * cos(m * theta), m), due) == "∎"


@pytest.mark.claim("S1", "S8")
@pytest.mark.parametrize("y", range(4))
def test_the_loss_is_the_softmax_loss_with_a_margin_of_its_own(y):
    put = Symbol("t", real=True)
    equation = paper.loss(F, y, put)
    assert equation.prove() == "∎"
    assert equation.number == "loss"
    assert prove(equation.right.subs(put, F[y]), lse(F) - F[y]) == "∎"
    assert not any(put in r.free_symbols for r in rivals(F, y))


@pytest.mark.claim("S16")
def test_the_mixture_divides_the_margin_by_one_plus_lambda():
    put = Symbol("psi", real=True)
    equation = paper.mixture(R, THETA, put, LAM)
    assert equation.prove() == "∎"
    assert equation.number == "mixture"
    assert prove(equation.right.subs(LAM, 0), R * put) == "∎"
    x, w, y = sample()
    whole, third = (l_softmax_margin(x, w, y, 3, lam) for lam in (0.0, 2.0))
    torch.testing.assert_close(third, whole / 3)


@pytest.mark.claim("S2", "S3")
def test_a_logit_is_two_lengths_and_a_cosine():
    x, w, _ = sample()
    lengths = x.norm(dim=1)[:, None] * w.norm(dim=1)
    cosine = cosine_similarity(x[:, None], w[None], dim=2)
    torch.testing.assert_close(lengths * cosine, linear(x, w))
    # The feature's length scales all logits of a row, so it decides nothing.
    assert torch.equal(linear(3 * x, w).argmax(1), (w.norm(dim=1) * cosine).argmax(1))


@pytest.mark.claim("S4", "S5")
@pytest.mark.parametrize("m", [2, 3, 4, 2.5])
def test_the_new_demand_implies_the_old_one(m):
    theta = torch.linspace(0, math.pi, 1001, dtype=torch.float64)
    first = theta <= math.pi / m
    assert (theta.cos() >= (m * theta).cos() - 1e-15)[first].all()
    torch.testing.assert_close(psi(theta.cos(), m)[first], (m * theta).cos()[first])
    assert ((m * theta).cos() > theta.cos() + 0.1).any()  # cos(m theta) itself fails later
    assert (psi(theta.cos(), m) <= theta.cos() + 1e-12).all()


@pytest.mark.claim("S6")
@pytest.mark.parametrize("m", [2, 3, 4])
def test_for_equal_lengths_the_rule_is_m_theta_1_below_theta_2(m):
    draw = torch.Generator().manual_seed(0)
    one, two = math.pi * torch.rand(2, 20_000, dtype=torch.float64, generator=draw)
    assert torch.equal(psi(one.cos(), m) > two.cos(), m * one < two)


@pytest.mark.claim("S6")
def test_for_unequal_lengths_it_is_not():
    assert 2 * 0.3 < 0.7
    assert psi(doubles(0.3).cos(), 2).item() == pytest.approx(0.825, abs=5e-4)
    assert 3 * math.cos(0.7) == pytest.approx(2.2945, abs=5e-5)


def meeting(ratio, wedge, m):
    """The angle from the first class vector, in degrees, at which psi's demand is just met."""
    low, high = 0.0, math.radians(wedge)
    for _ in range(60):
        middle = (low + high) / 2
        ahead = ratio * psi(doubles(middle).cos(), m).item() > math.cos(
            math.radians(wedge) - middle
        )
        low, high = (middle, high) if ahead else (low, middle)
    return math.degrees(low)


@pytest.mark.claim("S7")
def test_a_longer_class_vector_gets_the_wider_angle_if_the_two_are_not_far_apart():
    for ratio, due in ((1, 45.0), (3, 71.565)):
        angle = math.degrees(float(paper.boundary(Integer(ratio), pi / 2)))
        assert angle == pytest.approx(due, abs=1e-3)
        assert meeting(ratio, 90, 1) == pytest.approx(due, abs=1e-3)
    assert meeting(1, 90, 2) == pytest.approx(30, abs=1e-6)
    assert meeting(3, 90, 2) == pytest.approx(39.0, abs=0.05)
    assert meeting(1, 170, 2) == pytest.approx(56.7, abs=0.05)
    assert meeting(3, 170, 2) == pytest.approx(49.8, abs=0.05)
    # The two scores are zero together at 90 degrees (1 + 1/m) apart.
    assert meeting(1, 135, 2) == pytest.approx(45, abs=1e-6)
    assert meeting(3, 135, 2) == pytest.approx(45, abs=1e-6)
    wedge = Symbol("A", positive=True)
    tie = paper.boundary(R, wedge)
    assert prove(diff(tie, R), sin(wedge) / ((R - cos(wedge)) ** 2 + sin(wedge) ** 2)) == "∎"


@pytest.mark.claim("S17")
def test_the_slides_lambda_is_no_start_and_the_authors_is():
    assert pytest.approx(0.909, abs=5e-4) == 1 / (1 + 0.1)
    assert 1 / (1 + annealing_schedule(0)) == pytest.approx(0.001, abs=2e-6)
    due = {0: 1000.0, 1000: 421.36, 5000: 16.209, 10_000: 0.40565, 20_000: 6.867e-4}
    for step, value in due.items():
        assert annealing_schedule(step) == pytest.approx(value, rel=1e-3)
    assert annealing_schedule(20_000, least=5.0) == 5.0
    assert annealing_schedule(10, base=8.0, gamma=0.1, power=2.0) == 2.0


@pytest.mark.claim("S21")
def test_table_5_in_numbers():
    web, others = {"m = 4": 98.71, "softmax": 96.53, "ding": 98.43}, (99.65, 98.95, 98.70)
    assert max(web, key=web.get) == "m = 4"
    assert web["m = 4"] - web["ding"] == pytest.approx(0.28)
    assert sum(accuracy > web["m = 4"] for accuracy in others) == 2


def test_arcfaces_plain_margin_turns_negative_and_the_librarys_does_not():
    equation = paper.arcface_margin(THETA, M)
    assert equation.prove() == "∎"
    assert equation.number == "margin"
    assert equation.right.subs({THETA: 3, M: Rational(1, 2)}).evalf() < 0
    past = paper.arcface_past(THETA, M)
    assert simplify(past.subs(THETA, pi - M)) == -1
    assert simplify(diff(past, THETA).subs(THETA, pi - M)) == 0
    for theta in (0.0, 1.0, 2.6, 2.7, 3.0, math.pi):
        x, w, y = at_angle(theta)
        moved = theta + 0.5
        due = math.cos(moved) if moved <= math.pi else float(past.subs({THETA: theta, M: 0.5}))
        found = arcface_margin(x, w, y).item()
        assert found == pytest.approx(30 * (math.cos(theta) - due), abs=1e-12)
        assert found > 0


@pytest.mark.claim("S15")
@pytest.mark.claim("S15")
def test_the_step_to_the_logit_on_the_slide():
    # f_y as printed, (-1)^k |w||x| cos(m theta) - 2k |w||x|, against logit less margin.
    for theta, k in ((0.3, 0), (1.0, 1), (2.0, 2), (3.0, 3)):
        x, w, y = at_angle(theta)
        printed = 3.4 * float(paper.psi(theta, 4, k))
        found = (linear(x, w)[0, 0] - l_softmax_margin(x, w, y)[0]).item()
        assert found == pytest.approx(printed, abs=1e-12)


# --- Computed and compared -----------------------------------------------------------------


def reference(name, x, w, y, margin=None, scale=None, lam=0.0):
    """The paper's loss for one example with 30 digits, from angles."""
    x, w = [mp.mpf(v) for v in x], [[mp.mpf(v) for v in row] for row in w]
    length = mp.sqrt(sum(v * v for v in x))
    lengths = [mp.sqrt(sum(v * v for v in row)) for row in w]
    cosines = [
        sum(a * b for a, b in zip(x, row, strict=True)) / length / r
        for row, r in zip(w, lengths, strict=True)
    ]
    theta = mp.acos(cosines[y])
    times = {
        "l": [length * r for r in lengths],
        "a": [length] * len(w),
    }.get(name, [mp.mpf(scale or 1)] * len(w))
    f = [t * c for t, c in zip(times, cosines, strict=True)]
    put = {
        "l": lambda: (lam * cosines[y] + phi(margin * theta)) / (1 + lam),
        "a": lambda: (lam * cosines[y] + phi(margin * theta)) / (1 + lam),
        "norm": lambda: cosines[y],
        "cos": lambda: cosines[y] - margin,
        "arc": lambda: phi(theta + margin),
    }[name]()
    f[y] = times[y] * put
    return mp.log(sum(mp.exp(v - f[y]) for v in f))


CASES = {
    "l": (l_softmax_loss, {"margin": 4}),
    "l, mixed": (l_softmax_loss, {"margin": 3, "annealing": 0.7}),
    "l, real": (l_softmax_loss, {"margin": 1.5}),
    "a": (a_softmax_loss, {"margin": 2}),
    "a, mixed": (a_softmax_loss, {"margin": 4, "annealing": 5.0}),
    "norm": (normface_loss, {"scale": 16.0}),
    "cos": (cosface_loss, {"scale": 30.0, "margin": 0.35}),
    "arc": (arcface_loss, {"scale": 30.0, "margin": 0.5}),
    "arc, wide": (arcface_loss, {"scale": 3.0, "margin": 3.0}),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.mark.claim("S8", "S15")
@each_case
def test_values_are_the_papers(case):
    loss, told = CASES[case]
    x, w, y = sample(12, seed=3)
    found = loss(x, w, y, **told).tolist()
    said = {"lam": told.get("annealing", 0.0)} | {k: v for k, v in told.items() if k != "annealing"}
    due = [
        float(reference(case.split(",")[0], x[i].tolist(), w.tolist(), int(y[i]), **said))
        for i in range(12)
    ]
    assert found == pytest.approx(due, abs=1e-11, rel=1e-12)


@pytest.mark.parametrize("theta", [0.0, 1e-9, 1e-5, 1.0, math.pi - 1e-5, math.pi])
@each_case
def test_values_are_the_papers_at_both_ends_too(case, theta):
    loss, told = CASES[case]
    x, w, y = at_angle(theta)
    said = {"lam": told.get("annealing", 0.0)} | {k: v for k, v in told.items() if k != "annealing"}
    due = reference(case.split(",")[0], x[0].tolist(), w.tolist(), 0, **said)
    tight = (
        1e-7 if case == "l, real" and theta > 3 else 1e-11
    )  # psi's slope grows without end there
    assert loss(x, w, y, **told).item() == pytest.approx(float(due), abs=tight, rel=1e-12)


@every_loss
def test_first_and_second_derivatives_agree_with_finite_differences(loss):
    x, w, y = sample()
    both = x.requires_grad_(), w.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: loss(x, w, y), both)
    assert torch.autograd.gradgradcheck(lambda x, w: loss(x, w, y), both)


@pytest.mark.parametrize("theta", [1e-3, 1e-4, math.pi - 1e-3])
@every_loss
def test_gradients_agree_with_finite_differences_next_to_0_and_pi(loss, theta):
    x, w, y = at_angle(theta)
    both = x.requires_grad_(), w.requires_grad_()
    # Steps far below the angle; float64 then leaves about six digits.
    assert torch.autograd.gradcheck(
        lambda x, w: loss(x, w, y), both, eps=1e-8, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("m", [2, 3, 4, 7, 1.5, 2.7, 10.3])
def test_psi_has_smooth_slopes_at_the_angle_0_at_its_knots_and_where_the_series_ends(m):
    switch = 1 - 0.05 / m**2
    knots = [math.cos(j * math.pi / m) for j in range(1, math.ceil(m))]
    c = doubles(
        1 - 1e-9, 1 - 1e-5, switch - 1e-9, switch + 1e-9, 0.3, -0.2, *knots
    ).requires_grad_()
    slope = torch.autograd.grad(psi(c, m).sum(), c, create_graph=True)[0]
    theta = [mp.acos(mp.mpf(v)) for v in c.tolist()]
    due = [float(m * abs(mp.sin(m * t)) / mp.sin(t)) for t in theta]
    assert slope.tolist() == pytest.approx(due, abs=1e-11, rel=1e-10)
    (bend,) = torch.autograd.grad(slope[:6].sum(), c)

    def second(t):
        sign = 1 if int(mp.floor(m * t / mp.pi)) % 2 == 0 else -1
        s = mp.sin(t)
        return sign * m * (mp.sin(m * t) * mp.cos(t) - m * mp.cos(m * t) * s) / s**3

    assert bend[:6].tolist() == pytest.approx(
        [float(second(t)) for t in theta[:6]], rel=1e-6, abs=1e-6
    )
    ends = doubles(1.0, -1.0).requires_grad_()
    first, last = torch.autograd.grad(psi(ends, m).sum(), ends)[0].tolist()
    assert first == pytest.approx(m * m, rel=1e-12)
    assert last == (m * m if isinstance(m, int) else 0)


def test_a_whole_multiple_written_as_a_float_is_a_whole_multiple():
    c = torch.linspace(-1, 1, 21, dtype=torch.float64)
    assert torch.equal(psi(c, 3.0), psi(c, 3))
    assert torch.equal(psi(c, 1), c)


def test_psi_takes_rounding_beyond_one_calmly():
    for m in (2, 2.5):
        c = torch.tensor([1.0000001, -1.0000001], requires_grad=True)
        (slope,) = torch.autograd.grad(psi(c, m).sum(), c)
        assert slope.isfinite().all()
        assert psi(c, m).tolist() == pytest.approx([1.0, float(phi(m * mp.pi))], abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 8), st.floats(0, math.pi))
def test_psi_is_its_integral_form_for_any_multiple(m, theta):
    # For m that are no whole number, an error of 1e-16 in the cosine next to pi grows to 1e-8.
    found = psi(doubles(theta).cos(), m).item()
    assert found == pytest.approx(float(phi(mp.mpf(m) * mp.mpf(theta))), abs=1e-6)


def test_with_margins_that_do_nothing_they_are_cross_entropy():
    x, w, y = sample()
    plain = cross_entropy(linear(x, w), y, reduction="none")
    torch.testing.assert_close(l_softmax_loss(x, w, y, margin=1), plain)
    unit = torch.nn.functional.normalize(w)
    torch.testing.assert_close(
        a_softmax_loss(x, w, y, margin=1), cross_entropy(linear(x, unit), y, reduction="none")
    )
    cosines = 16 * linear(torch.nn.functional.normalize(x), unit)
    due = cross_entropy(cosines, y, reduction="none")
    torch.testing.assert_close(normface_loss(x, w, y), due)
    torch.testing.assert_close(cosface_loss(x, w, y, 16.0, 0.0), due)
    torch.testing.assert_close(arcface_loss(x, w, y, 16.0, 0.0), due)
    torch.testing.assert_close(cosine_logits(x, w, 16.0), cosines)
    torch.testing.assert_close(a_softmax_logits(x, w), linear(x, unit))


def test_each_is_the_soft_margin_loss_with_its_own_margin():
    x, w, y = sample()
    for loss, logits, margin in (
        (l_softmax_loss, linear(x, w), l_softmax_margin(x, w, y)),
        (a_softmax_loss, a_softmax_logits(x, w), a_softmax_margin(x, w, y)),
        (arcface_loss, cosine_logits(x, w, 30.0), arcface_margin(x, w, y)),
        (cosface_loss, cosine_logits(x, w, 30.0), 30.0 * 0.35),
    ):
        torch.testing.assert_close(loss(x, w, y), soft_margin_loss(logits, y, margin))


def test_the_loss_of_l_softmax_grows_with_m():
    x, w, y = sample(50)
    losses = [l_softmax_loss(x, w, y, m) for m in (1, 1.5, 2, 3, 4)]
    assert all((b > a).all() for a, b in pairwise(losses))


@pytest.mark.parametrize("length", [1e-4, 1.0, 1e4])
def test_a_feature_on_the_line_is_not_turned_however_long_it_is(length):
    w = torch.randn(200, 7, generator=torch.manual_seed(3))
    x = (length * w / 3).requires_grad_()  # rounded, so not quite on the line
    arcface_margin(x, w, torch.arange(200), scale=1.0).sum().backward()
    assert (x.grad.norm(dim=1) * x.detach().norm(dim=1)).max() < 1e-5


@every_loss
def test_the_hand_written_gradient_is_autograds(loss, monkeypatch):
    x, w, y = sample(9, 5, 7)
    ours = gradients(loss, x, w, y)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # takes the plain way
    for found, due in zip(ours, gradients(loss, x, w, y), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-12, atol=1e-13)


@every_loss
def test_torch_func_agrees_with_autograd(loss):
    x, w, y = sample()
    to_x, to_w = gradients(loss, x, w, y)

    def one(x, w, y):
        return loss(x[None], w, y[None])[0]

    each = torch.func.vmap(torch.func.grad(one, argnums=(0, 1)), in_dims=(0, None, 0))(x, w, y)
    torch.testing.assert_close(each[0], to_x)
    torch.testing.assert_close(each[1].sum(0), to_w)
    whole = torch.func.jacrev(lambda w: loss(x, w, y))(w)
    torch.testing.assert_close(whole.sum(0), to_w)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own import
def test_forward_mode_agrees_with_reverse_mode():
    x, w, y = sample()
    step = torch.ones_like(w)
    for loss in (l_softmax_loss, normface_loss, arcface_loss):
        found = torch.func.jvp(lambda w, loss=loss: loss(x, w, y).sum(), (w,), (step,))[1]
        torch.testing.assert_close(found, (gradients(loss, x, w, y)[1] * step).sum())
    found = torch.func.jvp(lambda x: arcface_loss(x, w, y).sum(), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(found, gradients(arcface_loss, x, w, y)[0].sum())


def test_arcface_resolves_angles_that_one_minus_the_squared_cosine_cannot():
    # In float32, at a ten-thousandth of a radian: 1 - cos^2 is a rounding error there.
    x, w, y = (t.float() if t.is_floating_point() else t for t in at_angle(1e-4))
    due = 30 * (math.cos(1e-4) - math.cos(0.5 + 1e-4))
    assert arcface_margin(x, w, y).item() == pytest.approx(due, rel=1e-6)
    slope = gradients(partial(arcface_margin, scale=1.0), x, w, y)[0][0]
    assert slope[1].item() == pytest.approx(math.sin(0.5 + 1e-4) / 2, rel=1e-3)


# --- Told and checked ----------------------------------------------------------------------


def test_defaults_are_as_told():
    x, w, y = sample()
    for loss, told in (
        (l_softmax_loss, {"margin": 4, "annealing": 0.0}),
        (l_softmax_margin, {"margin": 4, "annealing": 0.0}),
        (a_softmax_loss, {"margin": 4, "annealing": 0.0}),
        (a_softmax_margin, {"margin": 4, "annealing": 0.0}),
        (normface_loss, {"scale": 16.0}),
        (cosface_loss, {"scale": 30.0, "margin": 0.35}),
        (arcface_loss, {"scale": 30.0, "margin": 0.5}),
        (arcface_margin, {"scale": 30.0, "margin": 0.5}),
    ):
        assert torch.equal(loss(x, w, y), loss(x, w, y, **told))
    assert torch.equal(cosine_logits(x, w), cosine_logits(x, w, 1.0))


@every_loss
def test_vectors_of_length_zero_have_finite_answers_at_every_order(loss):
    x, w, y = sample()
    x[0], w[1] = 0, 0
    to_x, to_w = gradients(loss, x, w, y)
    x, w = x.requires_grad_(), w.requires_grad_()
    losses = loss(x, w, y)
    again = torch.autograd.grad(losses.sum(), (x, w), create_graph=True)
    twice = torch.autograd.grad(sum(g.square().sum() for g in again), (x, w))
    assert all(t.isfinite().all() for t in (losses, to_x, to_w, *again, *twice))
    torch.testing.assert_close(again, (to_x, to_w))


def test_a_vector_of_length_zero_is_at_right_angles_and_is_not_turned():
    x, w, y = sample()
    x[0], w[1] = 0, 0
    assert cosine_logits(x, w)[0].tolist() == cosine_logits(x, w)[:, 1].tolist()[:4] == [0.0] * 4
    assert arcface_margin(x, w, y)[:2].tolist() == pytest.approx([30 * math.sin(0.5)] * 2)
    assert l_softmax_margin(x, w, y)[:2].tolist() == [0.0, 0.0]
    to_x, to_w = gradients(arcface_loss, x, w, y)
    assert to_x[0].abs().max() == to_w[1].abs().max() == 0


@every_loss
def test_a_feature_on_its_class_vector_or_opposite_has_finite_gradients(loss):
    _, w, _ = sample()
    for sign in (1, -1):
        for dtype in (torch.float32, torch.float64):
            x, weight = (sign * 3 * w).to(dtype), w.to(dtype)
            assert all(g.isfinite().all() for g in gradients(loss, x, weight, torch.arange(C)))


def test_the_length_of_a_feature_does_not_matter_to_the_normalised_ones():
    x, w, y = sample()
    for loss in (normface_loss, cosface_loss, arcface_loss):
        torch.testing.assert_close(loss(7 * x, 0.1 * w, y), loss(x, w, y))
        to_x, to_w = gradients(loss, x, w, y)
        torch.testing.assert_close((x * to_x).sum(1), torch.zeros(N, dtype=torch.float64))
        torch.testing.assert_close((w * to_w).sum(1), torch.zeros(C, dtype=torch.float64))


def test_arcfaces_logit_falls_all_the_way():
    for m in (0.0, 0.5, 2.0, math.pi):
        theta = torch.linspace(0, math.pi, 401)
        logits = [
            (cosine_logits(x, w) - arcface_margin(x, w, y, 1.0, m))[0, 0].item()
            for x, w, y in map(at_angle, theta.tolist())
        ]
        assert all(b < a + 1e-14 for a, b in pairwise(logits))
        assert max(a - b for a, b in pairwise(logits)) < 0.01


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_half_precision_compute_in_float32(loss, dtype):
    x, w, y = sample(50, 10, 16, dtype=torch.float32)
    w.requires_grad_()
    with torch.autocast("cpu", dtype):
        losses = loss(x, w, y)
        losses.sum().backward()
    assert losses.dtype == w.grad.dtype == torch.float32
    torch.testing.assert_close(losses, loss(x, w, y))
    half = loss(x.to(dtype), w.detach().to(dtype), y)
    assert half.dtype == torch.float32
    assert torch.equal(half, loss(x.to(dtype).float(), w.detach().to(dtype).float(), y))


@pytest.mark.parametrize("name", ["l-softmax, m = 1.5", "arcface"])
def test_compiled_as_one_graph_it_is_the_same_function_and_gradient(name):
    loss = LOSSES[name]
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    x, w, y = sample()
    torch.testing.assert_close(compiled(x, w, y), loss(x, w, y))
    torch.testing.assert_close(gradients(compiled, x, w, y), gradients(loss, x, w, y))


@every_loss
def test_no_loss_reads_a_number_it_would_have_to_wait_for(loss):
    with torch.device("meta"):
        x, w = torch.zeros(4, 5, requires_grad=True), torch.zeros(3, 5, requires_grad=True)
        losses = loss(x, w, torch.zeros(4, dtype=torch.long))
        losses.sum().backward()
    assert losses.shape == (4,)


@every_loss
@pytest.mark.parametrize(("n", "c"), [(1, 2), (0, 3), (1, 4)])
def test_one_example_and_none_are_batches_too(loss, n, c):
    x, w, y = sample(n, c)
    assert loss(x, w, y).shape == (n,)
    assert gradients(loss, x, w, y)[1].shape == (c, D)


def test_scales_and_lambdas_may_be_tensors_and_learn():
    x, w, y = sample()
    scale = doubles(9.0).squeeze(0).requires_grad_()
    for loss in (normface_loss, cosface_loss, arcface_loss):
        found = loss(x, w, y, scale)
        torch.testing.assert_close(found, loss(x, w, y, 9.0))
        (slope,) = torch.autograd.grad(found.sum(), scale)
        nudged = (loss(x, w, y, 9.0 + 1e-6) - loss(x, w, y, 9.0 - 1e-6)).sum() / 2e-6
        assert slope.item() == pytest.approx(nudged.item(), rel=1e-6)
    lam = torch.tensor(0.5)
    torch.testing.assert_close(l_softmax_loss(x, w, y, 4, lam), l_softmax_loss(x, w, y, 4, 0.5))
    margin = doubles(0.2).squeeze(0)
    torch.testing.assert_close(cosface_loss(x, w, y, 5.0, margin), cosface_loss(x, w, y, 5.0, 0.2))


def test_other_integer_labels_will_do():
    x, w, y = sample()
    for kind in (torch.int32, torch.uint8):
        assert torch.equal(arcface_loss(x, w, y.to(kind)), arcface_loss(x, w, y))


# The field's failures.


def test_clamped_probabilities_stop_at_87_3365():
    tiny = torch.finfo(torch.float32).tiny
    assert -math.log(tiny) == pytest.approx(87.3365, abs=5e-5)
    f = torch.tensor([[-200.0, 0.0]], requires_grad=True)
    stuck = -f.softmax(1)[0, 0].clamp_min(tiny).log()
    assert stuck.item() == pytest.approx(87.3365, abs=1e-4)
    assert torch.autograd.grad(stuck, f)[0].abs().max() == 0
    alive = soft_margin_loss(f, torch.tensor([0]), 0.0)
    assert alive.item() == 200
    assert torch.autograd.grad(alive.sum(), f)[0].tolist() == [[-1.0, 1.0]]


def test_the_arc_cosine_has_no_slope_at_the_angle_0_and_psi_has():
    c = torch.tensor([1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(torch.cos(4 * c.acos()), c)
    assert slope.isnan().all()
    assert torch.autograd.grad(psi(c, 4), c)[0].item() == 16


# What the record holds.


def desk(**wanted):
    return evidence.recall("angular").select(scale="desk", **wanted)


@pytest.mark.claim("S18", "S20")
@pytest.mark.parametrize("regime", ["mnist", "few"])
def test_on_record_a_larger_m_makes_fewer_mistakes(regime):
    runs = desk(regime=regime)
    means = [sum(runs.select(method=f"m-{m}").values("error")) / 3 for m in (1, 2, 3, 4)]
    assert means == sorted(means, reverse=True)
    for m in (3, 4):
        assert runs.paired(f"m-{m}", "m-1", "error").verdict == "improves"


@pytest.mark.claim("S20")
def test_on_record_features_come_closer_to_their_class_vectors():
    steps = [("m-2", "m-1"), ("m-3", "m-2"), ("m-4", "m-3")]
    found = {
        regime: [desk(regime=regime).paired(*step, "own_angle").verdict for step in steps]
        for regime in ("mnist", "few")
    }
    assert found["few"] == ["lower"] * 3
    assert found["mnist"] == ["lower", "no detectable effect", "no detectable effect"]


@pytest.mark.claim("S18")
def test_on_record_the_gap_to_the_training_error_shrinks_with_few_images_only():
    found = {}
    for regime in ("mnist", "few"):
        gaps = []
        for method in ("m-1", "m-4"):
            runs = desk(regime=regime, method=method)
            pairs = zip(runs.values("error"), runs.values("error", "train"), strict=True)
            gaps.append([test - train for test, train in pairs])
        _, low, high = evidence.interval([b - a for a, b in zip(*gaps, strict=True)])
        found[regime] = "smaller" if high < 0 else "undecided" if low < 0 else "larger"
    assert found == {"mnist": "undecided", "few": "smaller"}


@pytest.mark.claim("S17")
@pytest.mark.parametrize("hasty", ["m-4-cold", "m-4-slide"])
def test_on_record_haste_makes_waste(hasty):
    runs = desk(regime="few")
    assert runs.paired(hasty, "m-4", "error").verdict == "worsens"
    # Not over-fitted: the training images are wrong too.
    assert min(runs.select(method=hasty).values("error", "train")) > 50


# --- Refused -------------------------------------------------------------------------------

FEATURES, WEIGHT, TARGET = torch.zeros(2, 3), torch.ones(4, 3), torch.tensor([0, 1])
OF_FEATURES = (
    l_softmax_loss,
    l_softmax_margin,
    a_softmax_loss,
    a_softmax_margin,
    normface_loss,
    cosface_loss,
    arcface_loss,
    arcface_margin,
)


def refusal(error, function, *given, **told):
    with pytest.raises(error) as refused:
        function(*given, **told)
    return str(refused.value)


@pytest.mark.parametrize("function", OF_FEATURES, ids=lambda f: f.__name__)
def test_shapes_kinds_and_labels_that_do_not_fit_are_refused(function):
    told = refusal(ValueError, function, FEATURES, WEIGHT[:, :2], TARGET)
    assert "features (2, 3) and weight (4, 2)" in told
    assert "target (1,)" in refusal(ValueError, function, FEATURES, WEIGHT, TARGET[:1])
    assert "got torch.int64" in refusal(TypeError, function, FEATURES.long(), WEIGHT, TARGET)
    for label in (4, -1):
        told = refusal(ValueError, function, FEATURES, WEIGHT, torch.tensor([0, label]))
        assert told.startswith(f"expected labels from 0 to 3, as there are 4 classes; got {label}")


@pytest.mark.parametrize("function", OF_FEATURES[:4], ids=lambda f: f.__name__)
def test_multiples_below_one_and_negative_lambdas_are_refused(function):
    given = FEATURES, WEIGHT, TARGET
    for margin in (0.99, 0, -2, math.inf, math.nan):
        told = refusal(ValueError, function, *given, margin=margin)
        assert told == f"margin must be at least 1 and finite; got {margin}"
    told = refusal(TypeError, function, *given, margin="4")
    assert told == "margin must be a number; got str"
    told = refusal(TypeError, function, *given, margin=torch.tensor(4.0))
    assert told == "margin must be a number; got Tensor"
    told = refusal(ValueError, function, *given, annealing=-0.1)
    assert told == "annealing must be non-negative and finite; got -0.1"


def test_psi_refuses_what_the_losses_refuse():
    assert "at least 1" in refusal(ValueError, psi, torch.zeros(2), 0.5)
    assert "got NoneType" in refusal(TypeError, psi, torch.zeros(2), None)


def test_scales_and_moved_angles_out_of_range_are_refused():
    given = FEATURES, WEIGHT, TARGET
    for function in (normface_loss, cosface_loss, arcface_loss, arcface_margin):
        told = refusal(ValueError, function, *given, scale=-1.0)
        assert told == "scale must be non-negative and finite; got -1.0"
    assert "scale" in refusal(ValueError, cosine_logits, FEATURES, WEIGHT, -1.0)
    assert "margin must be non-negative" in refusal(ValueError, cosface_loss, *given, margin=-0.1)
    for function in (arcface_loss, arcface_margin):
        told = refusal(ValueError, function, *given, margin=3.2)
        assert told == "margin must be between 0 and 3.14159; got 3.2"
        told = refusal(TypeError, function, *given, margin=torch.tensor(0.5))
        assert told == "margin must be a number, in radians; got Tensor"


def test_logits_of_features_and_a_weight_that_do_not_fit_are_refused():
    for function in (cosine_logits, a_softmax_logits):
        told = refusal(ValueError, function, FEATURES, WEIGHT[:, :2])
        assert "features (2, 3) and weight (4, 2)" in told
