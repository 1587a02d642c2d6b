"""What a loss costs: time and memory of one training step, beside plain cross-entropy.

    python benchmarks/run.py                             on the CPU, float32, one thread
    python benchmarks/run.py --device cuda --autocast bfloat16 --compile
    python benchmarks/run.py --peers                     other libraries too, where installed
    python benchmarks/run.py --only ArcFace --rounds 31 --dry

A step is forward and backward, into the features and every parameter.  Each case runs in turn
with ``nn.Linear`` + ``F.cross_entropy`` on the same batch, in pairs that follow one another, and
what is reported is the median of the pairs' ratios, with their quartiles: a machine that others
use at the same time slows both halves of a pair.  On a CPU the clock is this process's own time,
with one thread.  Memory is the most that tensors hold during a step, over what they held before.

The record is book/results/benchmarks.json; book/tools/benchmarks.py writes the page from it.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import marginlib as ml
from marginlib.lab import evidence
from marginlib.scale.measure import Step, peak, seconds

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "benchmarks.json"
SHAPES = ((256, 512, 1000), (256, 2048, 1000), (128, 512, 10000))
ROUNDS = 11

Recipe = Callable[[int, int], nn.Module]  # of the number of features and of classes


class Plain(nn.Module):
    """What everything is compared with."""

    def __init__(self, in_features: int, num_classes: int, loss: Callable = cross_entropy):
        super().__init__()
        self.linear, self.loss = nn.Linear(in_features, num_classes), loss

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return self.loss(self.linear(features), target)


def of_logits(loss: Callable, **parameters: Any) -> Recipe:
    """A linear head under this loss."""
    return partial(ml.LinearHead, loss=partial(loss, **parameters))


CASES: dict[str, Recipe] = {
    # Losses of logits.
    "softmax": of_logits(ml.softmax_loss),
    "soft margin": of_logits(ml.soft_margin_loss),
    "large margin": of_logits(ml.large_margin_loss),
    "label smoothing": of_logits(ml.label_smoothing_loss),
    "hinge": of_logits(ml.hinge_loss),
    "hard bias": of_logits(ml.hard_bias_loss),
    "dense hinge": of_logits(ml.dense_hinge_loss),
    "sparsemax": of_logits(ml.sparsemax_loss),
    "SigSoftmax": of_logits(ml.sigsoftmax_loss),
    # Angles.
    "L-Softmax": ml.LSoftmaxHead,
    "A-Softmax": ml.ASoftmaxHead,
    "NormFace": ml.NormFaceHead,
    "CosFace": ml.CosFaceHead,
    "ArcFace": ml.ArcFaceHead,
    # Distances.
    "mixture": partial(ml.GaussianHead, likelihood=0.0),
    "mixture, margin and likelihood": partial(ml.GaussianHead, alpha=0.3),
    "mixture, diagonal": partial(ml.GaussianHead, variances="diagonal", likelihood=0.0),
    "center": ml.CenterHead,
    # Groups, ensembles, disturbances.
    "groups (1, 2), kind 1": partial(ml.GroupHead, groups=(1, 2), kind=1),
    "groups (1, 2), kind 2": partial(ml.GroupHead, groups=(1, 2), kind=2),
    "groups (1, 2, 4), kind 1": partial(ml.GroupHead, groups=(1, 2, 4), kind=1),
    "groups (1, 2, 4), kind 2": partial(ml.GroupHead, groups=(1, 2, 4), kind=2),
    "ensemble of 2": partial(ml.EnsembleHead, classifiers=2),
    "ensemble of 5": partial(ml.EnsembleHead, classifiers=5),
    "Virtual Softmax": ml.VirtualSoftmaxHead,
    "Noisy Softmax": ml.NoisySoftmaxHead,
    "adversarial dropout": partial(ml.DropoutHead, adversarial=True),
}


def peers() -> dict[str, Recipe]:
    """The same losses in other libraries, as far as those are installed."""
    found: dict[str, Recipe] = {}
    if importlib.util.find_spec("pytorch_metric_learning"):
        from pytorch_metric_learning import losses

        for name in ("ArcFace", "CosFace", "SphereFace", "LargeMarginSoftmax", "NormalizedSoftmax"):
            loss = getattr(losses, f"{name}Loss")
            found[f"pytorch-metric-learning {name}"] = lambda d, c, loss=loss: loss(c, d)
    if importlib.util.find_spec("timm"):
        from timm.loss import LabelSmoothingCrossEntropy

        found["timm label smoothing"] = partial(Plain, loss=LabelSmoothingCrossEntropy())
    return found


# --- One step ---------------------------------------------------------------------------------


def make_step(
    recipe: Recipe,
    shape: tuple[int, int, int],
    device: torch.device,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> Step:
    """A function that does one step, the same each time."""
    n, d, c = shape
    torch.manual_seed(0)
    features = torch.randn(n, d, device=device, requires_grad=True)
    target = torch.randint(c, (n,), device=device)
    module = recipe(d, c).to(device)
    call = torch.compile(module, fullgraph=True) if compiled else module
    leaves = [features, *module.parameters()]

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        with torch.autocast(device.type, autocast) if autocast else nullcontext():
            loss = call(features, target)
        loss.backward()

    return step


# --- All of them ------------------------------------------------------------------------------


def compare(step: Step, plain: Step, rounds: int, device: torch.device) -> dict[str, Any]:
    """Ratios of time and memory; the order within a pair changes from round to round."""
    bytes_of = {"case": peak(step, device), "plain": peak(plain, device)}
    ratios, milliseconds = [], []
    for i in range(rounds):
        first, second = (step, plain) if i % 2 else (plain, step)
        a, b = seconds(first, device), seconds(second, device)
        ours, theirs = (a, b) if i % 2 else (b, a)
        ratios.append(ours / theirs)
        milliseconds.append(1e3 * theirs)
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "time": round(median, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "memory": round(bytes_of["case"] / bytes_of["plain"], 3),
        "plain_ms": round(statistics.median(milliseconds), 2),
        "plain_mib": round(bytes_of["plain"] / 2**20, 2),
    }


def measure(
    cases: dict[str, Recipe],
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
    rounds: int = ROUNDS,
    device: str = "cpu",
    autocast: str | None = None,
    compiled: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run every case at every shape; return the record of one setting."""
    where = torch.device(device)
    kind = getattr(torch, autocast) if autocast else None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stamp = evidence.stamp(where)
        rows = []
        for shape in shapes:
            plain = make_step(Plain, shape, where, kind, compiled)
            for name, recipe in cases.items():
                step = make_step(recipe, shape, where, kind, compiled)
                row = compare(step, plain, rounds, where)
                rows.append({"case": name, "shape": list(shape), **row})
                say(f"{shape!s:18} {name:32} time {row['time']:5.2f}  memory {row['memory']:5.2f}")
    finally:
        torch.set_num_threads(threads)
    return {**stamp, "rounds": rounds, "rows": rows}


