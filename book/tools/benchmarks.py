"""Write the page of benchmarks from its records.

    python book/tools/benchmarks.py           write book/benchmarks.md
    python book/tools/benchmarks.py --check   write nothing; fail if the page is not up to date

The records, benchmarks.json and throughput.json in book/results, are what ``make benchmarks``
measured.
"""

import argparse
import json
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "% Written by book/tools/benchmarks.py from two records in book/results."
ANGULAR = ("L-Softmax", "A-Softmax", "NormFace", "CosFace", "ArcFace")


@dataclass(frozen=True)
class Goal:
    """What a group of cases may cost at most, as ratios; and the floor, told where it is missed."""

    name: str
    cases: tuple[str, ...]
    time: float
    memory: float
    floor: str


OF_LOGITS = ("softmax", "soft margin", "large margin", "label smoothing", "hinge", "hard bias")
OF_LOGITS += ("dense hinge", "SigSoftmax")
GROUPS = ("groups (1, 2, 4), kind 1", "groups (1, 2, 4), kind 2")
GOALS = (
    Goal(
        "losses of logits",
        OF_LOGITS,
        1.10,
        1.0,
        "At the smallest shape most of the memory is tables of logits, and each of them shows. A "
        "hinge needs the rivals with the target masked, a copy, and a table "
        "for its gradient; SigSoftmax keeps a sigmoid beside the softmax.",
    ),
    Goal(
        "sparsemax",
        ("sparsemax",),
        1.10,
        1.0,
        "It sorts every row. A sort takes some log c readings of it, and keeps where each logit "
        "came from, in eight bytes.",
    ),
    Goal(
        "angular losses",
        ANGULAR,
        1.20,
        1.9,
        "The lengths of the class vectors cost a reading of the weight, forward and backward, and "
        "the targets' angles a few rows of it.",
    ),
    Goal(
        "mixture, identity covariance",
        ("mixture",),
        1.25,
        1.9,
        "Distances are measured from the means' common centre, or digits are lost far from the "
        "origin; so there is a moved copy of the means, and its gradient.",
    ),
    Goal(
        "groups (1, 2, 4)",
        GROUPS,
        1.50,
        1.9,
        "Three products, but seven tables of logits, each with a softmax of its own, and the "
        "weight's columns in order, a copy. The tables do not grow with the features, so the "
        "goal is within reach only where these are many (chapter 13).",
    ),
    *(
        Goal(
            f"ensemble of {v}",
            (f"ensemble of {v}",),
            0.9 * v,
            1.9 * v,
            "The penalty compares every two classifiers, whatever the batch: beside the members' "
            "products it has those of (d, c) and (c, d) matrices, or, where that is less, a (c, c) "
            "Gram matrix for each member. The roof alone is above the goal.",
        )
        for v in (2, 5)
    ),
)


def met(found: float, most: float) -> bool:
    """Whether a ratio, to the two decimals that are printed, is within its goal."""
    return round(found, 2) <= round(most, 2)


def roof(row: dict, limits: dict) -> float:
    """The least time that the counts allow, as a ratio to the plain step's time."""
    least = max(row["operations"] / limits["operations"], row["bytes"] / limits["bytes"])
    return 1e3 * least / row["plain_ms"]


def shape_name(shape: list[int] | tuple[int, ...]) -> str:
    """(256, 512, 1000) as the page has it."""
    return " × ".join(f"{size:,}" for size in shape)


