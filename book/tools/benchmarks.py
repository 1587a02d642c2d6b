"""Write the page of benchmarks from its records.

    python book/tools/benchmarks.py           write book/benchmarks.md
    python book/tools/benchmarks.py --check   write nothing; fail if the page is not up to date

The records, benchmarks.json and throughput.json in book/results, are what ``make benchmarks``
measured.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "% Written by book/tools/benchmarks.py from two records in book/results."
ALL = ((256, 512, 1000), (256, 2048, 1000), (128, 512, 10000))
ANGULAR = ("L-Softmax", "A-Softmax", "NormFace", "CosFace", "ArcFace")


@dataclass(frozen=True)
class Goal:
    """What a group of cases may cost at most, as ratios; None where nothing was asked."""

    name: str
    cases: tuple[str, ...]
    time: float
    memory: float | None = None
    shapes: tuple[tuple[int, int, int], ...] = ALL


GOALS = (
    Goal("softmax and soft margin", ("softmax", "soft margin"), 1.10, 1.0),
    Goal("angular losses", ANGULAR, 1.25, 2.0),
    Goal("mixture, identity covariance", ("mixture",), 1.4),
    Goal(
        "groups (1, 2)",
        ("groups (1, 2), kind 1", "groups (1, 2), kind 2"),
        1.5,
        2.2,
        ((256, 2048, 1000),),
    ),
    Goal(
        "groups (1, 2, 4)",
        ("groups (1, 2, 4), kind 1", "groups (1, 2, 4), kind 2"),
        1.7,
        2.2,
        ((256, 2048, 1000),),
    ),
)


def met(found: float, most: float | None) -> bool:
    """Whether a ratio, to the two decimals that are printed, is within its goal."""
    return most is None or round(found, 2) <= most


def shape_name(shape: list[int] | tuple[int, ...]) -> str:
    """(256, 512, 1000) as the page has it."""
    return " × ".join(f"{size:,}" for size in shape)


def costs(rows: list[dict]) -> str:
    """One line a case: time with its quartiles and memory, at every shape."""
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    found = {(row["case"], tuple(row["shape"])): row for row in rows}
    lines = [
        "| | " + " | ".join(f"{shape_name(s)}: time | memory" for s in shapes) + " |",
        "|---" * (1 + 2 * len(shapes)) + "|",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = [case]
        for shape in shapes:
            row = found[case, shape]
            low, high = row["quartiles"]
            cells += [f"{row['time']:.2f} ({low:.2f} to {high:.2f})", f"{row['memory']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def goals(rows: list[dict]) -> str:
    """One line a goal: the worst case found beside what was allowed."""
    lines = [
        "| | time at most | worst found | memory at most | worst found | met |",
        "|---" * 6 + "|",
    ]
    for goal in GOALS:
        theirs = [
            row for row in rows if row["case"] in goal.cases and tuple(row["shape"]) in goal.shapes
        ]
        time, memory = (max(row[key] for row in theirs) for key in ("time", "memory"))
        good = met(time, goal.time) and met(memory, goal.memory)
        allowed = "not set" if goal.memory is None else f"{goal.memory:.2f}"
        at = "" if goal.shapes == ALL else f" at {shape_name(goal.shapes[0])}"
        lines.append(
            f"| {goal.name}{at} | {goal.time:.2f} | {time:.2f} | {allowed} | {memory:.2f} "
            f"| {'yes' if good else 'no'} |"
        )
    return "\n".join(lines)


def section(name: str, record: dict) -> str:
    """What was measured in one setting."""
    versions = ", ".join(f"{what} {number}" for what, number in record["versions"].items())
    base = {tuple(row["shape"]): row for row in record["rows"]}
    plain = "; ".join(
        f"{row['plain_ms']:.1f} ms and {row['plain_mib']:.1f} MiB at {shape_name(shape)}"
        for shape, row in base.items()
    )
    parts = [
        f"## {name}",
        f"{record['device']}; {versions}; commit {record['commit']}; {record['date'][:10]}; "
        f"{record['rounds']} pairs a cell. The plain step took {plain}.",
    ]
    if name == "cpu float32 eager":
        parts += ["What was aimed at, and the worst cell found:", goals(record["rows"])]
    return "\n\n".join([*parts, costs(record["rows"])])


def trained(name: str, record: dict) -> str:
    """How fast a network was trained, in each way, and where the time went."""
    versions = ", ".join(f"{what} {number}" for what, number in record["versions"].items())
    lines = ["| | images a second | beside the laboratory |", "|---|---|---|"]
    for row in record["rows"]:
        low, high = row["quartiles"]
        beside = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {row['case']} | {row['images_per_second']:,} | {beside} |")
    parts = ", ".join(f"{part} {100 * share:.0f} %" for part, share in record["shares"].items())
    workers = record["workers"]
    return "\n\n".join(
        [
            f"### {name}",
            f"Batches of {record['batch']} from {record['data']}; {record['device']}; {versions}; "
            f"commit {record['commit']}; {record['date'][:10]}; {record['rounds']} rounds. The "
            f"plain loop has {workers or 'no'} worker{'s' * (workers != 1)}.",
            "\n".join(lines),
            f"Where a step's time goes, in the laboratory's float32: {parts}.",
        ]
    )


def throughput(records: dict) -> list[str]:
    """The part of the page about whole trainings; nothing where nothing was measured."""
    if not records:
        return []
    intro = """\
## How fast the laboratory trains

The studies keep their images on the device as bytes, and crop and mirror a batch at a time. Beside
that stands the loop that a tutorial writes: one image at a time through torchvision's transforms
and a DataLoader. And a third way: several networks of different seeds as one, with their weights
stacked and the step mapped over them by `vmap`. All three train the same network on the same images
in turns within one run; images a second count those of all seeds. `python benchmarks/throughput.py`
measures again. A way that is not faster than the laboratory's is not in it."""
    return [intro, *(trained(*item) for item in records.items())]


def page(root: Path = ROOT) -> str:
    """book/benchmarks.md."""
    records, speeds = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for path in (root / f"book/results/{name}.json" for name in ("benchmarks", "throughput"))
    )
    intro = f"""\
{GENERATED}

# What a loss costs

One training step, forward and backward, into the features and every parameter, as a ratio to the
same step with `nn.Linear` and `F.cross_entropy`. A shape is examples × features × classes. Each
loss ran in turn with the plain step, in pairs; time is the median of the pairs' ratios with its
quartiles in brackets, memory the most that tensors held at once. `make benchmarks` measures again
and writes this page. The network below a head is not counted: it usually costs more than all of
this, and the ratios of whole training steps are nearer to 1.

Where a ratio stays above 1, these are the reasons. An angle needs the lengths of the class
vectors and their part in the gradient, and a mixture the lengths of its means: one more reading of
the weight. Groups need the weight's columns in order, a copy, and logits for each group. A mixture
with variances multiplies three times as much. An ensemble of V multiplies V times as much, and
its penalty compares every two classifiers, whatever the batch: for each pair about the work of one
further example per feature. Adversarial dropout looks for the features to drop in a first pass.
The other losses of logits copy the rivals out, as their chapters do."""
    parts = [intro, *(section(*item) for item in records.items()), *throughput(speeds)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Read the command line; write the page, or say that it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    path, text = ROOT / "book/benchmarks.md", page()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    if not check:
        path.write_text(text, encoding="utf-8")
    print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
    raise SystemExit(check)


if __name__ == "__main__":
    main()
