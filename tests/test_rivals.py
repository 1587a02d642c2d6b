"""The target and its rivals: how they are parted, and what is refused at the door."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marginlib.large_margin import disagreement, kl_to_uniform
from marginlib.rivals import (
    check_features,
    check_number,
    check_rivals,
    crowd,
    in_place,
    log_odds,
    odds_against,
    softplus,
    split,
    widen,
)

# --- claimed and proved ------------------------------------------------------------------


@given(st.integers(2, 12), st.integers(0, 9), st.integers(0, 2**31))
def test_target_and_rivals_are_all_the_logits_each_once_and_in_order(c, n, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, c, generator=draw)
    target = torch.randint(c, (n,), generator=draw)
    f_y, rivals = split(logits, target)
    assert rivals.shape == (n, c - 1)
    for row, y, mine, others in zip(logits.tolist(), target.tolist(), f_y, rivals, strict=True):
        assert mine.item() == row.pop(y)
        assert others.tolist() == row


def test_two_classes_leave_one_rival():
    f_y, rivals = split(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1]))
    assert f_y.tolist() == [1, 4]
    assert rivals.tolist() == [[2], [3]]


def test_the_gradient_goes_back_to_where_each_logit_came_from():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([3, 0, 2])
    f_y, rivals = split(logits, target)
    (10 * f_y.sum() + rivals.sum()).backward()
    due = torch.ones(3, 4).scatter(1, target[:, None], 10).double()
    assert torch.equal(logits.grad, due)


# --- computed and compared ---------------------------------------------------------------


@pytest.mark.parametrize("x", [-3e4, -800.0, -37.0, -1e-3, 0.0, 1e-3, 19.5, 20.5, 37.0, 800.0, 3e4])
def test_softplus_is_the_logarithm_of_one_plus_e_to_x_with_its_true_gradient(x):
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = softplus(at)
    value.backward()
    # Two forms that math can work out without overflow, one for each sign.
    value_due = x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))
    slope_due = 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
    # A few roundings of float64, 2e-16 each.
    assert value.item() == pytest.approx(value_due, rel=5e-15, abs=0)
    assert at.grad.item() == pytest.approx(slope_due, rel=5e-15, abs=0)


def test_softplus_of_the_log_odds_is_torchs_cross_entropy():
    logits = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(50) % 7
    # Two formulas in float64: a few roundings of 2e-16 apart.
    torch.testing.assert_close(
        softplus(log_odds(*split(logits, target))),
        torch.nn.functional.cross_entropy(logits, target, reduction="none"),
        rtol=1e-14,
        atol=1e-15,
    )


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_widened_and_nothing_else(dtype, wide):
    logits = torch.tensor([[1.5, 2.5, 3.5]], dtype=dtype)
    f_y, rivals = split(logits, torch.tensor([1]))
    assert f_y.dtype == rivals.dtype == wide
    assert (f_y.tolist(), rivals.tolist()) == ([2.5], [[1.5, 3.5]])
    assert (widen(logits) is logits) == (dtype == wide)


def lesson(logits, target):
    """The form that chapter 1 derives, which copies the rivals out."""
    return log_odds(*split(logits, target))


ROWS = torch.tensor(
    [
        [0.3, -1.2, 2.0, 0.7],
        [1.0, 1.0, 1.0, 1.0],
        [5.0, 5.0, -5.0, -5.0],
        [-3.0, 2.0, 5.0, 5.0],
        [40.0, 0.0, 0.0, -40.0],
        [700.0, -700.0, 0.0, 1.0],
        [3e4, 29999.75, -3e4, 1.0],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("y", range(4))
def test_the_odds_are_the_lessons_in_value_gradient_and_curvature(y):
    z, target = ROWS.clone().requires_grad_(), torch.full((len(ROWS),), y)
    # Two orders of the same sums, in float64.
    equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-13)
    weights = torch.arange(1.0, 8.0, dtype=torch.float64)
    found, due = (f(z, target) for f in (odds_against, lesson))
    equal(found, due)
    slopes = [
        torch.autograd.grad((weights * odds.square()).sum(), z, create_graph=True)[0]
        for odds in (found, due)
    ]
    equal(*slopes)
    probe = torch.sin(torch.arange(28.0, dtype=torch.float64)).reshape(7, 4)
    equal(*(torch.autograd.grad((slope * probe).sum(), z)[0] for slope in slopes))


def test_in_single_precision_the_odds_lose_no_digit_to_the_lessons():
    draw = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(200, 30, generator=draw) + 1000 * torch.randn(200, 1, generator=draw)
    target = torch.randint(30, (200,), generator=draw)
    exact = lesson(z.double(), target)
    error = (odds_against(z.requires_grad_(), target).double() - exact).abs()
    # Numbers up to about 25 are subtracted: their last place is 2e-6.
    assert error.max() < 2e-6


# torch's own forward derivatives still use its deprecated compiler.
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


@forward_mode
@pytest.mark.parametrize("c", [2, 3, 6])
def test_derivatives_of_the_odds_in_both_directions_agree_with_finite_differences(c):
    draw = torch.Generator().manual_seed(c)
    z = torch.randn(3, c, generator=draw, dtype=torch.float64, requires_grad=True)
    target = torch.randint(c, (3,), generator=draw)

    def odds(z):
        return odds_against(z, target)

    assert torch.autograd.gradcheck(odds, z, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(odds, z, check_fwd_over_rev=True, check_batched_grad=True)


def test_the_gradient_of_the_odds_is_q_on_the_rivals_and_minus_one_on_the_target():
    z = torch.tensor([[0.0, math.log(3.0), 7.0]], requires_grad=True)
    odds_against(z, torch.tensor([2])).backward()
    assert z.grad[0].tolist() == pytest.approx([0.25, 0.75, -1.0], rel=1e-6)


def test_one_rival_has_no_bias_and_no_curvature():
    z = torch.tensor([[0.1, 0.7]], dtype=torch.float64, requires_grad=True)
    odds = odds_against(z, torch.tensor([0]))
    assert odds.item() == 0.7 - 0.1
    (slope,) = torch.autograd.grad(odds.sum(), z, create_graph=True)
    assert slope.tolist() == [[-1.0, 1.0]]
    (curvature,) = torch.autograd.grad(slope[0, 1], z)
    assert curvature.tolist() == [[0.0, 0.0]]


def transformed(transform, form):
    z, target = ROWS[:4].clone(), torch.tensor([0, 3, 1, 1])
    return transform(lambda z: softplus(form(z, target)).sum())(z)


@forward_mode
@pytest.mark.parametrize(
    "transform",
    [
        torch.func.grad,
        torch.func.hessian,
        lambda f: torch.func.jacfwd(torch.func.jacfwd(f)),
        lambda f: torch.func.jacrev(torch.func.jacfwd(f)),
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
    ],
    ids=["grad", "hessian", "forward twice", "reverse over forward", "reverse twice"],
)
def test_torch_func_differentiates_the_odds_in_any_order(transform):
    torch.testing.assert_close(transformed(transform, odds_against), transformed(transform, lesson))


def test_the_gradient_of_the_odds_is_mapped_over_examples():
    target = torch.tensor([0, 3, 1, 1, 2, 0, 3])
    one = torch.func.grad(lambda z, y: odds_against(z[None], y[None])[0])
    mapped = torch.func.vmap(one)(ROWS, target)
    z = ROWS.clone().requires_grad_()
    odds_against(z, target).sum().backward()
    torch.testing.assert_close(mapped, z.grad)


def test_the_odds_keep_one_copy_of_the_logits_and_leave_the_logits_alone():
    kept = []
    z, target = ROWS.clone().requires_grad_(), torch.zeros(len(ROWS), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        odds = odds_against(z, target)
    assert [x.shape for x in kept] == [ROWS.shape]
    odds.sum().backward()
    assert torch.equal(z, ROWS)


def of_crowd(logits, target, weighted=True):
    """Differences of what one reading tells, one of each kind."""
    seen = crowd(logits, target, weighted)
    loud = 3 * (seen.weighted - seen.mean) + 2 * (seen.weighted - seen.lse) if weighted else 0
    return seen.lse - seen.f_y + 0.5 * (seen.f_y - seen.mean) + loud


def lesson_of_crowd(logits, target, weighted=True):
    """The same from the copied rivals, by chapter 4's functions."""
    f_y, rivals = split(logits, target)
    loud = 6 * disagreement(rivals) + 2 * (kl_to_uniform(rivals) - math.log(rivals.shape[1]))
    return log_odds(f_y, rivals) + 0.5 * (f_y - rivals.mean(dim=1)) + (loud if weighted else 0)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("y", range(4))
