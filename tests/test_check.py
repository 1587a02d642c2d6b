"""The laws themselves: each catches the loss that breaks it, and lets the right ones pass."""

import importlib
import random
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from wrong_losses import COMPILATION, EMPTY, KINDS, LABELS, ONE_CLASS, SHAPE, SHAPES, WRONG

import marginlib
from marginlib import check, dense_hinge_loss, label_smoothing_loss, soft_margin_loss, softmax_loss
from marginlib.check import LAWS, Broken, Trial, name_of, shown

quick = partial(check, compiles=False)


def three_lines(logits, target):
    log_p = logits.log_softmax(dim=1)
    return -log_p[torch.arange(len(target)), target]


def with_a_loop(logits, target):
    losses = torch.zeros(len(target))
    for i in range(len(target)):
        losses[i] = logits[i].logsumexp(dim=0) - logits[i, target[i]]
    return losses


def single_precision_only(logits, target):
    return -(one_hot(target, logits.shape[1]).float() * logits.log_softmax(dim=1)).sum(dim=1)


# --- computed and compared ---------------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.loss.__name__)
def test_a_wrong_loss_is_caught_by_the_law_that_it_breaks(wrong):
    report = check(wrong.loss, compiles=wrong.law == COMPILATION, **wrong.declared)
    assert wrong.law in report.failed, report
    assert set(report.failed) <= {wrong.law} | wrong.also, report
    assert not report.perfect


def test_no_law_is_without_a_wrong_loss_that_breaks_it():
    assert {wrong.law for wrong in WRONG} == {law.name for law in LAWS}


def test_what_may_break_besides_is_what_does_break_besides():
    excused = {(wrong.loss.__name__, law) for wrong in WRONG for law in wrong.also}
    broken = {
        (wrong.loss.__name__, law)
        for wrong in WRONG
        if wrong.also
        for law in check(wrong.loss, compiles=wrong.law == COMPILATION, **wrong.declared).failed
    }
    assert excused <= broken


def test_a_cross_entropy_of_three_lines_is_right_but_takes_bad_input():
    report = check(three_lines, reference=softmax_loss)
    assert report.ok, report
    assert report.failed == (LABELS, SHAPES, ONE_CLASS)


def test_a_loop_in_single_precision_is_right_as_well():
    report = quick(with_a_loop, reference=softmax_loss)
    assert report.ok, report
    assert "float type of the logits" in report.failed


def test_torchs_own_cross_entropy_is_right_but_takes_one_hot_rows_for_probabilities():
    report = check(partial(cross_entropy, reduction="none"), reference=softmax_loss)
    assert report.ok, report
    assert report.failed == (KINDS, ONE_CLASS)


def test_the_library_agrees_with_torch_as_its_reference():
    for loss, reference in [
        (softmax_loss, partial(cross_entropy, reduction="none")),
        (label_smoothing_loss, partial(cross_entropy, reduction="none", label_smoothing=0.1)),
    ]:
        plain = loss is softmax_loss
        assert quick(loss, reference=reference, unit=plain, vanishes=plain).perfect


def test_a_mean_over_all_classes_is_not_a_mean_over_the_rivals():
    torchs = partial(torch.nn.functional.multi_margin_loss, reduction="none")
    assert quick(dense_hinge_loss, reference=torchs).failed == ("agreement with the reference",)


def test_a_loss_may_declare_that_a_shift_matters():
    def one_against_all(logits, target):
        labels = one_hot(target, logits.shape[1]).to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(dim=1)

    assert not quick(one_against_all).ok
    assert quick(one_against_all, shift=False, vanishes=False).ok


def test_a_bounded_loss_may_declare_that_it_lets_go_of_lost_targets():
    def one_minus_the_probability(logits, target):
        return 1 - (-softmax_loss(logits, target)).exp()

    assert quick(one_minus_the_probability).failed == ("pull on a lost target", "unit pull")
    assert quick(one_minus_the_probability, pulls=False, unit=False).perfect


