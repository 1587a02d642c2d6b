"""Which loss, when: what the record of :mod:`studies.side_by_side` says to each wish.

Hypotheses, written when the trials of one of the four regimes and a part of a second's had been
seen, and before any run of ``side_by_side``.  Chapter 14 judges them.

1. Few wishes are granted.  With intervals that hold for all comparisons of a wish together, no
   method makes fewer mistakes than the tuned softmax loss in any of the four regimes.  Refuted,
   in a regime, by one that does.
2. What is easier to beat.  By the same intervals some method is better than the softmax loss
   in its calibration as it comes, and some method under attack.  Refuted where none is.
3. A winner does not travel.  The rank correlation of the methods' errors in two regimes, in the
   mean of the six pairs of regimes, is below one half.  It holds where the 95 % interval, from
   the methods drawn again with replacement, lies below; is refuted where it lies above.
4. Fewer images, more luck.  Of a difference between two methods that one seed shows, less is
   left in another seed with few images than in each of the other regimes.  Judged in the same
   way, regime by regime.
5. The chosen one disappoints.  The method with the lowest test error in one seed leads the
   softmax loss by more in that seed than in the other four, in every regime.  Judged by the
   interval over the five seeds.

The methods of 3 to 5 are those in the race: whose best trial came within five points of the
softmax loss's best, on the validation images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .evidence import FINISHED, Difference, Record, Table, sorted_values
from .measures import UNITS
from .studies import trials
from .studies.trials import CANDIDATES, FAMILIES, family_of, last_error, plain_name

CLOSE = 5.0  # points of validation error from the softmax loss within which a method is in the race


# --- Wishes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a classifier: a measure in a regime, and which way is better."""

    regime: str
    measure: str = "error"
    more: bool = False


WISHES = {
    "fewest mistakes, all images": Wish("full"),
    "fewest mistakes, few images": Wish("few"),
    "fewest mistakes, wrong labels": Wish("noisy"),
    "fewest mistakes, many classes": Wish("many"),
    "calibrated as it comes": Wish("full", "ece"),
    "likely after one temperature": Wish("full", "nll_scaled"),
    "verify classes never seen": Wish("many", "accepted_cosine", more=True),
    "withstand a small attack": Wish("full", "error_0.1"),
}


@dataclass(frozen=True)
class Advice:
    """What a record says to a wish: the difference of each method to the baseline."""

    wish: Wish
    baseline: str
    differences: tuple[Difference, ...]

    @property
    def better(self) -> tuple[Difference, ...]:
        """Those that are detectably better than the baseline, the largest difference first."""
        sign = 1 if self.wish.more else -1
        found = [d for d in self.differences if d.detectable and sign * d.mean > 0]
        return tuple(sorted(found, key=lambda d: -abs(d.mean)))

    @property
    def worse(self) -> tuple[Difference, ...]:
        """Those that are detectably worse."""
        found = (d for d in self.differences if d.detectable and d not in self.better)
        return tuple(sorted(found, key=lambda d: -abs(d.mean)))

    @property
    def use(self) -> str:
        """The advice: plain softmax is a legal one."""
        if not self.better:
            return f"plain {self.baseline}"
        first = self.better[0]
        measure = self.wish.measure  # "error_0.1" is an error, too
        unit = UNITS.get(measure) or UNITS.get(measure.partition("_")[0], "")
        least = min(abs(first.low), abs(first.high))
        return f"{first.first}: at least {least:.2g} {'points' if unit == '%' else unit}".rstrip()

    def __str__(self):
        said = [f"use {self.use}"]
        for word, found in (("better", self.better), ("worse", self.worse)):
            said += [f"{word} than {self.baseline}: {', '.join(d.first for d in found) or 'none'}"]
        return "\n".join(said)


