"""Chapter 1: the softmax loss is a margin loss whose margin the rivals set."""

import math
from functools import cache, partial

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import Rational, diff, lambdify, log
from torch.nn.functional import cross_entropy

from marginlib import (
    LinearHead,
    hinge_loss,
    implicit_bias,
    margin,
    softmax_loss,
    split,
)
from marginlib.lab import evidence
from marginlib.lab.studies.softmax import shape_bias, spread
from marginlib.symbolic import logits as symbolic
from marginlib.symbolic import softmax as paper
from marginlib.symbolic.proof import Equation, prove

LOG = math.log
# Every place of the target and of the rival named strongest, at two, three and four classes.
PLACES = [(c, y, s) for c in (2, 3, 4) for y in range(c) for s in range(c) if s != y]
C, Y, S = 4, 1, 3
F = symbolic.logits(C)

# Float64 keeps about 16 digits; sums of four terms of size 40 keep 14, and we ask for 9.
close = partial(pytest.approx, rel=1e-9, abs=1e-9)
row_of_logits = st.lists(st.floats(-20, 20), min_size=C, max_size=C)
BOUNDARY = [
    [0.0, 0.0, 0.0, 0.0],  # all tie
    [1.0, 1.0, 1.0, -40.0],  # two rivals tie with the target, one is out of sight
    [0.0, 40.0, 0.0, 0.0],  # as good as certain
    [40.0, 0.0, 0.0, 0.0],  # as good as lost
    [-3.0, 2.0, 5.0, 5.0],  # the strongest rivals tie
]


@cache
def worked_out(expression, f):
    return lambdify([list(f)], expression, "mpmath")


def exact(expression, row, f=F):
    """The printed formula at these logits, worked out to 40 digits, then rounded."""
    with mpmath.workdps(40):
        return float(worked_out(expression, tuple(f))([mpmath.mpf(x) for x in row]))


def batch(row, y=Y):
    return torch.tensor([row], dtype=torch.float64), torch.tensor([y])


def gradient_of(loss, row):
    logits, target = batch(row)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, target).sum(), logits)
    return gradient[0].tolist()


def strongest_of(row):
    return max((c for c in range(C) if c != Y), key=lambda c: row[c])


def crowd(q):
    """Logits whose rivals have the softmax q; the target, class 0, is at 0."""
    return batch([0.0, *(LOG(q_c) for q_c in q)], y=0)


# --- Claimed and proved ----------------------------------------------------------------------


@pytest.mark.claim("L3")
@pytest.mark.parametrize(("c", "y", "s"), PLACES)
def test_the_softmax_loss_is_softplus_of_a_biased_margin(c, y, s):
    f = symbolic.logits(c)
    chain = [paper.equation_2(f, y), *paper.equation_3(f, y), paper.equation_6(f, y, s)]
    assert [e.prove() for e in chain] == ["∎"] * 4
    assert [e.left for e in chain] == [
        paper.loss(f, y),
        paper.loss(f, y),
        chain[1].right,
        paper.loss(f, y),
    ]


@pytest.mark.claim("L4")
@pytest.mark.parametrize(("c", "y", "s"), PLACES)
def test_both_gaps_of_eq_4_are_sums_of_terms_of_one_sign(c, y, s):
    f = symbolic.logits(c)
    below, above = paper.equation_4(f, y, s)
    assert below.prove() == above.prove() == "∎"
    # One exponential for each further rival: none with two classes, so "<" becomes "=".
    assert below.right.subs(dict.fromkeys(f, 0)) == c - 2
    assert above.right.subs(dict.fromkeys(f, 0)) == 0


@pytest.mark.claim("L5")
@pytest.mark.parametrize(("c", "y", "s"), PLACES)
def test_both_forms_of_eq_5_hold_whichever_rival_is_named(c, y, s):
    equations = paper.equation_5(symbolic.logits(c), y, s)
    assert [e.prove() for e in equations] == ["∎", "∎"]