def test_a_missing_factor_needs_no_reference():
    half = quick(lambda logits, target: softmax_loss(logits, target) / 2)
    assert half.failed == ("unit pull",)
    (finding,) = (f for f in half.findings if f.holds is False)
    assert finding.found == "gradient -0.5 by the target's logit; expected -1"


def test_a_kink_accepts_any_gradient_between_its_two_slopes():
    def first_of_the_strongest(logits, target):
        f_y = logits.gather(1, target[:, None]).squeeze(1)
        rivals = logits.scatter(1, target[:, None], -torch.inf)
        return (rivals.max(dim=1).values - f_y + 1).relu()

    assert quick(first_of_the_strongest, reference=marginlib.hinge_loss).ok


@pytest.mark.parametrize("c", [2, 3, 10, 11, 1000])
def test_an_ordinary_batch_has_no_ties_and_can_be_typed_in(c):
    (batch,) = Trial(softmax_loss, None, (c,), 0, torch.float64).batches()
    logits, target = batch
    n = len(target)
    assert logits.shape == (n, c)
    assert n != c
    assert all(len(row.unique()) == c for row in logits)
    assert len(target.unique()) == min(n, c)
    typed = [[float(f"{z:.2f}") for z in row] for row in logits]
    assert torch.equal(logits, torch.tensor(typed, dtype=torch.float64))


def test_many_classes_are_tried_too_and_printed_in_short():
    report = quick(lambda logits, target: -softmax_loss(logits, target), classes=(30,))
    assert "... 26 more ..." in str(report)
    assert quick(softmax_loss, classes=(30,)).perfect


# --- told and checked --------------------------------------------------------------------


def test_a_report_has_a_line_for_each_law():
    lines = str(check(softmax_loss)).splitlines()
    assert lines[0] == f"softmax_loss: perfect ({len(LAWS) - 1} laws hold, 0 broken, 1 not tried)"
    for law in LAWS:
        mark = "–" if law.switch == "reference" else "✓"
        assert sum(line.startswith(f"  {mark} {law.name}") for line in lines) == 1


def test_a_broken_law_tells_its_sentence_its_input_and_the_two_numbers():
    def warm(logits, target):
        return softmax_loss(logits * (1 + 1e-11 * logits), target)

    report = quick(warm)
    (finding,) = [f for f in report.findings if f.law == "shift invariance"]
    told = str(report)
    assert (
        finding.says
        == "Adding the same number to all logits of an example leaves its loss as it was."
    )
    assert f"✗ shift invariance\n      {finding.says}\n      given  logits [[" in told

    # Typed in again, the input gives the numbers of the report, and one can see them differ.
    row, label = finding.given.split(", then")[0].removeprefix("logits ").split(", target ")
    logits, target = torch.tensor(eval(row), dtype=torch.float64), torch.tensor(eval(label))
    before, after = (words.split()[-1] for words in finding.found.split(", "))
    assert before != after
    # They part at the ninth digit, so nine are printed.
    assert f"{warm(logits, target).item():.9g}" == before
    assert f"{warm(logits + 10, target).item():.9g}" == after


def test_a_report_says_ok_or_not_before_anything_else():
    assert str(quick(three_lines)).startswith("three_lines: ok (")
    assert str(quick(lambda z, y: -softmax_loss(z, y))).startswith("<lambda>: not ok (")


def test_a_report_is_true_just_when_no_required_law_is_broken():
    assert quick(three_lines)
    assert not quick(lambda z, y: -softmax_loss(z, y))


def test_failed_names_required_laws_before_advice():
    def both(logits, target):
        return -three_lines(logits, target)

    required = {law.name: law.required for law in LAWS}
    marks = [required[name] for name in quick(both).failed]
    assert marks == sorted(marks, reverse=True)
    assert set(marks) == {True, False}


def test_where_a_basic_law_is_broken_the_others_wait():
    report = quick(lambda z, y: softmax_loss(z, y).mean())
    assert report.failed == (SHAPE,)
    rest = [f for f in report.findings if f.law != SHAPE]
    assert all(f.holds is None for f in rest)
    assert rest[0].found == f"waits for {SHAPE}"


