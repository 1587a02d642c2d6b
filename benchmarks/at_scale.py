"""How costs grow, and what blocks of classes save: the record of chapter 13.

    python benchmarks/at_scale.py                    all parts, about five minutes on one core
    python benchmarks/at_scale.py --only growth      these rows are measured again
    python benchmarks/at_scale.py --dry --small      a few tiny steps, nothing kept

Five parts.  ``machine``: how many operations a second a large product reaches, and how many bytes a
second a copy.  ``growth``: heads as n, d and c grow one at a time.  ``blocks``: the same losses
plain, by blocks and by torch's own, up to a million classes.  ``kept``: some of these again
in a process that keeps the memory which it once had (glibc's allocator only; elsewhere it changes
nothing).  ``million``: the loss step by step while a head of a million classes trains.

One thread, the clock this process's own; all that is compared ran in turn in one process, and
every round is kept.  The record is book/results/at_scale.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import run
import torch
from torch import nn

import marginlib as ml
from marginlib.lab import evidence
from marginlib.scale.__main__ import Training, ways
from marginlib.scale.chunked import BLOCK
from marginlib.scale.measure import peak, seconds

RECORD = run.RECORD.with_name("at_scale.json")
CPU = torch.device("cpu")
Row = dict[str, Any]

HEADS = {
    "softmax": run.CASES["softmax"],
    "large margin": run.CASES["large margin"],
    "ArcFace": ml.ArcFaceHead,
    "mixture": run.CASES["mixture"],
    "groups (1, 2, 4)": run.CASES["groups (1, 2, 4), kind 2"],
    "ensemble of 2": run.CASES["ensemble of 2"],
}
# One size grows at a time, from and through this point.
CENTRE = {"n": 64, "d": 256, "c": 8000}
GROWTH = {
    "n": (16, 32, 64, 128, 256, 512),
    "d": (32, 64, 128, 256, 512, 1024),
    "c": (1000, 2000, 4000, 8000, 16000, 32000),
}
MANY = (1000, 10_000, 100_000, 1_000_000)
BATCH = {"n": 64, "d": 128}
BLOCKS = (64, 256, 1024, 4096, 16_384, 65_536)
SMALL = {"n": (2, 4), "d": (4, 8), "c": (8, 16)}


def in_turn(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round, the steps one after the other in each."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(round(1e3 * seconds(step, CPU), 3))
    return taken


def machine(small: bool, rounds: int) -> Iterator[Row]:
    """A product of squares, and a copy of more than a cache holds."""
    side, length = (64, 10_000) if small else (1024, 50_000_000)
    a, b, c = (torch.randn(side, side) for _ in range(3))
    long, other = torch.ones(length), torch.zeros(length)
    steps = {"product": lambda: torch.mm(a, b, out=c), "copy": lambda: other.copy_(long)}
    for step in steps.values():
        step()
    done = {"product": {"flops": 2 * side**3}, "copy": {"bytes": 2 * 4 * length}}
    for name, ms in in_turn(steps, rounds).items():
        yield {"part": "machine", "case": name, **done[name], "ms": ms}


def growth(small: bool, rounds: int) -> Iterator[Row]:
    """Every head at every size; the three products alone beside them."""
    sizes, centre = (SMALL, dict.fromkeys("ndc", 4)) if small else (GROWTH, CENTRE)
    for what, values in sizes.items():
        for value in values:
            shape = centre | {what: value}
            n, d, c = shape.values()
            steps = {
                name: run.make_step(head, (n, d, c), CPU)
                for name, head in {"products": Products, **HEADS}.items()
            }
            mib = {name: round(peak(step, CPU) / 2**20, 3) for name, step in steps.items()}
            for name, ms in in_turn(steps, rounds).items():
                row = {"part": "growth", "case": name, "grows": what, **shape}
                yield {**row, "ms": ms, "mib": mib[name]}


class Products(nn.Module):
    """The three products of a training step, and no loss: every logit weighs the same."""

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, in_features))
        self.by_logits = None

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The logits, whose gradient is a table that is there already."""
        logits = features @ self.weight.mT
        if self.by_logits is None:
            self.by_logits = torch.ones_like(logits)
        return _Weigh.apply(logits, self.by_logits)


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, by_logits):
        ctx.save_for_backward(by_logits)
        return logits[0, 0].clone()

    @staticmethod
    def backward(ctx, by):
        return ctx.saved_tensors[0], None


