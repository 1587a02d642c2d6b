"""Records: what was run, on what, when, and what came out.

A run is one training; a record is every run of one study, kept in ``book/results/<stem>.json``
with one run on a line.  Nothing is averaged before it is kept, so every table can be made
again from the record alone, and no number in the book is typed by hand.
"""

import hashlib
import html
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .measures import LESS_IS_BETTER, UNITS

PACKAGE = Path(__file__).resolve().parents[1]
FINISHED = "finished"
# What makes two runs the same run, so that a second replaces the first.
IDENTITY = ("method", "scale", "regime")


@dataclass(frozen=True)
class Run:
    """One training: its settings, its seed, what was measured, and where it ran.

    ``measures`` holds ``"train"`` and ``"validation"``, each a dictionary of one list per
    measure with a number per epoch, and ``"test"``, one number per measure, taken once.
    ``ended`` is ``"finished"`` or ``"diverged at epoch k"``; a run that diverged has no test.
    """

    config: dict[str, Any]
    seed: int
    measures: dict[str, dict[str, Any]]
    ended: str
    source: str
    device: str
    versions: dict[str, str]
    commit: str
    seconds: float
    peak_memory: float | None
    date: str

    @property
    def test(self) -> dict[str, float]:
        """The measures on the test images."""
        return self.measures["test"]

    def __str__(self):
        if self.ended != FINISHED:
            return f"seed {self.seed}: {self.ended}"
        told = [name for name in ("error", "nll", "bias") if name in self.test]
        said = ", ".join(f"{name} {self.test[name]:.4g} {UNITS[name]}" for name in told)
        return f"seed {self.seed}: {said} on the test images"


# --- Where and with what ----------------------------------------------------------------------


def stamp(device: torch.device) -> dict[str, Any]:
    """Where a run happens: device, versions, commit and date (UTC)."""
    return {
        "device": device_name(device),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """Name the processor; for a CPU with its threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(models, platform.processor() or platform.machine())
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    """Versions of Python, torch and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "marginlib": metadata.version("marginlib"),
    }


@cache
def commit() -> str:
    """The commit of the code that runs, with ``-dirty`` where a file in use differs from it.

    ``"unknown"`` outside a git checkout, as in an installed wheel.
    """
    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == PACKAGE.name]
    files = sorted({m.__file__ for m in modules if getattr(m, "__file__", None)})
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}-dirty" if git("status", "--porcelain", "--", *files) else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def git(*words: str) -> str:
    """Ask git about the checkout that holds this package."""
    return subprocess.run(
        ["git", *words], cwd=PACKAGE, check=True, capture_output=True, text=True
    ).stdout.strip()


def peak_memory(device: torch.device) -> float | None:
    """Most memory taken so far, in MiB: on the GPU by tensors, on a CPU by the whole process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


# --- Keeping ----------------------------------------------------------------------------------


def folder() -> Path:
    """Where records lie: $MARGINLIB_RESULTS, the checkout's book/results, or the package's copy."""
    if given := os.environ.get("MARGINLIB_RESULTS"):
        return Path(given)
    checkout = PACKAGE.parent / "book" / "results"
    return checkout if (PACKAGE.parent / "pyproject.toml").exists() else PACKAGE / "results"


def plain(value: Any) -> Any:
    """Return ``value`` as JSON will give it back: lists for tuples, six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


SCHEMA = {
    "config": dict,
    "seed": int,
    "measures": dict,
    "ended": str,
    "source": str,
    "device": str,
    "versions": dict,
    "commit": str,
    "seconds": (int, float),
    "peak_memory": (int, float, type(None)),
    "date": str,
}