def test_a_law_that_the_loss_does_not_declare_is_not_tried():
    switches = ("shift", "relabelling", "prefers", "pulls", "vanishes", "compiles")
    report = check(softmax_loss, **dict.fromkeys(switches, False))
    untried = {f.law: f.found for f in report.findings if f.holds is None}
    due = {law.name: f"{law.switch}=False" for law in LAWS if law.switch in switches}
    assert untried == due | {"agreement with the reference": "reference=None"}


def crash(*_):
    raise ZeroDivisionError("nothing to share\nwith anyone")


def crash_in_single_precision(logits, target):
    return crash() if logits.dtype == torch.float32 else softmax_loss(logits, target)


def crash_on_the_way_back(logits, target):
    losses = softmax_loss(logits, target)
    if losses.requires_grad:
        losses.register_hook(crash)
    return losses


@pytest.mark.parametrize(
    ("loss", "law"),
    [
        (crash, SHAPE),
        (crash_in_single_precision, "finite extremes"),
        (crash_on_the_way_back, "true gradient"),
    ],
)
def test_a_crash_is_a_finding_with_the_first_line_of_its_message(loss, law):
    (finding,) = [f for f in quick(loss).findings if f.law == law]
    assert finding.holds is False
    assert "raised ZeroDivisionError: nothing to share" in finding.found
    assert "anyone" not in finding.found


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "a NoneType; expected a tensor"),
        (0.5, "a float; expected a tensor"),
        (torch.zeros(3, 1), "a result of shape (3, 1); expected (3,)"),
        (torch.zeros(3, dtype=torch.int64), "a result of torch.int64; expected floats"),
        (torch.tensor([0.0, torch.nan, 0.0]), "loss nan; expected a finite number"),
    ],
)
def test_an_answer_that_is_no_loss_is_told_from_one(answer, told):
    (finding, *_) = quick(lambda z, y: answer).findings
    assert (finding.law, finding.found) == (SHAPE, told)


def test_a_loss_without_a_gradient_is_told_so():
    (finding,) = [
        f
        for f in quick(lambda z, y: softmax_loss(z.detach(), y)).findings
        if f.law == "true gradient"
    ]
    assert "does not require grad" in finding.found


def test_a_loss_for_single_precision_only_is_tried_in_single_precision():
    def single(logits, target):
        return (logits.log_softmax(dim=1) @ -torch.eye(logits.shape[1]))[range(len(target)), target]

    report = quick(single, reference=softmax_loss)
    assert report.ok, report
    assert report.failed[0] == "float type of the logits"


def test_the_check_leaves_no_trace():
    def noisy(logits, target):
        warnings.warn("look at me", stacklevel=1)
        random.random()
        return softmax_loss(logits, target) + torch.rand(len(target))

    def state():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            warnings.filters[:],
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_default_device(),
        )

    before = state()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quick(noisy)
        check(softmax_loss)
    assert not heard
    assert state() == before


@pytest.mark.parametrize(
    "room",
    [
        torch.no_grad,
        torch.inference_mode,
        partial(torch.device, "meta"),
        partial(torch.autocast, "cpu", torch.bfloat16),
    ],
    ids=["no_grad", "inference_mode", "another device", "autocast"],
)
def test_the_verdict_does_not_depend_on_the_room(room):
    with room():
        assert check(softmax_loss).perfect
        assert quick(lambda z, y: -softmax_loss(z, y)).failed[0] == "preference for the target"


def test_the_verdict_does_not_depend_on_the_default_precision():
    torch.set_default_dtype(torch.float64)
    try:
        assert check(softmax_loss).perfect
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_same_seed_gives_the_same_report_and_another_seed_another_input():
    def slip(logits, target):
        return -softmax_loss(logits, target)

    assert quick(slip) == quick(slip)
    assert quick(slip) != quick(slip, seed=1)
    assert quick(slip, seed=1).failed == quick(slip).failed