@pytest.mark.claim("L6")
@pytest.mark.parametrize(("c", "y", "s"), PLACES)
def test_the_bias_is_the_min_entropy_of_the_rivals(c, y, s):
    f = symbolic.logits(c)
    others = symbolic.rivals(f, y)
    q = symbolic.softmax(others)
    assert paper.equation_7(f, y, s).prove() == "∎"
    assert prove(paper.equation_7(f, y, s).right, paper.bias(f, y, s)) == "∎"
    assert prove(paper.bias(f, y, s), paper.min_entropy(q, others.index(f[s]))) == "∎"


@pytest.mark.claim("E1")
@pytest.mark.parametrize("c", [2, 4])
def test_one_class_against_the_rest_is_the_same_softmax(c):
    z = symbolic.logits(c)
    assert [paper.posterior(z, k).prove() for k in range(c)] == ["∎"] * c


def test_equations_carry_the_numbers_of_their_sources():
    def numbers(found):
        found = found if isinstance(found, list) else [found]
        return {(e.source, e.number) for e in found if isinstance(e, Equation)}

    assert numbers(paper.equation_2(F, Y)) == {("002", "2")}
    assert numbers(paper.equation_3(F, Y)) == {("002", "3")}
    assert numbers(paper.equation_4(F, Y, S)) == {("002", "4")}
    assert numbers(paper.equation_5(F, Y, S)) == {("002", "5")}
    assert numbers(paper.equation_6(F, Y, S)) == {("002", "6")}
    assert numbers(paper.equation_7(F, Y, S)) == {("002", "7")}
    assert numbers(paper.posterior(F, Y)) == {("001", "section 2.1")}


@pytest.mark.parametrize(("c", "y", "s"), PLACES)
def test_three_places_for_the_rivals_need_three_biases(c, y, s):
    f = symbolic.logits(c)
    assert [prove(paper.loss(f, y), form) for form in paper.three_forms(f, y, s)] == ["∎"] * 3


@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 2), (4, 1)])
def test_the_gradient_is_p_minus_the_label(c, y):
    f = symbolic.logits(c)
    for f_c, slope in zip(f, paper.gradient(f, y), strict=True):
        assert prove(diff(paper.loss(f, y), f_c), slope) == "∎"


@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 2), (4, 1)])
def test_the_rivals_share_the_blame_by_q(c, y):
    f = symbolic.logits(c)
    on_rivals = symbolic.rivals(paper.gradient(f, y), y)
    for slope, share in zip(on_rivals, paper.gradient_by_rivals(f, y), strict=True):
        assert prove(slope, share) == "∎"


@pytest.mark.parametrize(("c", "y"), [(2, 0), (3, 2), (4, 1)])
def test_the_length_of_the_gradient_is_a_collision_entropy(c, y):
    f = symbolic.logits(c)
    squares = sum(slope**2 for slope in paper.gradient(f, y))
    assert prove(squares, paper.squared_gradient(f, y)) == "∎"


@pytest.mark.claim("L25")
@pytest.mark.parametrize(("c", "y", "s"), [(2, 1, 0), (3, 0, 2), (4, 1, 3)])
def test_free_logits_raise_bias_and_margin_at_these_rates(c, y, s):
    f = symbolic.logits(c)
    down = paper.descent(f, y)
    assert prove(paper.rate(paper.bias(f, y, s), f, down), paper.bias_rate(f, y, s)) == "∎"
    assert prove(paper.rate(f[y] - f[s], f, down), paper.margin_rate(f, y, s)) == "∎"


@pytest.mark.parametrize(("c", "y", "s"), [(3, 0, 2), (4, 1, 3)])
def test_growing_logits_change_the_bias_at_this_rate(c, y, s):
    f = symbolic.logits(c)
    grown = paper.rate(paper.bias(f, y, s), f, f)
    assert prove(grown, paper.bias_rate_in_growth(f, y, s)) == "∎"


