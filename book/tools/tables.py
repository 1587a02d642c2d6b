"""Write the page of the sources' tables: their numbers beside ours, with a verdict for each.

    python book/tools/tables.py           write book/tables.md
    python book/tools/tables.py --check   write nothing; fail if the page is not up to date

What the sources print stands in ``book/tables.toml``, what we measured in ``book/results``.  A
verdict is computed from the two by the rule of :func:`judge`, which the page states.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from marginlib.lab import evidence
from marginlib.lab.evidence import FINISHED, Record, Run, deviation, interval

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
GENERATED = (
    "% Written by book/tools/tables.py from book/tables.toml and the records in book/results."
)
# In the order of the book: the key in references.bib.
SOURCES = {
    "002": ("Large margin", "kobayashi2019large"),
    "001": ("Ensemble soft margin", "wang2018ensemble"),
    "003": ("Large-margin softmax", "liu2016large"),
    "004": ("Gaussian mixture", "wan2018rethinking"),
    "000": ("Group softmax", "kobayashi2021group"),
}
PRINTED = ("error", "accuracy")
SIDES = ("less", "more", "same")
PARTS = ("whole", "first half", "second half")
REPRODUCED, DIRECTION, NOT, UNTESTED = VERDICTS = (
    "reproduced",
    "direction only",
    "not reproduced",
    "not testable here",
)
# The kinds of "not reproduced".
UNDECIDED, OPPOSITE, ANOTHER = "undecided", "the other way", "another number"
NO_GPU = "the source's protocol needs a GPU, and was not run"
NBSP = "\u00a0"


# --- What the sources print -------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One experiment of a table: a set, a network, and which of our regimes ask the same."""

    name: str
    set: str
    full: str = ""
    desk: tuple[str, ...] = ()
    measure: str = "error"
    only: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One method of a table, the key of ours that answers it, and a printed number a column."""

    label: str
    method: str
    numbers: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """What a figure shows, in words: a comparison of two methods, or of two epochs of one."""

    says: str
    measure: str = ""
    first: str = ""
    second: str = ""
    of: str = ""
    part: str = ""
    side: str = ""
    within: float = 0.0
    full: str = ""
    desk: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Table:
    """One table or figure of a source."""

    name: str
    source: str
    place: str
    title: str
    about: str
    printed: str = "error"
    n: int = 1
    baseline: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def settings(self) -> list[str]:
        """Every "study/regime" that it names."""
        named = (*self.columns, *self.claims)
        every = [place for item in named for place in (item.full, *item.desk)]
        return list(dict.fromkeys(place for place in every if place))


@dataclass(frozen=True)
class Sources:
    """Everything in book/tables.toml."""

    tables: tuple[Table, ...]
    methods: dict[str, dict[str, Any]]
    sets: dict[str, str]


def read(root: Path = ROOT) -> Sources:
    """Read book/tables.toml.

    Raises:
        ValueError: naming the table, for an unknown or missing field, a row with too few or too
            many numbers, a baseline that is no row, or a claim that compares nothing.
    """
    told = tomllib.loads((root / "book/tables.toml").read_text(encoding="utf-8"))
    tables = []
    for name, table in told["tables"].items():
        try:
            tables.append(read_table(name, table))
        except (TypeError, ValueError) as error:
            raise ValueError(f"book/tables.toml, [tables.{name}]: {error}") from None
    return Sources(tuple(tables), told["methods"], told["sets"])


def read_table(name: str, told: dict[str, Any]) -> Table:
    """One table of the file."""

    def made(kind: type, items: Sequence[dict[str, Any]]) -> tuple:
        frozen = ({k: tuple(v) if isinstance(v, list) else v for k, v in i.items()} for i in items)
        return tuple(kind(**item) for item in frozen)

    columns, claims = made(Column, told.get("columns", ())), made(Claim, told.get("claims", ()))
    rows = tuple(Row(label, key, tuple(numbers)) for label, key, *numbers in told.get("rows", ()))
    table = Table(
        name,
        **told
        | {
            "columns": columns,
            "rows": rows,
            "claims": claims,
            "about": " ".join(told["about"].split()),
        },
    )
    if table.source not in SOURCES or table.printed not in PRINTED:
        raise ValueError(f"source {table.source!r} or printed {table.printed!r} is unknown")
    for row in rows:
        if len(row.numbers) != len(columns):
            raise ValueError(
                f"{row.label!r} has {len(row.numbers)} numbers; expected {len(columns)}"
            )
        for text in row.numbers:
            quoted(text)
    if rows and table.baseline not in {row.label for row in rows}:
        raise ValueError(f"the baseline {table.baseline!r} is none of the rows")
    for claim in claims:
        compares = bool(claim.first and claim.second) != bool(claim.of and claim.part in PARTS)
        if not claim.why and not (compares and claim.measure and claim.side in SIDES):
            raise ValueError(f"the claim {claim.says!r} compares nothing")
        if (claim.side == "same") != (claim.within > 0):
            raise ValueError(f"the claim {claim.says!r} needs within just when its side is same")
    return table


def quoted(text: str) -> tuple[float, float | None] | None:
    """A printed number and its deviation; None for what is not printed.

    >>> quoted("19.67±0.48"), quoted("67.26*"), quoted("-")
    ((19.67, 0.48), (67.26, None), None)
    """
    if text == "-":
        return None
    number, _, spread = text.rstrip("*").partition("±")
    return float(number), float(spread) if spread else None


# --- What we measured -------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A mean with its 95 % interval over seeds."""

    mean: float
    low: float
    high: float
    n: int


