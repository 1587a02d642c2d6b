"""What a loss costs: time and memory of one training step, beside plain cross-entropy.

    python benchmarks/run.py                             on the CPU, float32, one thread
    python benchmarks/run.py --device cuda --autocast bfloat16 --compile
    python benchmarks/run.py --peers                     other libraries too, where installed:
        uv pip install --target peers --no-deps pytorch-metric-learning timm scikit-learn ...
    python benchmarks/run.py --only ArcFace --rounds 101 --dry

A step is forward and backward, into the features and every parameter.  Each case runs in turn
with ``nn.Linear`` + ``F.cross_entropy`` on the same batch, in pairs that follow one another, and
what is reported is the median of the pairs' ratios, with their quartiles: a machine that others
use at the same time slows both halves of a pair.  On a CPU the clock is this process's own time,
with one thread.  Memory is the most that tensors hold during a step, over what they held before.

Beside each stand two counts: the operations in its matrix products, and the bytes that must move,
which are those of features and parameters, read once, and of their gradients, written once.  With
the speed of a large product and of a large copy, measured in the same run, they make a roof
(chapter 13): no step can be faster.

The record is book/results/benchmarks.json; book/tools/benchmarks.py writes the page from it.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import marginlib as ml
from marginlib.lab import evidence
from marginlib.scale.measure import Step, peak, seconds

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "benchmarks.json"
SHAPES = ((256, 512, 1000), (256, 2048, 1000), (128, 512, 10000))
ROUNDS = 31

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


class Fused(nn.Module):
    """torch's linear layer and cross-entropy in one, with its own blocks of examples."""

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return functional.linear_cross_entropy(
            features,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            options=nn.LinearCrossEntropyOptions(),
        )


# Who computes the same, by our name for it.
SAME = {
    "torch linear_cross_entropy": "softmax",
    "torch label smoothing": "label smoothing",
    "torch multi_margin_loss": "dense hinge",
    "timm label smoothing": "label smoothing",
    "pytorch-metric-learning ArcFace": "ArcFace",
    "pytorch-metric-learning CosFace": "CosFace",
    "pytorch-metric-learning SphereFace": "A-Softmax",
    "pytorch-metric-learning LargeMarginSoftmax": "L-Softmax",
    "pytorch-metric-learning NormalizedSoftmax": "NormFace",
}


def peers() -> dict[str, Recipe]:
    """The same losses in torch and in other libraries, as far as those are installed."""
    smooth = partial(cross_entropy, label_smoothing=0.1)
    found: dict[str, Recipe] = {
        "torch label smoothing": partial(Plain, loss=smooth),
        "torch multi_margin_loss": partial(Plain, loss=functional.multi_margin_loss),
    }
    if hasattr(functional, "linear_cross_entropy"):
        found["torch linear_cross_entropy"] = Fused
    if importlib.util.find_spec("pytorch_metric_learning"):
        from pytorch_metric_learning import losses

        for name in ("ArcFace", "CosFace", "SphereFace", "LargeMarginSoftmax", "NormalizedSoftmax"):
            loss = getattr(losses, f"{name}Loss")
            found[f"pytorch-metric-learning {name}"] = lambda d, c, loss=loss: loss(c, d)
    if importlib.util.find_spec("timm"):
        from timm.loss import LabelSmoothingCrossEntropy

        found["timm label smoothing"] = partial(Plain, loss=LabelSmoothingCrossEntropy(0.1))
    return found


def peer_versions(cases: Iterable[str]) -> dict[str, str]:
    """Of the libraries, torch aside, that these cases come from."""
    names = {name.split(" ")[0] for name in cases if name in SAME} - {"torch"}
    return {name: metadata.version(name) for name in sorted(names)}


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

    step.leaves = leaves
    return step


def operations(step: Step) -> int:
    """Multiplications and additions in the matrix products of one step."""
    with FlopCounterMode(display=False) as counted:
        step()
    return counted.get_total_flops()


def least_bytes(leaves: Iterable[Tensor]) -> int:
    """What must cross the bus even if all fits a cache: each leaf once, and its gradient."""
    return sum(2 * leaf.numel() * leaf.itemsize for leaf in leaves)


def limits(device: torch.device, dtype: torch.dtype | None, size: int = 1024) -> dict[str, float]:
    """Operations a second in a product of squares, bytes a second in a copy; the best of five."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.ones(40 * size**2, device=device)
    copy = torch.zeros_like(source)
    quickest = [
        min(seconds(step, device) for _ in range(6))
        for step in (lambda: torch.mm(a, b, out=product), lambda: copy.copy_(source))
    ]
    done = 2 * size**3, 2 * source.numel() * source.itemsize
    operations, moved = (what / taken for what, taken in zip(done, quickest, strict=True))
    return {"operations": round(operations), "bytes": round(moved)}


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
        stamp = evidence.stamp(where) | {"limits": limits(where, kind)}
        if found := peer_versions(cases):
            stamp["peers"] = found
        rows = []
        for shape in shapes:
            plain = make_step(Plain, shape, where, kind, compiled)
            for name, recipe in cases.items():
                step = make_step(recipe, shape, where, kind, compiled)
                row = compare(step, plain, rounds, where)
                # Counted on a step that was not compiled: a compiler's kernels hide their products.
                eager = make_step(recipe, shape, where, kind)
                row["operations"], row["bytes"] = operations(eager), least_bytes(eager.leaves)
                told = {"case": name, "shape": list(shape)}
                rows.append(told | ({"same": SAME[name]} if name in SAME else {}) | row)
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
