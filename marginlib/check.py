"""The laws that every loss of logits obeys, as one call.

A wrong loss rarely crashes: it trains, a little worse.  So put it to small experiments whose
outcome is known beforehand.  ``check`` runs them on any ``loss(logits, target)`` and says in
words which law is broken, on which input, and the two numbers that differ.

The *required* laws make a loss right; ``report.ok`` speaks of them alone, and a cross-entropy
written in three lines can pass.  The *advice* makes it a good tool (it refuses bad labels,
takes half precision, compiles); ``report.perfect`` wants that too, and this library's own
losses have it.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

# Two answers that should be one may lie this many roundings apart.
ROUNDINGS = 1000
# float16 ends at 65504: the largest round logit whose double still fits.
EXTREME = 3e4


class Broken(Exception):
    """Raised by a law: on which input it does not hold, and what was found there."""

    def __init__(self, given: str, found: str):
        super().__init__(given, found)
        self.given, self.found = given, found


@dataclass(frozen=True)
class Finding:
    """What became of one law.  ``holds`` is None if it was not tried, for the reason in ``found``.

    For a broken law ``given`` is the input and ``found`` holds the two numbers that differ.
    """

    law: str
    says: str
    required: bool
    holds: bool | None
    given: str = ""
    found: str = ""

    def __str__(self) -> str:
        if self.holds:
            return f"  ✓ {self.law}"
        if self.holds is None:
            return f"  – {self.law} ({self.found})"
        lines = [f"  ✗ {self.law}", self.says, f"given  {self.given}", f"found  {self.found}"]
        return "\n      ".join(lines)


@dataclass(frozen=True, repr=False)
class Report:
    """What :func:`check` found.  It prints as a page to read, and is true when ``ok`` is.

    Attributes:
        loss: the name of the loss.
        findings: one for each law, in order.
    """

    loss: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no required law is broken."""
        return not any(f.required and f.holds is False for f in self.findings)

    @property
    def perfect(self) -> bool:
        """Whether nothing is broken, neither a required law nor advice."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the broken laws, required ones first."""
        return tuple(f.law for f in self.findings if f.holds is False)

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        held, broken, left = (
            sum(f.holds is holds for f in self.findings) for holds in (True, False, None)
        )
        verdict = "perfect" if self.perfect else "ok" if self.ok else "not ok"
        required = [str(f) for f in self.findings if f.required]
        advice = [str(f) for f in self.findings if not f.required]
        head = f"{self.loss}: {verdict} ({held} laws hold, {broken} broken, {left} not tried)"
        return "\n".join([head, "required", *required, "advice", *advice])