# --- Computed and compared -------------------------------------------------------------------


@pytest.mark.claim("L3")
@given(row_of_logits)
def test_the_loss_is_eq_2_as_printed(row):
    assert softmax_loss(*batch(row)).item() == close(exact(paper.loss(F, Y), row))


@pytest.mark.parametrize("row", BOUNDARY)
def test_the_loss_is_eq_2_at_the_boundary_too(row):
    printed = exact(paper.loss(F, Y), row)
    # No absolute tolerance: a loss of 1e-17 is right to nine digits too.
    assert softmax_loss(*batch(row)).item() == pytest.approx(printed, rel=1e-9, abs=0)


@pytest.mark.parametrize("y", [0, 1])
def test_the_loss_of_two_classes_is_eq_2(y):
    f = symbolic.logits(2)
    printed = exact(paper.loss(f, y), [1.5, -0.25], f)
    assert softmax_loss(*batch([1.5, -0.25], y)).item() == close(printed)


@pytest.mark.claim("L6")
@given(row_of_logits)
def test_the_bias_is_eq_7_as_printed(row):
    printed = exact(paper.equation_7(F, Y, strongest_of(row)).right, row)
    assert implicit_bias(*batch(row)).item() == close(printed)


@pytest.mark.parametrize("row", BOUNDARY)
def test_the_bias_is_eq_7_at_the_boundary_too(row):
    printed = exact(paper.bias(F, Y, strongest_of(row)), row)
    assert implicit_bias(*batch(row)).item() == close(printed)


@pytest.mark.parametrize("row", BOUNDARY)
def test_autograd_is_sympys_derivative_at_the_boundary(row):
    printed = [exact(diff(paper.loss(F, Y), f_c), row) for f_c in F]
    assert gradient_of(softmax_loss, row) == close(printed)


@given(row_of_logits)
def test_autograd_is_p_minus_the_label(row):
    printed = [exact(slope, row) for slope in paper.gradient(F, Y)]
    assert gradient_of(softmax_loss, row) == close(printed)


@given(row_of_logits)
def test_autograd_of_the_bias_is_sympys_derivative(row):
    top = sorted(symbolic.rivals(row, Y))[-2:]
    if top[1] - top[0] < 1e-6:
        return  # At a tie the bias has a kink, and autograd shares it among the tied.
    printed = [exact(diff(paper.bias(F, Y, strongest_of(row)), f_c), row) for f_c in F]
    assert gradient_of(implicit_bias, row) == close(printed)


@given(row_of_logits)
def test_the_margin_is_the_gap_to_the_strongest_rival(row):
    assert margin(*batch(row)).item() == row[Y] - max(symbolic.rivals(row, Y))


def test_torch_has_the_same_loss():
    logits = 5 * torch.randn(64, 10, generator=torch.manual_seed(0), dtype=torch.float64)
    target = torch.arange(64) % 10
    torch.testing.assert_close(
        softmax_loss(logits, target), cross_entropy(logits, target, reduction="none")
    )


@pytest.mark.claim("E1")
def test_the_softmax_loss_of_source_001_is_a_linear_head_without_bias():
    features = torch.randn(6, 3, generator=torch.manual_seed(1), dtype=torch.float64)
    head = LinearHead(3, C, bias=False, reduction="none").double()
    target = torch.arange(6) % C
    z = features @ head.weight.mT
    for i, k in enumerate(target.tolist()):
        s_k = exact(paper.posterior(F, k).left, z[i].tolist())
        assert head(features, target)[i].item() == close(-LOG(s_k))


# --- Told and checked ------------------------------------------------------------------------


@pytest.mark.claim("L7")
@given(row_of_logits)
def test_figure_1b_says_what_both_losses_are(row):
    logits, target = batch(row)
    hinge = (1 - margin(logits, target)).clamp_min(0)
    assert hinge_loss(logits, target).item() == close(hinge.item())
    soft = torch.log1p((implicit_bias(logits, target) - margin(logits, target)).exp())
    assert softmax_loss(logits, target).item() == close(soft.item())