def costs(rows: list[dict], limits: dict | None = None) -> str:
    """One line a case: time with its quartiles, memory and the roof, at every shape."""
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    found = {(row["case"], tuple(row["shape"])): row for row in rows}
    more = " | roof" if limits else ""
    lines = [
        "| | " + " | ".join(f"{shape_name(s)}: time | memory{more}" for s in shapes) + " |",
        "|---" * (1 + (3 if limits else 2) * len(shapes)) + "|",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = [case]
        for shape in shapes:
            row = found[case, shape]
            low, high = row["quartiles"]
            cells += [f"{row['time']:.2f} ({low:.2f} to {high:.2f})", f"{row['memory']:.2f}"]
            cells += [f"{roof(row, limits):.2f}"] if limits else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def goals(rows: list[dict]) -> str:
    """One line a goal: the worst case found beside what was allowed; then why, where missed."""
    lines = [
        "| | time at most | worst found | memory at most | worst found | met |",
        "|---" * 6 + "|",
    ]
    floors = []
    for goal in GOALS:
        theirs = [row for row in rows if row["case"] in goal.cases]
        worst = [max(theirs, key=itemgetter(key)) for key in ("time", "memory")]
        time, memory = worst[0]["time"], worst[1]["memory"]
        good = met(time, goal.time) and met(memory, goal.memory)
        at = [f"{row['case']}, {shape_name(row['shape'])}" for row in worst]
        lines.append(
            f"| {goal.name} | {goal.time:.2f} | {time:.2f} ({at[0]}) | {goal.memory:.2f} "
            f"| {memory:.2f} ({at[1]}) | {'yes' if good else 'no'} |"
        )
        if not good:
            floors.append(f"- *{goal.name}*: {goal.floor}")
    return "\n".join(
        [
            *lines,
            *(["", "Why the goals that are missed are missed:", ""] if floors else []),
            *floors,
        ]
    )


def beside(rows: list[dict]) -> str:
    """Ours over theirs, wherever somebody computes the same; nothing where nobody was measured."""
    found = {(row["case"], tuple(row["shape"])): row for row in rows}
    theirs = {row["case"]: row["same"] for row in rows if "same" in row}
    if not theirs:
        return ""
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    lines = [
        "| theirs | ours | " + " | ".join(f"{shape_name(s)}: time | memory" for s in shapes) + " |",
        "|---" * (2 + 2 * len(shapes)) + "|",
    ]
    slower: dict[str, float] = {}
    for case, ours in theirs.items():
        cells = [case, ours]
        for shape in shapes:
            a, b = found[ours, shape], found[case, shape]
            cells += [f"{a[key] / b[key]:.2f}" for key in ("time", "memory")]
            if a["time"] > b["time"]:
                pair = f"{ours} than {case}"
                slower[pair] = max(slower.get(pair, 0.0), a["time"] / b["time"] - 1)
        lines.append("| " + " | ".join(cells) + " |")
    told = "; ".join(f"{pair}, by {100 * most:.0f} % at most" for pair, most in slower.items())
    verdict = f"Slower at some shape: {told}." if slower else "Ours is the faster everywhere."
    intro = "Ours over theirs, where another library computes the same; below 1 ours costs less."
    return "\n".join([intro, "", *lines, "", verdict])


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
    own = [row for row in record["rows"] if "same" not in row]
    if name == "cpu float32 eager":
        parts += ["What was aimed at, and the worst cell found:", goals(own)]
    if limits := record.get("limits"):
        parts.append(
            f"A large product reached {limits['operations'] / 1e9:.0f} billion operations a "
            f"second, a copy {limits['bytes'] / 1e9:.0f} billion bytes."
        )
    parts += [costs(own, limits), beside(record["rows"])]
    if peers := record.get("peers"):
        parts.append(", ".join(f"{what} {number}" for what, number in peers.items()) + ".")
    return "\n\n".join(filter(None, parts))


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

The roof is the least time that the counts allow, as a ratio to the same plain step: the operations
in its matrix products at the speed of a large product, or the bytes of features, parameters and
their gradients at the speed of a copy, whichever takes longer. What lies between roof and time are
the tables of logits, which pass the memory several times
([chapter 13](../chapters/13_at_scale.ipynb)).

Where a ratio stays above 1, these are the reasons. An angle needs the lengths of the class
vectors and their part in the gradient, and a mixture the lengths of its means: one more reading of
the weight. Groups need the weight's columns in order, a copy, and logits for each group. A mixture
with variances multiplies three times as much. An ensemble of V multiplies V times as much, and
its penalty compares every two classifiers, whatever the batch. Adversarial dropout looks for the
features to drop in a first pass."""
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