def check(entry: Mapping[str, Any]) -> None:
    """Raise unless ``entry`` is a whole run.

    Raises:
        ValueError: naming the field that is missing, unknown, empty or of the wrong kind,
            or a measure that is not finite.
    """
    for field, kind in SCHEMA.items():
        if field not in entry:
            raise ValueError(f"a run needs {field!r}; got only {', '.join(entry)}")
        value = entry[field]
        if not isinstance(value, kind) or isinstance(value, bool) or value in ("", {}):
            raise ValueError(f"{field!r} of a run must be a non-empty {kind}; got {value!r}")
    if unknown := sorted(set(entry) - set(SCHEMA)):
        raise ValueError(f"a run has no field {', '.join(unknown)}")
    for key in IDENTITY:
        if key not in entry["config"]:
            raise ValueError(f"the config of a run needs {key!r}; got {', '.join(entry['config'])}")
    if "torch" not in entry["versions"]:
        raise ValueError(f"versions must name torch; got {entry['versions']}")
    datetime.fromisoformat(entry["date"])
    ended, parts = entry["ended"], entry["measures"]
    if set(parts) != {"train", "validation", "test"}:
        raise ValueError(f"measures are of train, validation and test; got {', '.join(parts)}")
    if ended != FINISHED and not ended.startswith("diverged at epoch "):
        raise ValueError(f"a run has finished or diverged at some epoch; got {ended!r}")
    if (ended == FINISHED) != bool(parts["test"]):
        raise ValueError("a run has test measures just when it finished")
    numbers = []
    for value in parts["test"].values():
        numbers += value if isinstance(value, list) else [value]
    for part in ("train", "validation"):
        numbers += [number for per_epoch in parts[part].values() for number in per_epoch]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise ValueError("every measure must be a finite number")


def keep(stem: str, run: Run) -> None:
    """Add ``run`` to the record of ``stem``, at once and whole.

    A run of the same method, scale, regime and seed is replaced.  Several processes may keep
    at the same time: a lock lets one in after the other, and the new file takes the old one's
    place in a single step, so that a kill leaves either the old record or the new one.
    """
    from filelock import FileLock

    entry = plain(asdict(run))
    check(entry)
    path = folder() / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(path)):
        entries = [e for e in read(path) if identity(e) != identity(entry)] + [entry]
        entries.sort(key=lambda e: [str(part) for part in identity(e)])
        lines = ",\n".join(json.dumps(e, separators=(",", ":"), sort_keys=True) for e in entries)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(f'{{"study":{json.dumps(stem)},"runs":[\n{lines}\n]}}\n')
        partial.replace(path)


def lock_of(path: Path, *more: Any) -> Path:
    """The lock file of a record, or of one of its runs, in the folder for temporary files.

    Not beside the record: there it would be committed.
    """
    name = hashlib.sha256("|".join(map(str, (path.resolve(), *more))).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"marginlib-{name}.lock"


@contextmanager
def claimed(stem: str, entry: Mapping[str, Any]) -> Iterator[bool]:
    """Whether this process may make the run: not while another one does.

    Args:
        stem: the study.
        entry: the run's config and seed.

    A process that is killed lets go of what it claimed.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(lock_of(folder() / f"{stem}.json", *identity(entry)))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def keep_arrays(stem: str, about: str, **arrays: Any) -> None:
    """Keep what a picture needs and a table cannot hold: the points of an embedding.

    Args:
        stem: the study; the file is ``<stem>.npz`` beside its record.
        about: one line that says what the arrays are, with seeds, device and date.
        arrays: numpy arrays by name, small: half precision, a thousand points or so.
    """
    import numpy as np

    path = folder() / f"{stem}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    np.savez_compressed(partial, about=np.array(about), **arrays)
    partial.replace(path)


def recall_arrays(stem: str) -> dict[str, Any]:
    """Return what :func:`keep_arrays` kept, with the line ``about`` as text.

    Raises:
        FileNotFoundError: if nothing was kept.
    """
    import numpy as np

    path = folder() / f"{stem}.npz"
    if not path.exists():
        raise FileNotFoundError(f"there are no arrays of {stem!r} in {path.parent.name}/")
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files} | {"about": str(kept["about"])}


def identity(entry: Mapping[str, Any]) -> tuple:
    """What makes an entry the same run as another."""
    return (*(entry["config"].get(key) for key in IDENTITY), entry["seed"])


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a record file, none if there is no such file."""
    return json.loads(path.read_text())["runs"] if path.exists() else []


# --- Recalling --------------------------------------------------------------------------------


def recall(stem: str) -> "Record":
    """Return every kept run of a study.

    Raises:
        FileNotFoundError: if none was kept; the message says how to run it.
    """
    path = folder() / f"{stem}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no record of {stem!r} in {path.parent.name}/; "
            f"python -m marginlib.lab {stem} makes one"
        )
    return Record(stem, tuple(Run(**entry) for entry in read(path)))