def setting(device: str, autocast: str | None, compiled: bool) -> str:
    """What a record is filed under: "cpu float32 eager"."""
    return f"{device} {autocast or 'float32'} {'compiled' if compiled else 'eager'}"


def keep(name: str, record: dict[str, Any], path: Path = RECORD) -> None:
    """Put the record of one setting in the place of the one before, one line a row."""
    records = json.loads(path.read_text()) if path.exists() else {}
    records[name] = record
    parts = []
    for key, value in records.items():
        head = json.dumps({k: v for k, v in value.items() if k != "rows"})[:-1]
        rows = ",\n".join(json.dumps(row) for row in value["rows"])
        parts.append(f'{json.dumps(key)}: {head}, "rows": [\n{rows}\n]}}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main() -> None:
    """Read the command line, measure, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--autocast", choices=["bfloat16", "float16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of steps, 2 or more")
    parser.add_argument(
        "--only", default="", help="cases whose name contains this; nothing is kept"
    )
    parser.add_argument("--peers", action="store_true", help="other libraries, where installed")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    asked = parser.parse_args()
    cases = CASES | (peers() if asked.peers else {})
    cases = {name: recipe for name, recipe in cases.items() if asked.only in name}
    record = measure(
        cases,
        rounds=asked.rounds,
        device=asked.device,
        autocast=asked.autocast,
        compiled=asked.compile,
    )
    if not asked.dry and not asked.only:
        keep(setting(asked.device, asked.autocast, asked.compile), record)


if __name__ == "__main__":
    main()