@pytest.mark.claim("L4")
@given(row_of_logits)
def test_the_bias_lies_between_nothing_and_log_of_the_rivals(row):
    bias = implicit_bias(*batch(row)).item()
    # Three numbers of size 1 are added: a few units of the last place may be missing.
    assert 0 < bias <= LOG(C - 1) + 1e-15


@pytest.mark.claim("L4")
def test_with_two_classes_there_is_no_bias():
    logits = torch.tensor([[2.0, -1.0], [0.0, 7.0]])
    assert implicit_bias(logits, torch.tensor([0, 0])).tolist() == [0.0, 0.0]
    f = symbolic.logits(2)
    assert paper.bias(f, y=0, strongest=1) == 0


@pytest.mark.claim("L4")
def test_only_equal_rivals_reach_the_upper_bound():
    equal, nearly = batch([9.0, -2.0, -2.0, -2.0], y=0), batch([9.0, -2.0, -2.0, -2.1], y=0)
    assert implicit_bias(*equal).item() == pytest.approx(LOG(3), abs=1e-15)
    assert implicit_bias(*nearly).item() < LOG(3) - 0.03


@given(row_of_logits)
def test_the_loss_lies_in_a_band_over_its_margin(row):
    logits, target = batch(row)
    gap = margin(logits, target).item()
    loss, top = softmax_loss(logits, target).item(), LOG(C - 1) - gap
    low, high = (math.log1p(math.exp(x)) for x in (-gap, top))
    assert low <= loss * (1 + 1e-12)
    assert loss <= high * (1 + 1e-12)


@given(row_of_logits)
def test_the_rivals_mean_gives_a_lower_bound_which_equal_rivals_reach(row):
    below = [sum(symbolic.rivals(row, Y)) / (C - 1)] * (C - 1)
    bound = softmax_loss(*batch([*below[:Y], row[Y], *below[Y:]])).item()
    assert bound == close(math.log1p((C - 1) * math.exp(below[0] - row[Y])))
    assert bound <= softmax_loss(*batch(row)).item() * (1 + 1e-12)


@pytest.mark.claim("L8")
def test_a_larger_bias_does_not_mean_rivals_closer_to_uniform():
    # Exact numbers: q asks for less margin than q', and yet is closer to uniform than q' by
    # Shannon's entropy and by the disagreement of eq. (8).
    near = [Rational(1, 2), Rational(1, 4), Rational(1, 4)]
    far = [Rational(12, 25), Rational(12, 25), Rational(1, 25)]
    bias = [paper.min_entropy(q, 0) for q in (near, far)]
    assert [prove(b, log(x)) for b, x in zip(bias, (2, Rational(25, 12)), strict=True)] == ["∎"] * 2
    assert bias[0] < bias[1]
    u = symbolic.uniform(3)
    apart = [(symbolic.kl(q, u) + symbolic.kl(u, q)) / 2 for q in (near, far)]
    assert prove(apart[0], log(2) / 12) == "∎"
    assert prove(apart[1], Rational(11, 75) * log(12)) == "∎"
    assert apart[1] > 6 * apart[0]
    assert symbolic.entropy(near) > symbolic.entropy(far)
    ours = [implicit_bias(*crowd([float(q_c) for q_c in q])).item() for q in (near, far)]
    assert ours == close([LOG(2), LOG(25 / 12)])


@pytest.mark.claim("L8")
def test_the_limits_of_the_bias_are_as_told():
    alone = implicit_bias(*batch([0.0, 50.0, 0.0, 0.0], y=0)).item()
    together = implicit_bias(*batch([0.0, 50.0, 50.0, 50.0], y=0)).item()
    # Two rivals 50 below add 2 e^-50, far under the last digit of 1.
    assert (alone, together) == close((0.0, LOG(3)))