def test_one_reading_tells_the_lessons_in_value_gradient_and_curvature(y, weighted):
    z, target = ROWS.clone().requires_grad_(), torch.full((len(ROWS),), y)
    # Two orders of the same sums, in float64; the means are of numbers up to 6e4.
    equal = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-11)
    weights = torch.arange(1.0, 8.0, dtype=torch.float64)
    found, due = (f(z, target, weighted) for f in (of_crowd, lesson_of_crowd))
    equal(found, due)
    slopes = [
        torch.autograd.grad((weights * told.square()).sum(), z, create_graph=True)[0]
        for told in (found, due)
    ]
    # The values that multiply the slopes are up to 4e5.
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-9)
    probe = torch.sin(torch.arange(28.0, dtype=torch.float64)).reshape(7, 4)
    curvatures = [torch.autograd.grad((slope * probe).sum(), z)[0] for slope in slopes]
    torch.testing.assert_close(*curvatures, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("weighted", [True, False])
def test_one_reading_loses_no_digit_to_the_lessons_in_single_precision(weighted):
    draw = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(200, 30, generator=draw) + 1000 * torch.randn(200, 1, generator=draw)
    target = torch.randint(30, (200,), generator=draw)
    errors = [
        (told(z.clone().requires_grad_(), target, weighted).double() - due).abs().amax()
        for due in [lesson_of_crowd(z.double(), target, weighted)]
        for told in (of_crowd, lesson_of_crowd)
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_rivals_that_are_equal_have_means_equal_to_the_last_bit():
    seen = crowd(torch.tensor([[0.3, 7.7, 7.7, 7.7]], requires_grad=True), torch.tensor([0]))
    assert seen.weighted == seen.mean == 0
    assert seen.lse.item() == pytest.approx(math.log(3), rel=1e-7)
    assert seen.count == 3


@forward_mode
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("c", [2, 3, 6])
def test_derivatives_of_the_crowd_in_both_directions_agree_with_finite_differences(c, weighted):
    draw = torch.Generator().manual_seed(c)
    z = torch.randn(3, c, generator=draw, dtype=torch.float64, requires_grad=True)
    told = partial(of_crowd, target=torch.randint(c, (3,), generator=draw), weighted=weighted)
    assert torch.autograd.gradcheck(told, z, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(told, z, check_fwd_over_rev=True)


@pytest.mark.parametrize("reading", [odds_against, of_crowd])
def test_a_compiled_reading_is_the_same(reading):
    torch.compiler.reset()
    z, target = ROWS.clone().requires_grad_(), torch.tensor([0, 3, 1, 1, 2, 0, 3])
    compiled = torch.compile(reading, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, target), reading(z, target))


def test_one_reading_keeps_the_logits_and_one_copy_and_leaves_the_logits_alone():
    kept = []
    z, target = ROWS.clone().requires_grad_(), torch.zeros(len(ROWS), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        seen = crowd(z, target)
    tables = [x for x in kept if x.shape == ROWS.shape]
    assert [x.data_ptr() == z.data_ptr() for x in tables] == [True, False]
    (seen.lse - seen.mean).sum().backward()
    assert torch.equal(z, ROWS)


def test_rivals_in_their_place_are_the_lessons_with_nothing_where_the_target_stood():
    z, target = ROWS.clone().requires_grad_(), torch.tensor([0, 3, 1, 1, 2, 0, 3])
    f_y, rivals = in_place(z, target)
    told, apart = split(z, target)
    assert torch.equal(f_y, told)
    assert torch.equal(rivals.gather(1, target[:, None]), torch.full((7, 1), -math.inf).double())
    assert torch.equal(rivals[rivals > -math.inf], apart.flatten())
    (slope,) = torch.autograd.grad(rivals.amax(1).sum() + 2 * f_y.sum(), z)
    (due,) = torch.autograd.grad(apart.amax(1).sum() + 2 * told.sum(), z)
    assert torch.equal(slope, due)


# --- told and checked --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_may_be_any_integers(dtype):
    logits = torch.arange(600.0).reshape(3, 200)
    target = torch.tensor([0, 100, 127])
    for found, due in zip(split(logits, target.to(dtype)), split(logits, target), strict=True):
        assert torch.equal(found, due)


def test_labels_above_127_fit_in_a_byte():
    f_y, _ = split(torch.arange(256.0)[None], torch.tensor([200], dtype=torch.uint8))
    assert f_y.item() == 200


def test_it_maps_over_batches():
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 1, 2], [3, 3, 3], [0, 0, 0], [1, 2, 3], [2, 1, 0]])
    f_y, rivals = torch.func.vmap(split)(logits, target)
    for i in range(5):
        one = split(logits[i], target[i])
        assert torch.equal(f_y[i], one[0])
        assert torch.equal(rivals[i], one[1])