def blocks(small: bool, rounds: int) -> Iterator[Row]:
    """Forward, backward and one step of descent; then the block's size alone."""
    many, sizes = ((8, 16), (4, 8)) if small else (MANY, BLOCKS)
    n, d = (2, 2) if small else BATCH.values()
    for c in many:
        yield from compared(ways(BLOCK), n, d, c, min(rounds, 3) if c == MANY[-1] else rounds)
    c = many[-2]
    found = {f"softmax, blocks of {size}": ways(size)["softmax, by blocks"] for size in sizes}
    yield from compared(found, n, d, c, rounds)


def compared(losses: dict[str, Callable], n: int, d: int, c: int, rounds: int) -> Iterator[Row]:
    """One weight for all of them, trained a little by each in turn."""
    training = Training(None, n, d, c, CPU)

    def step(loss: Callable) -> torch.Tensor:
        training.loss = loss
        return training()

    steps = {name: partial(step, loss) for name, loss in losses.items()}
    mib = {name: round(peak(one, CPU) / 2**20, 3) for name, one in steps.items()}
    for name, ms in in_turn(steps, rounds).items():
        yield {"part": "blocks", "case": name, "n": n, "d": d, "c": c, "ms": ms, "mib": mib[name]}


def again(small: bool, rounds: int) -> Iterator[Row]:
    """The ensemble and softmax by blocks at the sizes where tables are large."""
    for c in SMALL["c"] if small else GROWTH["c"][-2:]:
        shape = (dict.fromkeys("ndc", 4) if small else CENTRE) | {"c": c}
        step = run.make_step(HEADS["ensemble of 2"], tuple(shape.values()), CPU)
        row = {"case": "ensemble of 2", **shape, "mib": round(peak(step, CPU) / 2**20, 3)}
        yield row | {"ms": in_turn({"": step}, rounds)[""]}
    n, d = (2, 2) if small else BATCH.values()
    both = {name: ways(BLOCK)[name] for name in ("softmax, plain", "softmax, by blocks")}
    for c in (8, 16) if small else MANY[1:]:
        yield from compared(both, n, d, c, rounds)


# A block of memory beyond 32 MB otherwise comes fresh from the system and goes back when freed.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TRIM_THRESHOLD_": str(2**35)}


def kept(small: bool, rounds: int) -> Iterator[Row]:
    """The same in a process whose allocator gives nothing back."""
    lines = [
        "import json, torch, at_scale",
        "torch.set_num_threads(1)",
        f"for row in at_scale.again({small}, {rounds}): print('row', json.dumps(row))",
    ]
    told = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=os.environ | KEPT,
        cwd=Path(__file__).parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    for line in told.splitlines():
        if line.startswith("row "):
            yield {**json.loads(line[4:]), "part": "kept"}


def million(small: bool, rounds: int) -> Iterator[Row]:
    """ArcFace by blocks, the loss before each of ten steps."""
    n, d = (2, 2) if small else BATCH.values()
    c = 16 if small else MANY[-1]
    training = Training(ways(BLOCK)["ArcFace, by blocks"], n, d, c, CPU)
    # The mean over n examples leaves each class a share of 1 / n.
    losses = [round(training(rate=0.1 * n).item(), 4) for _ in range(10)]
    yield {"part": "million", "case": "ArcFace, by blocks", "n": n, "d": d, "c": c, "loss": losses}


PARTS = {
    "machine": machine,
    "growth": growth,
    "blocks": blocks,
    "kept": kept,
    "million": million,
}


def keep(record: dict[str, Any]) -> None:
    """Write the record, one line a row."""
    head = json.dumps({key: value for key, value in record.items() if key != "rows"})[:-1]
    rows = ",\n".join(json.dumps(row) for row in record["rows"])
    RECORD.write_text(f'{head}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")


def main() -> None:
    """Read the command line, measure, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="measure this part, keep the others' rows")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each, 1 or more")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error(f"--rounds must be 1 or more; got {asked.rounds}")
    torch.set_num_threads(1)
    old = json.loads(RECORD.read_text()) if RECORD.exists() and asked.only else {"rows": []}
    stamp = {**evidence.stamp(CPU), "rounds": asked.rounds}
    chosen = [asked.only] if asked.only else list(PARTS)
    rows = [row for row in old["rows"] if row["part"] not in chosen]
    for part in chosen:
        for row in PARTS[part](asked.small, asked.rounds):
            rows.append({**row, "commit": stamp["commit"], "date": stamp["date"]})
            shown = {key: value for key, value in row.items() if key != "part"}
            print(part, shown, flush=True)
    if not asked.dry and not asked.small:
        keep({**stamp, "rows": sorted(rows, key=lambda row: list(PARTS).index(row["part"]))})


if __name__ == "__main__":
    main()