@pytest.mark.parametrize(("fixed", "cheaper"), [("maximum", "alone"), ("mean", "equal")])
def test_what_is_held_fixed_decides_which_rivals_are_cheap(fixed, cheaper):
    alone = {"maximum": [2.0, -7.0, -7.0], "mean": [2.0, -1.0, -1.0]}[fixed]
    equal = {"maximum": [2.0, 2.0, 2.0], "mean": [0.0, 0.0, 0.0]}[fixed]
    losses = {
        "alone": softmax_loss(*batch([2.0, *alone], y=0)).item(),
        "equal": softmax_loss(*batch([2.0, *equal], y=0)).item(),
    }
    assert min(losses, key=losses.get) == cheaper


@given(row_of_logits)
def test_the_gradient_has_length_one_norm_twice_the_error(row):
    slopes = gradient_of(softmax_loss, row)
    loss = softmax_loss(*batch(row)).item()
    assert sum(slopes) == pytest.approx(0, abs=1e-15)
    assert sum(map(abs, slopes)) == pytest.approx(-2 * math.expm1(-loss), rel=1e-9, abs=1e-15)


@given(row_of_logits)
def test_the_gradients_length_is_the_printed_one(row):
    length = math.hypot(*gradient_of(softmax_loss, row))
    assert length**2 == close(exact(paper.squared_gradient(F, Y), row))


@pytest.mark.claim("L25")
@given(row_of_logits)
def test_the_loss_itself_never_lowers_the_bias(row):
    s = strongest_of(row)
    assert exact(paper.bias_rate(F, Y, s), row) >= -1e-15
    assert exact(paper.margin_rate(F, Y, s), row) > 0
    assert exact(paper.bias_rate_in_growth(F, Y, s), row) <= 1e-14


@pytest.mark.claim("L25")
def test_a_table_of_free_logits_ends_with_a_larger_bias():
    start = torch.randn(200, 10, generator=torch.manual_seed(0), dtype=torch.float64)
    target = torch.arange(200) % 10
    free = start.clone().requires_grad_()
    for _ in range(100):
        (slope,) = torch.autograd.grad(softmax_loss(free, target).sum(), free)
        free = (free - 0.1 * slope).detach().requires_grad_()
    assert (implicit_bias(free, target) > implicit_bias(start, target)).all()
    assert (margin(free, target) > margin(start, target)).all()


def test_equal_rivals_stay_equal_and_the_bias_stays_at_its_maximum():
    logits, target = batch([3.0, 1.0, 1.0, 1.0], y=0)
    (slope,) = torch.autograd.grad(softmax_loss(logits.requires_grad_(), target).sum(), logits)
    assert implicit_bias(logits - slope, target).item() == pytest.approx(LOG(3), abs=1e-15)


@given(row_of_logits, st.floats(0.1, 100))
def test_cooled_logits_leave_the_hinge_without_a_bias(row, t):
    logits, target = batch(row)
    cooled = softmax_loss(t * logits, target).item() / t
    gap = cooled - max(0.0, -margin(logits, target).item())
    # The difference of numbers up to 40 keeps 14 digits.
    assert -1e-12 <= gap <= LOG(C) / t + 1e-12


def test_loss_between_log_2_and_log_c_does_not_tell_right_from_wrong():
    right, wrong = batch([2.0, 1.0, 1.0, 1.0], y=0), batch([1.0, 1.2, -9.0, -9.0], y=0)
    assert margin(*right).item() > 0 > margin(*wrong).item()
    assert LOG(2) < softmax_loss(*right).item() < LOG(4)
    assert LOG(2) < softmax_loss(*wrong).item() < LOG(4)