@cache
def recalled(stem: str) -> Record:
    """The record of a study; an empty one where nothing is kept."""
    try:
        return evidence.recall(stem)
    except FileNotFoundError:
        return Record(stem, ())


def part_of(place: str, scale: str) -> Record:
    """The runs of "study/regime" at a scale."""
    stem, _, regime = place.partition("/")
    runs = recalled(stem).runs
    kept = [r for r in runs if r.config["scale"] == scale and r.config["regime"] == regime]
    return Record(stem, tuple(kept))


def measured(run: Run, measure: str) -> float:
    """A measure on the test images; of a histogram of shares from 0 to 1, its mean.

    ``gap`` is the test error less the training error of the last epoch.
    """
    if measure == "gap":
        return run.test["error"] - run.measures["train"]["error"][-1]
    value = run.test[measure]
    if isinstance(value, list):
        return sum(share * (k + 0.5) for k, share in enumerate(value)) / len(value)
    return value


def change(run: Run, measure: str, part: str) -> float:
    """How much a measure changed in a part of the training.

    On the validation images; where none are held out, on the training images.
    """
    series = (run.measures["validation"] or run.measures["train"])[measure]
    middle = len(series) // 2
    first, last = {"whole": (0, -1), "first half": (0, middle), "second half": (middle, -1)}[part]
    return series[last] - series[first]


def by_seed(record: Record, method: str, measure: str, part: str = "") -> dict[int, float]:
    """A number for each seed of the runs of a method that finished."""
    runs = [r for r in record.runs if r.config["method"] == method and r.ended == FINISHED]
    return {r.seed: change(r, measure, part) if part else measured(r, measure) for r in runs}


def mean_of(values: Sequence[float]) -> Found | None:
    """Mean and interval; None for fewer than two values, which have no spread."""
    return Found(*interval(values), len(values)) if len(values) > 1 else None