@dataclass(frozen=True)
class Trial:
    """One loss in the dock: how it is called, and what it is called with."""

    loss: Loss
    reference: Loss | None
    classes: tuple[int, ...]
    seed: int
    dtype: torch.dtype

    def batches(self, dtype: torch.dtype | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """One ordinary batch for each number of classes.

        No two logits in a row are equal, each has two decimals (so that a report shows all of
        it), and the number of rows is never that of the classes.
        """
        draw = torch.Generator().manual_seed(self.seed)
        for c in self.classes:
            n = c + 1 if c <= 10 else 7
            places = max(801, 4 * c)
            rows = [torch.randperm(places, generator=draw)[:c] - places // 2 for _ in range(n)]
            target = torch.randperm(max(n, c), generator=draw)[:n] % c
            yield (torch.stack(rows).double() / 100).to(dtype or self.dtype), target

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """Call the loss; a crash, or anything but one number per example, is a finding."""
        try:
            losses = self.loss(logits, target)
        except Exception as error:
            raise Broken(shown(logits, target), f"it raised {brief(error)}") from error
        if not isinstance(losses, Tensor):
            found, due = f"a {type(losses).__name__}", "a tensor"
        elif losses.shape != target.shape:
            found, due = f"a result of shape {tuple(losses.shape)}", f"{tuple(target.shape)}"
        elif not losses.is_floating_point():
            found, due = f"a result of {losses.dtype}", "floats"
        else:
            return losses
        raise Broken(shown(logits, target), f"{found}; expected {due}")

    def gradient(self, logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """Differentiate the losses' sum, weighted where ``weights`` are given, by autograd."""
        leaf = logits.detach().clone().requires_grad_()
        losses = self.value(leaf, target)
        weights = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
        try:
            (gradient,) = torch.autograd.grad(losses, leaf, weights)
        except Exception as error:
            given = shown(logits, target)
            raise Broken(given, f"its gradient raised {brief(error)}") from error
        return gradient


@dataclass(frozen=True)
class Law:
    """A law: its name, what it says, and an experiment that raises :class:`Broken`.

    ``switch`` is the argument of :func:`check` by which a loss declares it.  A ``basic`` law
    carries all others: where it is broken, they are not tried.
    """

    name: str
    says: str
    experiment: Callable[[Trial], None]
    required: bool
    switch: str | None
    basic: bool


LAWS: list[Law] = []


def law(
    *, required: bool = True, switch: str | None = None, basic: bool = False
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Enter an experiment in ``LAWS``: its name is the law's, its docstring what the law says."""

    def enter(experiment: Callable[[Trial], None]) -> Callable[[Trial], None]:
        name = experiment.__name__.replace("_", " ")
        LAWS.append(Law(name, experiment.__doc__, experiment, required, switch, basic))
        return experiment

    return enter


def check(
    loss: Loss,
    *,
    reference: Loss | None = None,
    classes: Sequence[int] = (2, 3, 10),
    seed: int = 0,
    shift: bool = True,
    relabelling: bool = True,
    prefers: bool = True,
    pulls: bool = True,
    unit: bool = True,
    vanishes: bool = True,
    compiles: bool = True,
) -> Report:
    """Try every law on ``loss`` and report what was found.

    A loss that crashes gets a finding, not a traceback.  Everything runs on the CPU; the random
    state (torch's and Python's), warning filters and gradient mode are left as they were.

    Args:
        loss: any callable of logits (n, c) and target (n,) that returns n numbers; fix its
            other parameters with :func:`functools.partial`.
        reference: a loss known to be right.  Values and gradients are then compared with it,
            which is the one way to notice a factor missing in a part of the loss.
        classes: the numbers of classes to try.
        seed: draws the ordinary logits.
        shift: declares that adding a number to all logits of a row changes nothing.
        relabelling: declares that no class is special.
        prefers: declares that the higher of two logits is the cheaper target.
        pulls: declares that the loss has no ceiling; False for a bounded, robust loss.
        unit: declares that a lost target costs one nat per unit of logit, as in every loss
            of chapters 1 to 4 but label smoothing; False for a loss with a scale of its own.
        vanishes: declares that being right by far costs nothing; False for label smoothing.
        compiles: whether to try :func:`torch.compile`, which takes seconds the first time.

    Returns:
        The report, with ``ok``, ``perfect``, ``failed`` (names of broken laws), a page to print.

    Raises:
        TypeError: if ``loss`` or ``reference`` cannot be called.
        ValueError: if ``classes`` is empty or holds a number below 2.

    A hinge that counts the target among its own rivals asks it to beat itself by 1:

    >>> def crowded_hinge(logits, target):
    ...     f_y = logits.gather(1, target[:, None])
    ...     return (logits - f_y + 1).relu().amax(dim=1)
    >>> report = check(crowded_hinge, compiles=False)
    >>> report.ok, report.failed
    (False, ('vanishing loss', 'refusal of wrong kinds', 'refusal of a single class'))
    >>> print(report)
    crowded_hinge: not ok (18 laws hold, 3 broken, 2 not tried)
    required
      ✓ one number per example
      ✓ untouched inputs
      ✓ repeatable answer
      ✓ independent examples
      ✓ shift invariance
      ✓ relabelling invariance
      ✓ preference for the target
      ✓ pull on a lost target
      ✓ unit pull
      ✗ vanishing loss
          A target far above rivals that are all equal costs nothing.
          given  logits [[50, 0]], target [0]
          found  loss 1; expected 0
      ✓ true gradient
      ✓ finite extremes
      – agreement with the reference (reference=None)
    advice
      ✓ float type of the logits
      ✓ half precision
      ✓ digits far from zero
      ✓ empty batch
      ✓ refusal of labels out of range
      ✗ refusal of wrong kinds
          Labels that are floats, truth values or one-hot rows are errors, as are integer logits.
          given  logits of torch.int64, target [0, 1] of torch.int64
          found  [1, 1]; expected an error
      ✓ refusal of wrong shapes
      ✗ refusal of a single class
          One class is an error: a margin needs a rival.
          given  logits [[0], [0]], target [0, 0]
          found  [1, 1]; expected an error
      ✓ function transforms
      – whole graph compilation (compiles=False)
    """
    for name, called in {"loss": loss, "reference": reference or loss}.items():
        if not callable(called):
            raise TypeError(
                f"{name} must be callable as {name}(logits, target); got {type(called).__name__}"
            )
    if not classes or min(classes) < 2:
        raise ValueError(f"expected numbers of classes, each at least 2; got {tuple(classes)}")
    switches = {
        "reference": reference is not None,
        "shift": shift,
        "relabelling": relabelling,
        "prefers": prefers,
        "pulls": pulls,
        "unit": unit,
        "vanishes": vanishes,
        "compiles": compiles,
    }
    with undisturbed():
        dtype = working_dtype(loss, min(classes))
        trial = Trial(loss, reference, tuple(classes), seed, dtype)
        findings: list[Finding] = []
        blocked = ""
        for entry in LAWS:
            holds, given, found = None, "", blocked
            if entry.switch and not switches[entry.switch]:
                found = f"{entry.switch}={'None' if entry.switch == 'reference' else 'False'}"
            elif not blocked:
                holds = True
                try:
                    entry.experiment(trial)
                except Broken as broken:
                    holds, given, found = False, broken.given, broken.found
                    if entry.basic:
                        blocked = f"waits for {entry.name}"
            findings.append(Finding(entry.name, entry.says, entry.required, holds, given, found))
    return Report(name_of(loss), tuple(findings))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give the laws a quiet room, and leave the caller's as it was."""
    state = random.getstate()
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),  # turns gradients on as well
        torch.device("cpu"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(state)


def working_dtype(loss: Loss, c: int) -> torch.dtype:
    """Return float64, or float32 for a loss that cannot answer in float64."""
    try:
        losses = loss(torch.zeros(1, c, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    except Exception:
        return torch.float32
    return torch.float64 if getattr(losses, "dtype", None) == torch.float64 else torch.float32


def name_of(loss: Loss) -> str:
    """The loss's own name, also behind a :func:`functools.partial`."""
    inner = getattr(loss, "func", loss)
    return getattr(inner, "__name__", type(inner).__name__)


def brief(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def shown(logits: Tensor, target: Tensor) -> str:
    """The input as one would type it."""
    if logits.numel() == 0:
        return f"logits of shape {tuple(logits.shape)}, target of shape {tuple(target.shape)}"
    return f"logits {listed(logits)}, target {listed(target)}"


def listed(x: Tensor) -> str:
    """A tensor as nested lists; long ones show their ends."""
    if x.ndim == 0:
        return number(x.item())
    items = [listed(entry) for entry in x.detach()]
    if len(items) > 12:
        items = [*items[:3], f"... {len(items) - 4} more ...", items[-1]]
    return f"[{', '.join(items)}]"


def number(x: float, digits: int = 6) -> str:
    """A number to so many digits; no zero is negative."""
    return f"{x + 0:.{digits}g}" if isinstance(x, float) else str(x)


def pair(first: Tensor, second: Tensor) -> tuple[str, str]:
    """Two numbers that differ, with as many digits as it takes to see it."""
    a, b = first.item(), second.item()
    digits = next((d for d in (6, 9) if number(a, d) != number(b, d)), 17)
    return number(a, digits), number(b, digits)


def tolerance(losses: Tensor) -> float:
    """By how much two answers near 1 may differ, in the losses' own precision."""
    return ROUNDINGS * torch.finfo(losses.dtype).eps


def agree(
    first: Tensor, second: Tensor, given: Callable[[int], str], words: tuple[str, str]
) -> None:
    """Raise at the first row in which two answers differ by more than rounding."""
    first, second = first.detach(), second.detach()
    near = (first - second).abs() <= tolerance(second) * (1 + second.abs())
    for row in (~near).nonzero().flatten().tolist()[:1]:
        a, b = pair(first[row], second[row])
        raise Broken(given(row), f"{words[0]} {a}, {words[1]} {b}")


def slopes(loss: Loss, logits: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds for the gradient of the weighted sum, from finite differences.

    They are the slopes on the two sides of each logit.  At a kink these differ, and any number
    between them is a fair gradient; elsewhere they leave room for curvature and no more.
    """
    with torch.no_grad():
        here = loss(logits, target)
        # Near the cube root of the precision, and a power of two: logit + step is then exact.
        step = 2.0 ** round(math.log2(torch.finfo(here.dtype).eps) / 3)
        below, above = torch.empty_like(logits), torch.empty_like(logits)
        for entry in product(*map(range, logits.shape)):
            for side, slope in ((-step, below), (step, above)):
                moved = logits.clone()
                moved[entry] += side
                slope[entry] = (weights * (loss(moved, target) - here)).sum() / side
    # Rounding, and at a kink the curvature on either side of it.
    slack = ROUNDINGS * step**2 + (above - below).abs() / 1000
    return torch.minimum(below, above) - slack, torch.maximum(below, above) + slack


def gradient_agrees(trial: Trial, loss: Loss, logits: Tensor, target: Tensor) -> None:
    """Raise unless the trial's gradient is the slope of ``loss``, logit by logit."""
    # Unequal weights, as a mean over weighted examples has: a gradient must carry them on.
    weights = torch.linspace(0.5, 1.5, len(target), dtype=logits.dtype)
    gradient = trial.gradient(logits, target, weights)
    low, high = slopes(loss, logits, target, weights)
    for row, column in (~((low <= gradient) & (gradient <= high))).nonzero().tolist()[:1]:
        slope = torch.where(gradient > high, high, low)
        a, b = pair(*(x[row, column] / weights[row] for x in (gradient, slope)))
        given = f"{shown(logits[[row]], target[[row]])}, by logit {column}"
        raise Broken(given, f"gradient {a}, slope {b}")


def ties(c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows on the boundary: all equal, rivals equal, two tied, a margin of 1, a gap of 30."""
    others = torch.arange(1, c + 1, dtype=dtype) / -4
    level, raised, tied, margin, far = (others.clone() for _ in range(5))
    level[:] = 0
    raised[:], raised[0] = -0.5, 0.25
    tied[1] = tied[0]
    margin[0] = margin[1] + 1
    far[0] = 30
    rows = torch.stack([level, raised, tied, margin, far, -far])
    return rows, torch.zeros(len(rows), dtype=torch.int64)


def extremes(c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows at plus and minus ``EXTREME``, equal, tied and alone, each with every target."""
    sign = torch.ones(c)
    alternating = sign.clone()
    alternating[1::2] = -1
    alone = -sign
    alone[0] = 1
    rows = torch.stack([sign, -sign, 0 * sign, alternating, alone, -alone]) * EXTREME
    return rows.repeat_interleave(c, dim=0).to(dtype), torch.arange(c).repeat(len(rows))


def finite(trial: Trial, dtype: torch.dtype) -> None:
    """Raise if a loss or a gradient at the extremes is infinite or not a number."""
    for c in trial.classes:
        logits, target = extremes(c, dtype)
        losses = trial.value(logits, target).detach()
        gradient = trial.gradient(logits, target)
        for what, x in {"loss": losses[:, None], "gradient": gradient}.items():
            for row, column in (~x.isfinite()).nonzero().tolist()[:1]:
                given = f"{shown(logits[[row]], target[[row]])}, {dtype}, in a batch of such rows"
                found = number(x[row, column].item())
                raise Broken(given, f"{what} {found}; expected a finite number")


def lost(trial: Trial) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Targets 300 below their rivals, each with the gradient by its logit."""
    for c in trial.classes:
        logits = torch.zeros(1, c, dtype=trial.dtype)
        logits[0, 0] = -300
        target = torch.zeros(1, dtype=torch.int64)
        yield logits, target, trial.gradient(logits, target)[0, 0].item()


def refused(trial: Trial, logits: Tensor, target: Tensor, given: str) -> None:
    """Raise if the loss answers where it should refuse."""
    try:
        losses = trial.loss(logits, target)
    except Exception:
        return
    answer = listed(losses) if isinstance(losses, Tensor) else type(losses).__name__
    raise Broken(given, f"{answer}; expected an error")


@law(basic=True)
def one_number_per_example(trial: Trial) -> None:
    """A batch of n examples gives n finite numbers, a result of shape (n,)."""
    for logits, target in trial.batches():
        losses = trial.value(logits, target)
        for row in (~losses.isfinite()).nonzero().flatten().tolist()[:1]:
            found = f"loss {number(losses[row].item())}; expected a finite number"
            raise Broken(shown(logits[[row]], target[[row]]), found)


@law(basic=True)
def untouched_inputs(trial: Trial) -> None:
    """The loss reads its arguments and writes to neither."""
    for logits, target in trial.batches():
        before = logits.clone(), target.clone()
        trial.value(logits, target)
        for name, old, new in zip(("logits", "target"), before, (logits, target), strict=True):
            for place in (old != new).nonzero().tolist()[:1]:
                was, now = pair(old[tuple(place)], new[tuple(place)])
                raise Broken(shown(*before), f"{name}{place} was {was}, is now {now}")


@law(basic=True)
def repeatable_answer(trial: Trial) -> None:
    """The same input gives the same numbers, bit for bit."""
    for logits, target in trial.batches():
        first, second = trial.value(logits, target), trial.value(logits, target)
        for row in (first != second).nonzero().flatten().tolist()[:1]:
            a, b = pair(first[row], second[row])
            raise Broken(f"{shown(logits, target)}, row {row}", f"loss {a}, called again {b}")


@law()
def independent_examples(trial: Trial) -> None:
    """An example costs the same alone as among others."""
    for logits, target in trial.batches():
        together = trial.value(logits, target)
        alone = [trial.value(z, y) for z, y in zip(logits.split(1), target.split(1), strict=True)]
        agree(
            together,
            torch.cat(alone),
            lambda row, z=logits, y=target: f"{shown(z, y)}, row {row}",
            ("loss in the batch", "alone"),
        )


@law(switch="shift")
def shift_invariance(trial: Trial) -> None:
    """Adding the same number to all logits of an example leaves its loss as it was."""
    for logits, target in trial.batches():
        agree(
            trial.value(logits, target),
            trial.value(logits + 10, target),
            lambda row, z=logits, y=target: f"{shown(z[[row]], y[[row]])}, then all logits + 10",
            ("loss", "shifted"),
        )


@law(switch="relabelling")
def relabelling_invariance(trial: Trial) -> None:
    """Renaming the classes, in logits and target alike, leaves the loss as it was."""
    for logits, target in trial.batches():
        agree(
            trial.value(logits, target),
            trial.value(logits.flip(1), logits.shape[1] - 1 - target),
            lambda row, z=logits, y=target: (
                f"{shown(z[[row]], y[[row]])}, then the classes in reverse order"
            ),
            ("loss", "reversed"),
        )


@law(switch="prefers")
def preference_for_the_target(trial: Trial) -> None:
    """Of two classes, the one with the higher logit is the cheaper target."""
    for logits, _ in trial.batches():
        n, c = logits.shape
        every = torch.arange(c).repeat(n)
        losses = trial.value(logits.repeat_interleave(c, dim=0), every).reshape(n, c)
        order = logits.argsort(dim=1, descending=True)
        ranked = losses.gather(1, order)
        for row, rank in (~(ranked[:, :-1] < ranked[:, 1:])).nonzero().tolist()[:1]:
            high, low = order[row, rank], order[row, rank + 1]
            a, b = pair(losses[row, high], losses[row, low])
            given = f"{shown(logits[[row]], high[None])} or [{low}]"
            found = f"loss {a} for target {high} (the higher logit), {b} for target {low}"
            raise Broken(given, found)


@law(switch="pulls")
def pull_on_a_lost_target(trial: Trial) -> None:
    """However far the target lies below its rivals, raising its logit lowers the loss."""
    for logits, target, pull in lost(trial):
        if not pull < -1e-3:
            found = f"gradient {number(pull)} by the target's logit; expected below -0.001"
            raise Broken(shown(logits, target), found)


@law(switch="unit")
def unit_pull(trial: Trial) -> None:
    """Far below its rivals, a target gains one nat for each unit of logit: no factor is missing."""
    for logits, target, pull in lost(trial):
        if not abs(pull + 1) <= 1e-3:
            found = f"gradient {number(pull)} by the target's logit; expected -1"
            raise Broken(shown(logits, target), found)


@law(switch="vanishes")
def vanishing_loss(trial: Trial) -> None:
    """A target far above rivals that are all equal costs nothing."""
    for c in trial.classes:
        logits = torch.zeros(1, c, dtype=trial.dtype)
        logits[0, 0] = 50
        target = torch.zeros(1, dtype=torch.int64)
        cost = trial.value(logits, target)[0]
        if not cost.abs() <= 1e-6:
            raise Broken(shown(logits, target), f"loss {number(cost.item())}; expected 0")


@law()
def true_gradient(trial: Trial) -> None:
    """The gradient is the slope: autograd agrees with finite differences."""
    for logits, target in trial.batches():
        gradient_agrees(trial, trial.value, logits, target)
        boundary = ties(logits.shape[1], trial.dtype)
        gradient_agrees(trial, trial.value, *boundary)


@law()
def finite_extremes(trial: Trial) -> None:
    """Logits of ±30000, equal or tied, give a finite loss and a finite gradient in float32."""
    finite(trial, torch.float32)


@law(switch="reference")
def agreement_with_the_reference(trial: Trial) -> None:
    """Values and gradients are those of the reference."""
    for batch in trial.batches():
        for logits, target in (batch, ties(batch[0].shape[1], trial.dtype)):
            agree(
                trial.value(logits, target),
                trial.reference(logits, target),
                lambda row, z=logits, y=target: shown(z[[row]], y[[row]]),
                ("loss", "reference"),
            )
            gradient_agrees(trial, trial.reference, logits, target)


@law(required=False)
def float_type_of_the_logits(trial: Trial) -> None:
    """float64 logits give a float64 loss, and float32 logits a float32 loss."""
    for dtype in (torch.float64, torch.float32):
        for logits, target in trial.batches(dtype):
            found = trial.value(logits, target).dtype
            if found != dtype:
                raise Broken(f"{dtype} logits", f"{found} losses; expected {dtype}")


@law(required=False)
def half_precision(trial: Trial) -> None:
    """float16 and bfloat16 logits give finite losses and gradients, in float32 or as they came."""
    for dtype in (torch.float16, torch.bfloat16):
        for logits, target in trial.batches(dtype):
            found = trial.value(logits, target).dtype
            if found not in (dtype, torch.float32):
                raise Broken(f"{dtype} logits", f"{found} losses; expected {dtype} or float32")
        finite(trial, dtype)


@law(required=False, switch="shift")
def digits_far_from_zero(trial: Trial) -> None:
    """Adding 100000 to all logits of an example costs no digits in float32."""
    for logits, target in trial.batches(torch.float32):
        # Sixty-fourths: float32 holds them exactly at 100000 too.
        grid = (logits * 64).round() / 64
        agree(
            trial.value(grid + 1e5, target),
            trial.value(grid, target),
            lambda row, z=grid, y=target: f"{shown(z[[row]], y[[row]])}, then all logits + 100000",
            ("loss far from zero", "near zero"),
        )


@law(required=False)
def empty_batch(trial: Trial) -> None:
    """No examples give no numbers, and a gradient of no rows."""
    for c in trial.classes:
        logits = torch.zeros(0, c, dtype=trial.dtype)
        trial.gradient(logits, torch.zeros(0, dtype=torch.int64))


@law(required=False)
def refusal_of_labels_out_of_range(trial: Trial) -> None:
    """Labels -1 and c are errors: there are only the classes 0 to c - 1."""
    for c in trial.classes:
        for label in (-1, c):
            logits, target = torch.zeros(2, c), torch.tensor([0, label])
            refused(trial, logits, target, shown(logits, target))


@law(required=False)
def refusal_of_wrong_kinds(trial: Trial) -> None:
    """Labels that are floats, truth values or one-hot rows are errors, as are integer logits."""
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    one_hot = torch.eye(3)[labels]
    for x, y in [
        (logits, labels.double()),
        (logits, labels.bool()),
        (logits, one_hot),
        (logits, one_hot.long()),
        (logits.long(), labels),
    ]:
        given = f"logits of {x.dtype}, target {listed(y)} of {y.dtype}"
        refused(trial, x, y, given)


@law(required=False)
def refusal_of_wrong_shapes(trial: Trial) -> None:
    """Anything but logits (n, c) and target (n,) is an error."""
    for shapes in [
        ((3,), (3,)),
        ((3, 4, 2), (3,)),
        ((3, 4), ()),
        ((3, 4), (2,)),
        ((3, 4), (4,)),
        ((3, 4), (3, 1)),
    ]:
        logits, target = torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.int64)
        refused(trial, logits, target, "zeros; logits {} and target {}".format(*shapes))


@law(required=False)
def refusal_of_a_single_class(trial: Trial) -> None:
    """One class is an error: a margin needs a rival."""
    logits, target = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    refused(trial, logits, target, shown(logits, target))


@law(required=False)
def function_transforms(trial: Trial) -> None:
    """The loss works under torch.no_grad, torch.func.grad and torch.func.vmap."""
    one = torch.func.grad_and_value(lambda z, y: trial.loss(z[None], y[None])[0])
    for logits, target in trial.batches():
        rows = list(zip(logits.split(1), target.split(1), strict=True))
        with torch.no_grad():
            alone = torch.cat([trial.value(z, y) for z, y in rows])
        slope = torch.cat([trial.gradient(z, y) for z, y in rows])
        given = shown(logits, target)
        try:
            gradient, losses = torch.func.vmap(one)(logits, target)
        except Exception as error:
            raise Broken(given, f"vmap(grad(loss)) raised {brief(error)}") from error
        for answer, due, words in [
            (losses, alone, ("loss by vmap", "row by row")),
            (gradient, slope, ("gradient by vmap", "row by row")),
        ]:
            agree(answer.flatten(), due.flatten(), lambda row, given=given: given, words)


@law(required=False, switch="compiles")
def whole_graph_compilation(trial: Trial) -> None:
    """torch.compile takes the loss as one graph, and the numbers stay the same."""

    def call(logits: Tensor, target: Tensor) -> Tensor:
        return trial.loss(logits, target)

    # Code of its own for each trial: torch 2.4 keeps only eight graphs for one code object.
    call.__code__ = call.__code__.replace()
    logits, target = next(trial.batches())
    try:
        compiled = torch.compile(call, backend="eager", fullgraph=True)(logits, target)
    except Exception as error:
        raise Broken(shown(logits, target), f"torch.compile raised {brief(error)}") from error
    agree(
        compiled,
        trial.value(logits, target),
        lambda row: f"{shown(logits, target)}, row {row}",
        ("loss compiled", "not compiled"),
    )