def test_a_certain_example_still_has_a_loss():
    # Past a margin of 17 the probability rounds to 1 in float32, and -log of it to 0.
    logits, target = torch.tensor([[30.0, 0.0]]), torch.tensor([0])
    assert cross_entropy(logits, target).item() == 0.0
    assert softmax_loss(logits, target).item() == pytest.approx(math.exp(-30), rel=1e-6)


def test_torchs_softplus_has_the_wrong_slope_past_20_and_ours_has_not():
    x = torch.tensor([21.0], dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(torch.nn.functional.softplus(x).sum(), x)
    assert theirs.item() == 1.0
    # With two classes at 21 and 0, the slope of the loss on the rival is sigmoid(21).
    ours = gradient_of_two(21.0)
    assert 1 - ours == pytest.approx(math.exp(-21), rel=1e-6)


def gradient_of_two(gap):
    logits = torch.tensor([[0.0, gap]], dtype=torch.float64, requires_grad=True)
    softmax_loss(logits, torch.tensor([0])).sum().backward()
    return logits.grad[0, 1].item()


@pytest.mark.parametrize("shift", [1e3, 1e5])
def test_a_shift_common_to_all_classes_costs_no_digits(shift):
    # Quarters are exact in float32 at 1e5, so the shifted row is the same row.
    row = torch.tensor([[2.0, 1.25, -0.5, 0.75]])
    target = torch.tensor([0])
    for measure in (softmax_loss, margin, implicit_bias):
        # Equal inputs up to the shift: equal to a rounding of float32.
        torch.testing.assert_close(
            measure(row + shift, target), measure(row, target), rtol=2e-7, atol=0
        )


@pytest.mark.claim("L25")
@pytest.mark.parametrize("regime", ["clean", "digits"])
def test_the_record_bears_out_what_chapter_1_says_of_it(regime):
    runs = evidence.recall("softmax").select(scale="desk", regime=regime).runs
    assert len(runs) == 5
    for run in runs:
        train = run.measures["train"]
        solved = next(e for e, error in enumerate(train["error"]) if error < 1)
        assert train["loss"][-1] < train["loss"][solved]
        assert train["margin"][-1] > train["margin"][solved]
    changes = [run.measures["validation"]["bias"] for run in runs]
    _, _, high = evidence.interval([bias[-1] - bias[0] for bias in changes])
    assert high < 0


def test_the_bias_at_unit_spread_forgets_the_size_of_the_logits():
    logits, target = batch([2.0, 1.0, -1.0, 0.5])
    assert spread(3 * logits, target).item() == close(3 * spread(logits, target).item())
    assert shape_bias(3 * logits, target).item() == close(shape_bias(logits, target).item())
    equal = batch([2.0, 1.0, 1.0, 1.0], y=0)
    assert shape_bias(*equal).item() == close(LOG(3))


def test_split_steps_over_the_target():
    f_y, rivals = split(torch.tensor([[5.0, 6.0, 7.0]]), torch.tensor([2]))
    assert (f_y.tolist(), rivals.tolist()) == ([7.0], [[5.0, 6.0]])


# --- Refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [softmax_loss, margin, implicit_bias])
@pytest.mark.parametrize(
    ("logits", "target", "error", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), ValueError, r"\(2, 3\).*\(3,\)"),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), ValueError, "needs a rival"),
        (torch.zeros(2, 3), torch.zeros(2), TypeError, "class indices"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "labels from 0 to 2"),
        (torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 1]), TypeError, "floating point"),
    ],
)
def test_bad_input_is_refused_in_a_full_sentence(measure, logits, target, error, says):
    with pytest.raises(error, match=says):
        measure(logits, target)


def test_logits_are_real_numbers_and_a_mean_needs_a_weight_for_each():
    assert all(f_c.is_real for f_c in symbolic.logits(3))
    for pairwise in (symbolic.expectation, symbolic.kl):
        with pytest.raises(ValueError, match="argument 2 is longer"):
            pairwise(symbolic.uniform(2), symbolic.logits(3))