def test_it_maps_over_examples():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 0])
    one = torch.func.vmap(lambda z, y: split(z[None], y[None]))
    f_y, rivals = one(logits, target)
    assert torch.equal(f_y[:, 0], split(logits, target)[0])
    assert torch.equal(rivals[:, 0], split(logits, target)[1])


def test_no_examples_have_no_rivals():
    f_y, rivals = split(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert f_y.shape == (0,)
    assert rivals.shape == (0, 4)


def test_logits_that_are_not_contiguous_are_parted_as_well():
    logits, target = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 3, 1])
    assert not logits.T.is_contiguous()
    for found, due in zip(split(logits.T, target), split(logits.T.clone(), target), strict=True):
        assert torch.equal(found, due)


@pytest.mark.parametrize("value", [0, 0.0, 2, 0.5, torch.tensor(-1.0)])
def test_a_parameter_may_be_zero_a_count_or_a_tensor_that_nobody_reads(value):
    check_number("strength", value)


# --- refused -----------------------------------------------------------------------------


def refusal(kind, function, *arguments, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        ((2, 3), (3,)),
        ((2, 3), (2, 3)),
        ((2, 3), (2, 1)),
        ((2, 3), ()),
        ((3,), (3,)),
        ((3,), ()),
        ((2, 3, 4), (2,)),
        ((2, 3, 4), (2, 4)),
        ((0, 3), (1,)),
    ],
)
def test_wrong_shapes_are_refused(logits, target):
    told = refusal(ValueError, split, torch.zeros(logits), torch.zeros(target, dtype=torch.long))
    assert told == (
        f"expected logits (n, c) and target (n,); got logits {logits} and target {target}"
    )