def advise(record: Record, wish: Wish, baseline: str = "softmax") -> Advice:
    """Compare every method with the baseline, as one wish wants it.

    Args:
        record: :func:`side_by_side.gathered`, of one scale.
        wish: one of :data:`WISHES`, or your own.
        baseline: the method to beat.

    Returns:
        Paired differences with intervals that are widened (Bonferroni), so that all those of the
        wish hold together with a chance of 95 % at least.

    Raises:
        ValueError: where the record has not two finished runs of the baseline in the regime.
    """
    part = record.select(regime=wish.regime)
    lasting = {
        name: len(part.select(method=name).values(wish.measure)) > 1
        for name in sorted_values(run.config["method"] for run in part.runs)
    }
    if not lasting.get(baseline):
        raise ValueError(f"{baseline!r} has not finished twice in the regime {wish.regime!r}")
    # What diverged is no candidate, but it was tried: it counts in the widening.
    others = [name for name in lasting if name != baseline]
    share = 1 - 0.05 / max(1, len(others))
    return Advice(
        wish,
        baseline,
        tuple(
            part.paired(name, baseline, wish.measure, share=share)
            for name in others
            if lasting[name]
        ),
    )


def guide(record: Record, wishes: Mapping[str, Wish] = WISHES, shown: int = 3) -> Table:
    """One row a wish: what is better than the softmax loss, than label smoothing, and the advice.

    A method is advised where it is detectably better than the softmax loss: of several the one
    with the largest mean difference.  Else plain softmax is.
    """
    rows = []
    for name, wish in wishes.items():
        softmax, smoothing = advise(record, wish), advise(record, wish, "smoothing")
        rows.append((name, briefly(softmax, shown), briefly(smoothing, shown), softmax.use))
    title = ("wish", "better than softmax", "better than smoothing", "use")
    note = "better: by intervals that hold for all comparisons of a cell together"
    return Table(title, tuple(rows), note)


def briefly(advice: Advice, shown: int) -> str:
    """The first few of those that are better, and how many more."""
    names = [d.first for d in advice.better]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more if names else "none"


# --- How much of a difference survives ----------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How far methods differ in truth (``methods``), and one method from seed to seed (``luck``).

    Both are standard deviations, in the unit of what was measured.
    """

    methods: float
    luck: float

    def survives(self, seeds: int) -> float:
        """The share of a difference seen in so many seeds that other seeds may expect."""
        truth, chance = self.methods**2, self.luck**2 / seeds
        return truth / (truth + chance) if truth else 0.0


def spread(values: Float[Tensor, "seeds methods"]) -> Spread:
    """Part what methods differ by from what seeds do.

    Two seeds share the methods and not the luck, so the covariance of two rows, over the methods,
    is the variance of the truth; that of a row with itself has the luck on top.

    Raises:
        ValueError: for fewer than two seeds or methods.

    >>> truth = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> luck = torch.tensor([[0.1, -0.1, -0.1, 0.1], [-0.1, 0.1, 0.1, -0.1]])
    >>> found = spread(truth + luck)
    >>> round(found.survives(1), 3), round(found.survives(2), 3)
    (0.984, 0.992)
    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(
            f"expected one row for each of two seeds or more, one column for each of two methods "
            f"or more; got {tuple(values.shape)}"
        )
    both = torch.cov(values.double())
    own = both.diagonal().mean().item()
    n = len(both)
    shared = (both.sum().item() - n * own) / (n * (n - 1))
    shared = max(0.0, min(shared, own))
    return Spread(math.sqrt(shared), math.sqrt(own - shared))


def best_of(count: int) -> float:
    """The expected largest of so many independent standard normal numbers.

    >>> [round(best_of(k), 3) for k in (1, 2, 25)]
    [0.0, 0.564, 1.965]
    """
    from scipy.integrate import quad
    from scipy.stats import norm

    if count < 1:
        raise ValueError(f"expected one number or more to choose from; got {count}")

    def weighed(x: float) -> float:
        return x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1)

    return quad(weighed, -12, 12, epsabs=1e-12)[0]