def test_one_piece_of_code_can_be_compiled_again_and_again():
    for margin in range(10):
        report = check(partial(soft_margin_loss, margin=margin), classes=(2,))
        assert COMPILATION not in report.failed, report


def test_a_loss_is_called_by_its_own_name():
    assert name_of(softmax_loss) == "softmax_loss"
    assert name_of(partial(soft_margin_loss, margin=2.0)) == "soft_margin_loss"
    assert name_of(torch.nn.CrossEntropyLoss()) == "CrossEntropyLoss"


def test_a_module_may_be_the_loss():
    assert quick(torch.nn.CrossEntropyLoss(reduction="none")).ok


def test_the_function_is_found_whatever_is_imported_first():
    # One fresh interpreter, since importing torch takes a while; marginlib is forgotten each time.
    code = """
import importlib, sys, torch
for order in sys.argv[1:]:
    exec(order)
    import marginlib
    print(type(marginlib.check).__name__, type(sys.modules["marginlib.check"]).__name__)
    for name in [name for name in sys.modules if name.startswith("marginlib")]:
        del sys.modules[name]
"""
    orders = [
        "import marginlib.check",
        "import marginlib; import marginlib.check",
        "from marginlib.check import check",
        "import marginlib; importlib.import_module('marginlib.check')",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *orders], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["function module"] * len(orders)
    assert importlib.import_module("marginlib.check").check is marginlib.check


def test_the_input_is_shown_as_one_would_type_it():
    logits, target = torch.tensor([[1.25, -0.0], [3e4, 1e-9]]), torch.tensor([0, 1])
    assert shown(logits, target) == "logits [[1.25, 0], [30000, 1e-09]], target [0, 1]"
    empty = shown(torch.zeros(0, 3), torch.zeros(0))
    assert empty == "logits of shape (0, 3), target of shape (0,)"


def test_every_kind_of_bad_input_is_offered():
    offered = set()

    def spy(logits, target):
        try:
            return softmax_loss(logits, target)
        except (TypeError, ValueError):
            kinds = (logits.dtype, target.dtype)
            offered.add((*kinds, tuple(logits.shape), tuple(target.shape)))
            raise

    assert quick(spy, classes=(2,)).perfect
    x, y = torch.float32, torch.int64
    assert offered == {
        (x, y, (2, 2), (2,)),  # labels out of range
        (x, torch.float64, (2, 3), (2,)),
        (x, torch.bool, (2, 3), (2,)),
        (x, x, (2, 3), (2, 3)),
        (x, y, (2, 3), (2, 3)),
        (y, y, (2, 3), (2,)),
        (x, y, (3,), (3,)),
        (x, y, (3, 4, 2), (3,)),
        (x, y, (3, 4), ()),
        (x, y, (3, 4), (2,)),
        (x, y, (3, 4), (4,)),
        (x, y, (3, 4), (3, 1)),
        (x, y, (2, 1), (2,)),
    }


def test_an_empty_batch_may_crash_and_the_rest_still_be_right():
    def stacked(logits, target):
        rows = zip(logits, target, strict=True)
        return torch.stack([z.logsumexp(dim=0) - z[y] for z, y in rows])

    report = quick(stacked)
    assert report.ok, report
    assert EMPTY in report.failed


# --- refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "reference"])
def test_what_cannot_be_called_is_refused(name):
    arguments = {"loss": softmax_loss} | {name: "softmax"}
    with pytest.raises(
        TypeError, match=f"^{name} must be callable as {name}.logits, target.; got str"
    ):
        check(**arguments)


@pytest.mark.parametrize("classes", [(), (1,), (3, 0)])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(ValueError, match="each at least 2"):
        check(softmax_loss, classes=classes)


def test_a_reference_that_crashes_is_the_callers_affair():
    with pytest.raises(ZeroDivisionError):
        quick(softmax_loss, reference=crash)
    assert issubclass(Broken, Exception)
