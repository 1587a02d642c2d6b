"""What a run would cost, told before it is made: from the record, or from one step of it.

Where a record holds runs of the same settings, their mean says how long one takes and their
peak how much memory.  Where it holds none, a few images drawn at random take one training step
through the setting's own network, a whole batch where that is quick, and the rest is arithmetic: a
rough guess for a machine that does nothing else.
"""

import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from . import data, evidence, nets
from .studies import Setting
from .train import computes_bfloat16, synchronise, threads

PROBE = 8  # images of the one step
QUICK = 3.0  # seconds: what a whole batch may take to be tried
COPIES = 3  # of the images: as read, as held out, on the device
OPTIMISER = 4  # a weight, its gradient, its momentum, and the step that is added: 4 bytes each


class Shape(NamedTuple):
    """Channels, height and width, classes, training images."""

    channels: int
    size: int
    classes: int
    images: int


class Cost(NamedTuple):
    """Seconds of one run, its memory in MiB, and whether both were measured on whole runs."""

    seconds: float
    memory: float
    measured: bool


# What the sets hold that may not lie on this machine yet.
SHAPES = {
    "pocket": Shape(1, 28, 10, 2500),
    "mnist": Shape(1, 28, 10, 60_000),
    "fashion-mnist": Shape(1, 28, 10, 60_000),
    "cifar10": Shape(3, 32, 10, 50_000),
    "cifar100": Shape(3, 32, 100, 50_000),
    "svhn": Shape(3, 32, 10, 73_257),
    "omniglot": Shape(1, 35, 964, 14_460),
}


def shape_of(setting: Setting) -> Shape | None:
    """What a run of this setting trains on; None for a folder of images that is not there.

    >>> shape_of(Setting("cifar100", "tiny", epochs=1, per_class=100, classes=20))
    Shape(channels=3, size=32, classes=20, images=1800)
    """
    whole = kept_shape(setting.data) or SHAPES.get(setting.data) or folder_shape(setting)
    if whole is None:
        return None
    classes = setting.classes or whole.classes
    images = whole.images * classes // whole.classes
    if setting.per_class:
        images = setting.per_class * classes
    images = round(images * (setting.fraction or 1) * (1 - setting.validation))
    return whole._replace(classes=classes, images=images)


def kept_shape(name: str) -> Shape | None:
    """Count the labels of a set that is kept here under a known name; the images stay closed."""
    kept = data.folder() / f"{name}.npz"
    if name not in SHAPES or not kept.is_file():
        return None
    import numpy as np

    with np.load(kept) as arrays:
        counts = {"classes": len(arrays["label_names"]), "images": len(arrays["train_labels"])}
    return SHAPES[name]._replace(**counts)


def folder_shape(setting: Setting) -> Shape | None:
    """Count the images of a folder without opening them."""
    for place in (Path(setting.data), data.folder() / setting.data):
        if place.is_dir():
            train = place / "train" if (place / "train").is_dir() else place
            labels = [label for label in train.iterdir() if label.is_dir()]
            images = sum(sum(path.is_file() for path in label.rglob("*")) for label in labels)
            return Shape(3, setting.size or 64, len(labels), images)
    return None


def from_record(stem: str, config: dict[str, Any]) -> Cost | None:
    """The mean time and the largest memory of the runs on record under the same settings."""
    kept = evidence.read(evidence.folder() / f"{stem}.json")
    alike = ("scale", "regime", "epochs", "net", "width", "batch", "data")
    same = [
        entry for entry in kept if all(entry["config"].get(key) == config.get(key) for key in alike)
    ]
    if not same:
        return None
    memory = max(entry["peak_memory"] or 0.0 for entry in same)
    return Cost(sum(entry["seconds"] for entry in same) / len(same), memory, True)


def from_one_step(setting: Setting, device: torch.device) -> Cost | None:
    """Guess from a step of a few images, on the device; None where the images are not there."""
    shape = shape_of(setting)
    if shape is None:
        return None
    half = computes_bfloat16(device) if setting.half is None else setting.half
    batch = min(setting.batch, shape.images)
    net = (setting.net, shape.channels, shape.size, shape.classes, setting.width, half, device)
    seconds, saved, weights = one_step(min(PROBE, batch), *net)
    part = batch / min(PROBE, batch)
    if part > 1 and seconds * part < QUICK:
        (seconds, saved, _), part = one_step(batch, *net), 1.0
    held = COPIES * shape.images * shape.channels * shape.size**2 + OPTIMISER * weights
    steps = setting.epochs * max(1, shape.images // batch)
    memory = idle_memory(device) + (held + saved * part) / 2**20
    return Cost(steps * seconds * part, memory, False)


@cache
def one_step(
    count: int,
    net: str,
    channels: int,
    size: int,
    classes: int,
    width: float,
    half: bool,
    device: torch.device,
) -> tuple[float, int, int]:
    """Seconds and saved bytes of a step of ``count`` images, and the bytes of the weights.

    On a CPU the clock is this process's own, whatever else the machine does.
    """
    body = nets.build(net, channels, size, width).to(device)
    head = torch.nn.Linear(body.features, classes).to(device)
    images = torch.randn(count, channels, size, size, device=device)
    labels = torch.zeros(count, dtype=torch.long, device=device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    saved: dict[int, int] = {}

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> None:
        context = torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
        with context:
            loss = cross_entropy(head(body(images)).float(), labels)
        loss.backward()

    with threads(1), torch.random.fork_rng():
        with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            step()  # the first is slower, and is not timed
        synchronise(device)
        began = clock()
        step()
        synchronise(device)
        seconds = clock() - began
    weights = sum(p.numel() * p.element_size() for p in (*body.parameters(), *head.parameters()))
    return seconds, sum(saved.values()), weights


@cache
def idle_memory(device: torch.device) -> float:
    """What a process takes that has no images, in MiB: as much as this one; nothing of a GPU."""
    return 0.0 if device.type == "cuda" else evidence.peak_memory(device) or 0.0


def cost(stem: str, config: dict[str, Any], setting: Setting, device: torch.device) -> Cost | None:
    """From the record where it knows such runs, else from one step; None where neither can."""
    return from_record(stem, config) or from_one_step(setting, device)


def told(costs: list[Cost | None], lacking: str = "images that are not here") -> str:
    """Sum up in words: how many runs, how long, and how much memory at the most.

    ``lacking`` says why of some nothing is known.

    >>> told([Cost(60, 500, True), Cost(120, 700, True)])
    '2 runs to make, about 3.0 minutes and 700 MiB as measured so far'
    >>> told([Cost(7200, 500, False), None])
    '2 runs to make, about 2.0 hours and 500 MiB by a rough guess; 1 of images that are not here'
    """
    known = [c for c in costs if c is not None]
    said = f"{len(costs)} run{'s' * (len(costs) != 1)} to make"
    if known:
        minutes = sum(c.seconds for c in known) / 60
        length = f"{minutes:.1f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
        basis = "as measured so far" if all(c.measured for c in known) else "by a rough guess"
        most = max(c.memory for c in known)  # 0 where the system did not tell
        said += f", about {length}" + (f" and {most:,.0f} MiB" if most else "") + f" {basis}"
    if unknown := len(costs) - len(known):
        said += f"; {unknown} of {lacking}"
    return said