def in_the_race(record: Record, regime: str, scale: str = "desk") -> tuple[str, ...]:
    """The methods whose best trial comes within :data:`CLOSE` points of the softmax loss's.

    Args:
        record: of :mod:`studies.trials`.  Validation images alone are looked at.
        regime: its plain name, such as ``"few"``.
        scale: the study's.
    """
    won = trials.chosen(scale, record)
    runs = {(run.config["method"], run.config["regime"]): run for run in record.runs}
    best = {
        family: last_error(runs[won[family, regime]])
        for family in FAMILIES
        if (family, regime) in won
    }
    return tuple(name for name, error in best.items() if error <= best["softmax"] + CLOSE)


def by_seed(
    record: Record,
    regime: str,
    methods: Sequence[str],
    measure: str = "error",
    split: str = "test",
) -> Float[Tensor, "seeds methods"]:
    """One row a seed, one column a method; a seed in which one of them diverged is left out.

    Args:
        record: :func:`side_by_side.gathered`, of one scale.
        regime: one of its regimes.
        methods: the columns.
        measure: which measure.
        split: ``"test"``, or ``"validation"`` for that after the last epoch.
    """
    columns = []
    for method in methods:
        part = record.select(regime=regime, method=method)
        finished = (run.seed for run in part.runs if run.ended == FINISHED)
        columns.append(dict(zip(finished, part.values(measure, split), strict=True)))
    seeds = sorted(set.intersection(*map(set, columns)))
    rows = [[column[seed] for column in columns] for seed in seeds]
    return torch.tensor(rows, dtype=torch.float64)


# --- Starting values ----------------------------------------------------------------------------


def landscape(record: Record, family: str, regime: str, scale: str = "desk") -> dict[str, float]:
    """Of each of a method's values: the lowest validation error, over the learning rates.

    The values are those of its own parameter; of a method without one, the weight decays.
    """
    found: dict[str, float] = {}
    for run in record.select(scale=scale).runs:
        method, where = run.config["method"], run.config["regime"]
        if family_of(method) != family or plain_name(where) != regime:
            continue
        value = value_of(method) or f"decay {where.split('/')[2]}"
        error = last_error(run) if run.test else math.inf
        found[value] = min(error, found.get(value, math.inf))
    return found


def value_of(method: str) -> str:
    """What a candidate was given of its own parameter, empty where it has none: ``"margin 2"``.

    >>> value_of("l-softmax/1"), value_of("softmax")
    ('margin 2', '')
    """
    given = [c.keywords for c in CANDIDATES[family_of(method)] if hasattr(c, "keywords")]
    if len(given) < 2:
        return ""
    mine = given[int(method.partition("/")[2]) - 1]
    (name,) = (key for key in mine if any(other[key] != mine[key] for other in given))
    return f"{name} {mine[name]}"


def starting_values(record: Record, scale: str = "desk") -> Table:
    """One row a method: in each regime the best value, and how far the values lie apart.

    A regime in which no value brought the method into the race says nothing about its values.
    Of the others: the value to start with is the one whose error exceeds the best value's by the
    least, in the regime where it exceeds it most.
    """
    regimes = list(trials.BASES[scale])
    to_beat = {
        regime: min(landscape(record, "softmax", regime, scale).values()) for regime in regimes
    }
    rows = []
    for family in FAMILIES:
        lands = {regime: landscape(record, family, regime, scale) for regime in regimes}
        ran = {r: land for r, land in lands.items() if min(land.values()) <= to_beat[r] + CLOSE}
        values = list(lands[regimes[0]])
        cells = [best_value(lands[regime]) if regime in ran else "-" for regime in regimes]
        excess = {
            value: max((land[value] - min(land.values()) for land in ran.values()), default=0.0)
            for value in values
        }
        start = min(excess, key=excess.get)
        last = (start.partition(" ")[2], f"{excess[start]:.1f}") if ran else ("-", "-")
        rows.append((family, values[0].partition(" ")[0], *cells, *last))
    title = ("method", "parameter", *regimes, "start with", "errs more by")
    note = "best value (and by how many points the worst one errs more); validation images, n = 1"
    return Table(title, tuple(rows), note)


def best_value(land: Mapping[str, float]) -> str:
    """The value with the lowest error, and the way from it to the highest."""
    best = min(land, key=land.get)
    return f"{best.partition(' ')[2]} ({max(land.values()) - land[best]:.1f})"