@pytest.mark.parametrize("c", [0, 1])
def test_a_target_without_rivals_is_refused(c):
    told = refusal(ValueError, split, torch.zeros(2, c), torch.zeros(2, dtype=torch.long))
    assert told == f"a margin needs a rival: expected c >= 2 classes; got c = {c}"


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
)
def test_logits_that_are_not_floating_point_are_refused(dtype):
    told = refusal(
        TypeError, split, torch.zeros(2, 3, dtype=dtype), torch.zeros(2, dtype=torch.long)
    )
    assert told == f"logits must be floating point; got {dtype}"


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool, torch.complex64]
)
def test_labels_that_are_not_integers_are_refused(dtype):
    told = refusal(TypeError, split, torch.zeros(2, 3), torch.zeros(2, dtype=dtype))
    assert told == f"target must hold class indices (int64), (n,); got {dtype}"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 3], "got 3 in row 1 (1 such of 2)"),
        ([-1, 0], "got -1 in row 0 (1 such of 2)"),
        ([2, -100, 7], "got -100 in row 1 (2 such of 3)"),
    ],
)
def test_labels_outside_the_classes_are_refused_with_the_first_of_them(labels, told, dtype):
    target = torch.tensor(labels, dtype=dtype)
    for reader in (split, odds_against, crowd, in_place):
        found = refusal(ValueError, reader, torch.zeros(len(labels), 3), target)
        assert found == f"expected labels from 0 to 2, as there are 3 classes; {told}"


def test_an_error_that_is_not_the_labels_is_passed_on(monkeypatch):
    def full(*arguments, **named):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(torch.Tensor, "scatter", full)
    for reader in (odds_against, crowd):
        told = refusal(RuntimeError, reader, torch.zeros(1, 3), torch.tensor([2]))
        assert told == "no memory left"