@dataclass(frozen=True)
class Record:
    """Some runs of one study."""

    stem: str
    runs: tuple[Run, ...]

    def __len__(self):
        return len(self.runs)

    def __str__(self):
        if not self.runs:
            return f"{self.stem}: no runs"
        devices, sources, torches, commits = (
            sorted({value(run) for run in self.runs})
            for value in (
                lambda run: run.device,
                lambda run: run.source,
                lambda run: run.versions["torch"],
                lambda run: run.commit,
            )
        )
        days = sorted(run.date[:10] for run in self.runs)
        diverged = sum(run.ended != FINISHED for run in self.runs)
        lines = [
            f"{self.stem}: {len(self.runs)} runs"
            + (f", of which {diverged} diverged" if diverged else ""),
            f"data     {'; '.join(sources)}",
            f"device   {'; '.join(devices)}",
            f"torch    {', '.join(torches)}",
            f"code     {', '.join(commits)}",
            f"date     {days[0]}" + (f" to {days[-1]}" if days[-1] != days[0] else ""),
        ]
        return "\n".join(lines)

    def select(self, **wanted: Any) -> "Record":
        """Keep the runs whose config (or seed) has these values.

        A list, tuple or set means "any of these"::

            record.select(scale="desk", method=["softmax", "disagreement-0.3"])
        """
        known = {key for run in self.runs for key in run.config} | {"seed"}
        if self.runs and (unknown := sorted(set(wanted) - known)):
            raise ValueError(
                f"no run has {', '.join(unknown)}; runs have {', '.join(sorted(known))}"
            )

        def fits(run: Run) -> bool:
            for key, value in wanted.items():
                allowed = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
                if of(run, key) not in [plain(v) for v in allowed]:
                    return False
            return True

        return Record(self.stem, tuple(run for run in self.runs if fits(run)))

    def values(self, measure: str = "error", split: str = "test") -> list[float]:
        """One number per finished run: on the test images, or after the last epoch."""
        taken = [run.measures[split][measure] for run in self.runs if run.ended == FINISHED]
        return [value[-1] if isinstance(value, list) else value for value in taken]

    def table(
        self,
        rows: str = "method",
        columns: str | None = None,
        measure: str | Sequence[str] = "error",
        split: str = "test",
        beside: Mapping[str, Mapping[Any, str]] | None = None,
        order: Sequence[Any] | None = None,
    ) -> "Table":
        """Mean, standard deviation over the seeds, and number of runs.

        Args:
            rows: the setting that names the rows.
            columns: the setting that names the columns; without it, one column per measure.
            measure: which measure (several only without ``columns``).
            split: ``"test"``, ``"validation"`` or ``"train"`` (the last two: after the last
                epoch).
            beside: further columns, by their title: one text per row.  For the source's
                own numbers.
            order: the rows to show, in this order; by default all, sorted.
        """
        names = list(order) if order is not None else sorted_values(of(r, rows) for r in self.runs)
        if columns is None:
            measures = [measure] if isinstance(measure, str) else list(measure)
            heads = {with_unit(m): (self, m) for m in measures}
        else:
            columns_seen = sorted_values(of(r, columns) for r in self.runs)
            heads = {str(v): (self.select(**{columns: v}), measure) for v in columns_seen}
        title = [rows, *heads, *(beside or {})]
        body = []
        for name in names:
            cells = [cell(part.select(**{rows: name}), m, split) for part, m in heads.values()]
            body.append([str(name), *cells, *((beside[b]).get(name, "") for b in beside or {})])
        unit = "" if columns is None else f"{with_unit(measure)} by {columns}; "
        where = f"{split} images" if split == "test" else f"{split} images, last epoch"
        note = f"{unit}{where}; mean ± standard deviation over n runs"
        return Table(tuple(title), tuple(map(tuple, body)), note)

    def paired(
        self,
        first: Any,
        second: Any,
        measure: str = "error",
        split: str = "test",
        rows: str = "method",
        share: float = 0.95,
    ) -> "Difference":
        """How much more ``first`` has than ``second``, seed by seed.

        Two runs of one seed share their split, starting weights and order of batches, so
        their difference is freer of chance than either.  The interval is Student's; one that
        is one of k takes the ``share`` 1 - 0.05 / k, and all of them together then hold.

        Raises:
            ValueError: if a seed has two runs of one method (select a scale and a regime
                first), or fewer than two seeds have both.
        """
        sides = []
        for name in (first, second):
            side = {}
            for run in self.select(**{rows: name}).runs:
                if run.seed in side:
                    raise ValueError(
                        f"{name!r} has two runs of seed {run.seed}: select a scale and a regime"
                    )
                if run.ended == FINISHED:
                    value = run.measures[split][measure]
                    side[run.seed] = value[-1] if isinstance(value, list) else value
            sides.append(side)
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if len(seeds) < 2:
            raise ValueError(
                f"{first!r} and {second!r} share {len(seeds)} seed(s); a spread needs two"
            )
        gaps = [sides[0][seed] - sides[1][seed] for seed in seeds]
        return Difference(
            str(first), str(second), measure, *interval(gaps, share), len(gaps), share
        )


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its interval, which holds with the chance ``share``."""

    first: str
    second: str
    measure: str
    mean: float
    low: float
    high: float
    n: int
    share: float = 0.95

    @property
    def detectable(self) -> bool:
        """Whether the interval leaves out zero."""
        return not self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """``"lower"``, ``"higher"`` or ``"no detectable effect"``; for an error, in plain words."""
        if not self.detectable:
            return "no detectable effect"
        if self.measure in LESS_IS_BETTER:
            return "improves" if self.mean < 0 else "worsens"
        return "lower" if self.mean < 0 else "higher"

    def __str__(self):
        unit = "points" if UNITS.get(self.measure) == "%" else UNITS.get(self.measure, "")
        return (
            f"{self.first} - {self.second}: {self.measure} {self.mean:+.2f}{unit and ' '}{unit}, "
            f"{100 * self.share:.3g} % interval {self.low:+.2f} to {self.high:+.2f}, "
            f"n = {self.n}: {self.verdict}"
        )


@dataclass(frozen=True)
class Table:
    """Rows of text that show as a table in a terminal and in a notebook."""

    title: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __str__(self):
        lines = [self.title, *self.rows]
        wide = [max(len(line[i]) for line in lines) for i in range(len(self.title))]
        text = [
            "  ".join(
                item.ljust(w) if i == 0 else item.rjust(w)
                for i, (item, w) in enumerate(zip(line, wide, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([text[0], "-" * len(text[0]), *text[1:], *([self.note] * bool(self.note))])

    __repr__ = __str__

    def _repr_html_(self):
        def line(tag: str, items: Iterable[str]) -> str:
            # A narrow cell breaks before its (n = 5) and nowhere else.
            fixed = (html.escape(i).replace(" ± ", "&nbsp;±&nbsp;") for i in items)
            fixed = (i.replace("n = ", "n&nbsp;=&nbsp;") for i in fixed)
            return "<tr>" + "".join(f"<{tag}>{i}</{tag}>" for i in fixed) + "</tr>"

        body = "\n".join(line("td", row) for row in self.rows)
        caption = f"<caption>{html.escape(self.note)}</caption>" if self.note else ""
        head = line("th", self.title)
        return f"<table>{caption}\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"


def of(run: Run, key: str) -> Any:
    """A setting of a run, or its seed."""
    return run.seed if key == "seed" else run.config.get(key)


def with_unit(measure: str) -> str:
    """The name of a measure with its unit, where it has one of ours."""
    return f"{measure} ({UNITS[measure]})" if measure in UNITS else measure


def sorted_values(values: Iterable[Any]) -> list[Any]:
    """Distinct values: numbers in order, then words in order; None left out."""
    distinct = {v for v in values if v is not None}
    return sorted(
        distinct, key=lambda v: (isinstance(v, str), v if isinstance(v, str) else float(v))
    )


def cell(record: Record, measure: str, split: str) -> str:
    """Mean ± standard deviation (n) of some runs; what failed is said."""
    if not record.runs:
        return "-"
    values = record.values(measure, split)
    n, lost = len(values), len(record.runs) - len(values)
    if n == 0:
        return f"diverged (n = {lost})"
    mean = sum(values) / n
    spread = f" ± {deviation(values):.2f}" if n > 1 else ""
    return f"{mean:.2f}{spread} (n = {n}" + (f", {lost} diverged)" if lost else ")")


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample, with n - 1."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float, float]:
    """Mean of a sample with Student's interval for it: mean, low, high.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    half = float(t.ppf((1 + share) / 2, n - 1)) * deviation(values) / math.sqrt(n)
    return mean, mean - half, mean + half