def difference(first: dict[int, float], second: dict[int, float]) -> Found | None:
    """The mean paired difference of two methods, over the seeds that both have."""
    return mean_of([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


# --- The verdict ------------------------------------------------------------------------------


def judge(found: Found, theirs: float, scale: str) -> tuple[str, str]:
    """A verdict and its reason, from our interval and the source's difference.

    Not reproduced where the interval holds zero (undecided) or lies on the other side.  On the
    source's side, it is ``reproduced`` only at the source's own protocol and where the interval
    holds the source's difference; else ``direction only``.

    Raises:
        ValueError: for a difference of zero, which has no side.
    """
    if theirs == 0:
        raise ValueError("the source prints no difference: say what it claims as a claim")
    if found.low <= 0 <= found.high:
        return NOT, UNDECIDED
    if (found.mean < 0) != (theirs < 0):
        return NOT, OPPOSITE
    if scale == "full" and found.low <= theirs <= found.high:
        return REPRODUCED, ""
    return DIRECTION, ""


def judge_number(found: Found, theirs: float) -> tuple[str, str]:
    """Of the row that the others are compared with, at the source's own protocol alone."""
    return (REPRODUCED, "") if found.low <= theirs <= found.high else (NOT, ANOTHER)


def judge_claim(found: Found, claim: Claim) -> tuple[str, str]:
    """Of what a figure shows: no number is printed, so the direction is all there is."""
    if claim.side != "same":
        return judge(found, -1.0 if claim.side == "less" else 1.0, "desk")
    if -claim.within <= found.low and found.high <= claim.within:
        return DIRECTION, ""
    apart = found.low > claim.within or found.high < -claim.within
    return NOT, OPPOSITE if apart else UNDECIDED


def theirs(table: Table, row: Row, column: int) -> float | None:
    """The printed difference to the baseline, as one of errors."""
    base = next(r for r in table.rows if r.label == table.baseline)
    here, there = quoted(row.numbers[column]), quoted(base.numbers[column])
    if here is None or there is None:
        return None
    sign = -1 if table.printed == "accuracy" else 1
    return sign * (here[0] - there[0])


def within_its_spread(table: Table, row: Row, column: int) -> bool:
    """Whether the source's own deviations leave its difference undecided: Welch's 95 % interval."""
    from scipy.stats import ttest_ind_from_stats

    base = next(r for r in table.rows if r.label == table.baseline)
    (a, s), (b, d) = quoted(row.numbers[column]), quoted(base.numbers[column])
    if table.n < 2 or not s or not d:
        return False
    test = ttest_ind_from_stats(a, s, table.n, b, d, table.n, equal_var=False)
    return bool(test.pvalue > 0.05)


# --- Lines of the page ------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One judged line: of a row in a regime, or of a claim in one."""

    scale: str
    cells: tuple[str, ...]
    verdict: str
    reason: str = ""

    def __str__(self):
        said = f"{self.verdict} ({self.reason})" if self.reason else self.verdict
        return "| " + " | ".join((*self.cells, said)) + " |"


def names_of(sources: Sources, key: str, stem: str) -> list[str]:
    """What a study may call the method of this key."""
    named = sources.methods.get(key, {}).get(stem, key)
    return named if isinstance(named, list) else [named]


def on_record(sources: Sources, record: Record, key: str) -> str | None:
    """The name under which a record has runs of the method, if any."""
    present = {run.config["method"] for run in record.runs}
    return next((name for name in names_of(sources, key, record.stem) if name in present), None)


def lines(sources: Sources, table: Table, column: int, place: str, scale: str) -> Iterator[Line]:
    """Each row that the regime answers, judged."""
    record, measure = part_of(place, scale), table.columns[column].measure
    only = table.columns[column].only if scale == "desk" else ()
    base = next(row for row in table.rows if row.label == table.baseline)
    base_name = on_record(sources, record, base.method)
    for row in table.rows:
        name = row.method and on_record(sources, record, row.method)
        number = row.numbers[column]
        elsewhere = only and row.label not in (*only, base.label)
        if not name or number == "-" or elsewhere:
            continue
        said = f"{row.label}: `{name}`"
        values = by_seed(record, name, measure)
        ours = told(list(values.values()), measure)
        if row is base:
            whole = mean_of(list(values.values()))
            verdict = ("", "")
            if scale == "full" and whole:
                sign = (100, -1) if table.printed == "accuracy" else (0, 1)
                verdict = judge_number(whole, sign[0] + sign[1] * quoted(number)[0])
            yield Line(scale, (said, unbroken(number), ours, "", ""), *verdict)
            continue
        gap = theirs(table, row, column)
        found = base_name and difference(values, by_seed(record, base_name, measure))
        if gap is None or not found:
            verdict, span = (UNTESTED, "fewer than two pairs of runs"), ""
        else:
            verdict, span = judge(found, gap, scale), spanned(found, measure)
        printed = "" if gap is None else signed(gap, measure)
        if gap is not None and within_its_spread(table, row, column):
            printed += " †"
        yield Line(scale, (said, unbroken(number), ours, printed, span), *verdict)


def claim_lines(claim: Claim) -> Iterator[Line]:
    """A claim in each regime that has runs of it; or one line that says why there is none."""
    places = [(place, "desk") for place in claim.desk]
    places = [(claim.full, "full"), *places] if claim.full else places
    judged = []
    for place, scale in places:
        record = part_of(place, scale)
        if claim.of:
            found = mean_of(list(by_seed(record, claim.of, claim.measure, claim.part).values()))
        else:
            sides = (by_seed(record, name, claim.measure) for name in (claim.first, claim.second))
            found = difference(*sides) if claim.first else None
        if found:
            where = f"`{place}`, {scale}"
            cells = (claim.says, where, spanned(found, claim.measure), str(found.n))
            judged.append(Line(scale, cells, *judge_claim(found, claim)))
    if not judged:
        why = claim.why or "no such runs are on record"
        judged = [Line("full", (claim.says, "", "", ""), UNTESTED, why)]
    yield from judged


def unbroken(number: str) -> str:
    """A printed number that keeps its deviation on its line."""
    return number.replace(" ", NBSP)


def signed(value: float, measure: str) -> str:
    """A difference, to the digits that its measure is given."""
    return f"{value:+.{digits(measure)}f}".replace("-", "−")


def digits(measure: str) -> int:
    """Two decimals for per cent and logits, three for shares."""
    return 2 if measure.startswith("error") or measure in ("gap", "bias") else 3


def spanned(found: Found, measure: str) -> str:
    """A mean with its interval."""
    low, high = signed(found.low, measure), signed(found.high, measure)
    return f"{signed(found.mean, measure)} [{low},{NBSP}{high}]"


def told(values: Sequence[float], measure: str) -> str:
    """Mean ± standard deviation (n), which may break before its (n) and nowhere else."""
    if not values:
        return "diverged"
    mean, places = sum(values) / len(values), digits(measure)
    spread = f"{NBSP}±{NBSP}{deviation(values):.{places}f}" if len(values) > 1 else ""
    return f"{mean:.{places}f}{spread} (n{NBSP}={NBSP}{len(values)})"


def described(place: str, scale: str) -> str:
    """What was trained in a regime, where and when, from its records."""
    record = part_of(place, scale)
    config = record.runs[0].config
    width = f" × {config['width']:g}" if config["width"] != 1 else ""
    said = [
        f"**{place.replace('/', ', ')}** (*{scale}*)",
        f"{config['data']}, `{config['net']}`{width}",
        f"about {min(r.config['images'] for r in record.runs):,} images, {config['epochs']} epochs",
    ]
    classes = config.get("classes")
    said += [f"{classes} classes"] * bool(classes) + ["augmented"] * config["augment"]
    said += [f"wrong labels {100 * config['noise']:g} %"] * bool(config["noise"])
    said += sorted({run.device for run in record.runs})
    days = sorted({run.date[:10] for run in record.runs})
    said.append(days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")
    return " · ".join(said)


def grid(title: Sequence[str], body: Sequence[str]) -> str:
    """A pipe table."""
    return "\n".join(["| " + " | ".join(title) + " |", "|---" * len(title) + "|", *body])


def why_not(sources: Sources, column: Column) -> str:
    """Why the source's own protocol was not run for a column."""
    return column.why or sources.sets.get(column.set, NO_GPU)


def printed_table(sources: Sources, table: Table) -> str:
    """The source's own numbers, with a last row that says what became of each column here."""
    title = ["", *(column.name for column in table.columns)]
    body = [
        "| " + " | ".join((row.label, *map(unbroken, row.numbers))) + " |" for row in table.rows
    ]
    here = [
        "below" if column.full and part_of(column.full, "full").runs else UNTESTED
        for column in table.columns
    ]
    return grid(title, [*body, "| *at the source's own scale* | " + " | ".join(here) + " |"])


def reasons(sources: Sources, table: Table) -> str:
    """Why columns are not testable here, and the command that would test them."""
    parts: dict[str, list[str]] = {}
    for column in table.columns:
        if not (column.full and part_of(column.full, "full").runs):
            parts.setdefault(why_not(sources, column), []).append(column.name)
    said = []
    for why, columns in parts.items():
        whose = "" if len(parts) == 1 else f" ({', '.join(columns)})"
        said.append(f"Not testable here{whose}: {why}.")
    return " ".join(said)


def commands(table: Table) -> str:
    """How to run the source's own protocol."""
    stems: dict[str, list[str]] = {}
    for item in (*table.columns, *table.claims):
        stem, _, regime = item.full.partition("/")
        if item.full and regime not in stems.setdefault(stem, []):
            stems[stem].append(regime)
    calls = [
        f"`python -m marginlib.lab {stem} --scale full --regimes {' '.join(regimes)}`"
        for stem, regimes in stems.items()
    ]
    return f"*Its own protocol:* {', '.join(calls)}" if calls else ""


def chapters(table: Table, root: Path) -> str:
    """Links to the chapters whose studies answer it."""
    stems = list(dict.fromkeys(place.partition("/")[0] for place in table.settings))
    found = [p.stem for s in stems for p in (root / "chapters").glob(f"[0-9][0-9]_{s}.ipynb")]
    links = ", ".join(f"{{doc}}`../chapters/{name}`" for name in sorted(found))
    return f"*In the chapters:* {links}" if links else ""


def judged_lines(sources: Sources, table: Table) -> list[tuple[int, str, str, list[Line]]]:
    """Every (column, place, scale) with runs on record, and its lines."""
    blocks = []
    for index, column in enumerate(table.columns):
        places = [(column.full, "full")] if column.full else []
        for place, scale in [*places, *((desk, "desk") for desk in column.desk)]:
            found = list(lines(sources, table, index, place, scale))
            if any(line.verdict for line in found):
                blocks.append((index, place, scale, found))
    return blocks


def untested(table: Table) -> int:
    """How many printed numbers no run at the source's own scale answers."""
    columns = [
        i for i, c in enumerate(table.columns) if not (c.full and part_of(c.full, "full").runs)
    ]
    return sum(quoted(row.numbers[i]) is not None for row in table.rows for i in columns)


def counts(sources: Sources, table: Table) -> Counter:
    """How often each verdict is given; what is not reproduced, by its reason."""
    judged = [line for *_, found in judged_lines(sources, table) for line in found if line.verdict]
    judged += [line for claim in table.claims for line in claim_lines(claim)]
    tally = Counter(line.reason if line.verdict == NOT else line.verdict for line in judged)
    return tally + Counter({UNTESTED: untested(table)})


def section(sources: Sources, table: Table, root: Path) -> str:
    """One table or figure."""
    unit = {"error": "Errors in per cent", "accuracy": "Accuracies in per cent"}[table.printed]
    runs = f", mean ± standard deviation of {table.n} runs" if table.n > 1 else ""
    head = table.place[0].upper() + table.place[1:]
    parts = [f"(tables-{table.name})=\n### {table.source}, {head}: {table.title}", table.about]
    if table.rows:
        parts += [
            f"{unit}{runs}, as printed:",
            printed_table(sources, table),
            reasons(sources, table),
        ]
    parts += [text for text in (commands(table), chapters(table, root)) if text]
    title = (
        "method",
        "source",
        "ours (%)",
        "source's difference",
        "our difference [95 %]",
        "verdict",
    )
    for index, place, scale, found in judged_lines(sources, table):
        column = table.columns[index]
        parts.append(f"{described(place, scale)}, beside the column {column.name}:")
        parts.append(grid(title, [str(line) for line in found]))
    if table.claims:
        claims = [str(line) for claim in table.claims for line in claim_lines(claim)]
        parts.append(grid(("what it shows", "where", "difference [95 %]", "n", "verdict"), claims))
    return "\n\n".join(part for part in parts if part)


def page(root: Path = ROOT) -> str:
    """book/tables.md."""
    sources = read(root)
    tallies = {table.name: counts(sources, table) for table in sources.tables}
    total = sum(tallies.values(), Counter())
    columns = [REPRODUCED, DIRECTION, UNDECIDED, OPPOSITE, UNTESTED]
    columns += [ANOTHER] * (ANOTHER in total)
    summary = []
    for table in sources.tables:
        cells = (str(tallies[table.name][name] or "") for name in columns)
        link = f"[{table.source}, {table.place.partition(', section')[0]}](tables-{table.name})"
        summary.append(f"| {link} | " + " | ".join(cells) + " |")
    summary.append("| all | " + " | ".join(str(total[name]) for name in columns) + " |")
    parts = [intro(), grid(("", *columns), summary)]
    for source, (name, key) in SOURCES.items():
        parts.append(f"## {name}\n\nThe tables of {{cite:t}}`{key}`, source {source}.")
        theirs = [table for table in sources.tables if table.source == source]
        parts += [section(sources, table, root) for table in theirs]
    return "\n\n".join(parts) + "\n"


def intro() -> str:
    """What the page is, and the rule."""
    return f"""\
{GENERATED}

# The sources' tables

Every table and every figure of the five sources that reports a training, one section each: what
the source prints, what we measured, and whether the one bears out the other. The source's numbers
are quoted. Ours are computed from the records of our runs, and so are the verdicts.

Two kinds of run never share a line. *Full* is the source's own protocol: its network, its images,
its number of steps. It needs a GPU, and often a set of images that cannot be had. *Desk* asks the
same question of a smaller network and fewer, often other, images, so that one processor core can
answer it. A desk does not confirm a number. It can show an effect, and it can fail to.

## The rule

A method is compared with the table's own baseline, mostly the softmax loss. Two of our runs with
one seed share their images, their starting weights and their order. So we take the difference seed
by seed, and Student's 95 % interval for its mean. All differences are of errors, in points: below
zero means fewer mistakes, also where the source prints accuracies. Then

{REPRODUCED}
: the run is *full*, the interval lies on the source's side of zero, and it holds the source's
  difference. For the baseline itself: the 95 % interval of our mean holds the source's number.

{DIRECTION}
: the interval lies on the source's side of zero. At a desk this is the most there is to reach.

{NOT}
: the interval holds zero (*{UNDECIDED}*), or it lies on the other side (*{OPPOSITE}*). Of a
  baseline: the source's number lies outside the interval of our mean (*{ANOTHER}*).

{UNTESTED}
: there are no such runs: the set is not to be had, the protocol needs a GPU, or no study asks it.

A figure prints no numbers. Its claims are put in words, and each is judged by the same interval;
that two things are alike counts as shown where the whole interval lies within the bound that the
words name.

A dagger (†) marks a difference that the source's own deviations leave undecided: Welch's 95 %
interval, from its printed means and deviations, holds zero.

Undecided is not refuted: with three or five seeds only a large effect can be told from chance. And
of a hundred intervals some five miss by chance alone. Read the pattern, not the line.

## All of them

How often each verdict was given. *Undecided* and *the other way* are the two kinds of *not
reproduced*. A number of a source counts as *not testable here* while its own protocol was not run,
whatever a desk says of it."""


def main() -> None:
    """Read the command line; write the page, or say that it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    path, text = ROOT / "book/tables.md", page()
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
    raise SystemExit(1 if check and changed else 0)


if __name__ == "__main__":
    main()