def test_every_reader_refuses_what_split_refuses():
    for reader in (odds_against, crowd, in_place):
        told = refusal(ValueError, reader, torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
        assert told == "expected logits (n, c) and target (n,); got logits (2, 3) and target (3,)"


def test_a_label_outside_the_classes_is_refused_by_compiled_code_too():
    compiled = torch.compile(split, backend="eager", fullgraph=True)
    told = refusal((RuntimeError, IndexError), compiled, torch.zeros(1, 3), torch.tensor([3]))
    assert "index 3 is out of bounds" in told


@pytest.mark.parametrize(
    ("features", "weight"),
    [
        ((2, 3), (4, 5)),
        ((2, 3), (3, 4)),
        ((3,), (4, 3)),
        ((2, 3), (3,)),
        ((2, 3, 1), (4, 3)),
        ((2, 3), (3, 3, 1)),
        ((), ()),
    ],
)
def test_features_and_a_weight_that_do_not_fit_are_refused(features, weight):
    label = torch.zeros(2, dtype=torch.long)
    told = refusal(ValueError, check_features, torch.zeros(features), torch.zeros(weight), label)
    assert told == (
        f"expected features (n, d) and weight (c, d); got features {features} and weight {weight}"
    )


@pytest.mark.parametrize("target", [(3,), (1,), (), (2, 1), (2, 3)])
def test_features_and_labels_that_do_not_fit_are_refused(target):
    label = torch.zeros(target, dtype=torch.long)
    told = refusal(ValueError, check_features, torch.zeros(2, 3), torch.zeros(4, 3), label)
    assert told == (
        f"expected features (n, d) and target (n,); got features (2, 3) and target {target}"
    )


@pytest.mark.parametrize("c", [0, 1])
def test_a_weight_without_a_rival_is_refused(c):
    label = torch.zeros(2, dtype=torch.long)
    told = refusal(ValueError, check_features, torch.zeros(2, 3), torch.zeros(c, 3), label)
    assert told == f"a margin needs a rival: expected c >= 2 classes; got c = {c}"


@pytest.mark.parametrize("wrong", ["features", "weight"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_features_and_weights_that_are_not_floating_point_are_refused(wrong, dtype):
    given = {"features": torch.zeros(2, 3), "weight": torch.zeros(4, 3)}
    given[wrong] = given[wrong].to(dtype)
    told = refusal(TypeError, check_features, **given, target=torch.zeros(2, dtype=torch.long))
    assert told == f"{wrong} must be floating point; got {dtype}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.complex64])
def test_labels_of_features_that_are_not_integers_are_refused(dtype):
    label = torch.zeros(2, dtype=dtype)
    told = refusal(TypeError, check_features, torch.zeros(2, 3), torch.zeros(4, 3), label)
    assert told == f"target must hold class indices (int64), (n,); got {dtype}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "d", "c"), [(2, 3, 4), (0, 3, 2), (1, 0, 2)])
def test_features_weight_and_labels_that_fit_pass(n, d, c, dtype):
    label = torch.full((n,), 99, dtype=torch.int32)  # values are looked at where they are used
    check_features(torch.zeros(n, d, dtype=dtype), torch.zeros(c, d), label)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 0), ()])
def test_rivals_of_a_wrong_shape_are_refused(shape):
    told = refusal(ValueError, check_rivals, torch.zeros(shape))
    assert told == f"expected rivals (n, r) with r >= 1; got {shape}"


def test_rivals_that_are_not_floating_point_are_refused():
    told = refusal(TypeError, check_rivals, torch.zeros(2, 3, dtype=torch.long))
    assert told == "rivals must be floating point; got torch.int64"


@pytest.mark.parametrize("value", [-1, -1e-9, math.inf, -math.inf, math.nan])
def test_a_parameter_below_zero_or_not_finite_is_refused(value):
    told = refusal(ValueError, check_number, "strength", value)
    assert told == f"strength must be non-negative and finite; got {value}"


@pytest.mark.parametrize("value", [-0.1, 1.1, math.inf, math.nan])
def test_a_share_outside_its_limits_is_refused(value):
    told = refusal(ValueError, check_number, "smoothing", value, most=1.0)
    assert told == f"smoothing must be between 0 and 1; got {value}"


@pytest.mark.parametrize(
    ("value", "kind"), [("1", "str"), (None, "NoneType"), ([0.3], "list"), (1j, "complex")]
)
def test_a_parameter_that_is_no_number_is_refused(value, kind):
    assert refusal(TypeError, check_number, "bias", value) == f"bias must be a number; got {kind}"
