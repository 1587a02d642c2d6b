"""How many images a second the laboratory trains on, beside a plain loop; and where the time goes.

    python benchmarks/throughput.py                                   on the CPU, one thread
    python benchmarks/throughput.py --device cuda --data cifar100 --net cnn13 --workers 8 --compile
    python benchmarks/throughput.py --dry                             keep no record

Three ways to train the same network on the same images, cropped and mirrored, by the same
optimiser, in turns within one run:

- *laboratory*: :func:`marginlib.lab.train.train`'s own epoch, with the images on the device;
- *plain loop*: what a tutorial writes, one image at a time through torchvision's transforms and
  a DataLoader;
- *seeds at once*: several networks of different seeds as one, their weights stacked
  (``torch.func.stack_module_state`` and ``vmap``), each with its own batch.

What is reported is images per second, and the median of the rounds' ratios to the laboratory
with their quartiles.  On a CPU the clock is this process's own time, so that a machine which
others use at the same time slows nothing down.  The record is book/results/throughput.json;
book/tools/benchmarks.py puts it on the page.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from marginlib import LinearHead
from marginlib.lab import data, evidence, nets
from marginlib.lab.data import Data, batches
from marginlib.lab.train import (
    Falling,
    Model,
    Training,
    computes_bfloat16,
    device_named,
    pixels,
    seeded,
    synchronise,
    threads,
)

RECORD = Path(__file__).resolve().parents[1] / "book" / "results" / "throughput.json"
RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-4
Epoch = Callable[[], int]  # trains, and returns how many images it saw


class Whole(nn.Module):
    """A network with its linear classifier."""

    def __init__(self, net: nets.Net, classes: int):
        super().__init__()
        self.net, self.linear = net, nn.Linear(net.features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.linear(self.net(images))


def whole(name: str, images: Data, seed: int, device: torch.device) -> Whole:
    """A fresh network for these images, drawn by ``seed``."""
    with seeded(seed):
        return Whole(nets.build(name, images.channels, images.size), images.classes).to(device)


# --- The laboratory ---------------------------------------------------------------------------


def nothing(*_: Tensor) -> dict[str, float]:
    """Measure nothing: the plain loop does not either."""
    return {}


def laboratory(
    name: str, images: Data, batch: int, device: torch.device, compiled: bool = False
) -> Epoch:
    """An epoch as the studies train it."""
    half = computes_bfloat16(device)
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    here = images.to(device)
    with seeded(0):
        net = nets.build(name, images.channels, images.size).to(device, memory_format=layout)
        head = LinearHead(net.features, images.classes).to(device)
    body = torch.compile(net) if compiled else net
    model = Model(body, head, pixels(here.train_images), half, layout)
    rate = Falling(RATE, RATE)
    trained = Training(model, here, batch, rate, MOMENTUM, DECAY, True, 1, 0, None)

    def epoch() -> int:
        trained.epoch(0, nothing)
        return trained.steps * batch

    return epoch


def shares(name: str, images: Data, batch: int, device: torch.device) -> dict[str, float]:
    """Which share of a step each of its parts takes, waiting for the device after each."""
    here = images.to(device)
    model = whole(name, images, 0, device)
    mean, deviation = pixels(here.train_images)
    optimiser = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    spent = dict.fromkeys(("batch", "forward", "backward", "optimiser"), 0.0)
    last = clock(device)

    def lap(part: str) -> None:
        nonlocal last
        now = clock(device)
        spent[part] += now - last
        last = now

    draw = torch.Generator().manual_seed(0)
    for view, labels in batches(here.train_images, here.train_labels, batch, draw, augment=True):
        view = (view.float() - mean) / deviation
        lap("batch")
        loss = cross_entropy(model(view), labels)
        lap("forward")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        lap("backward")
        optimiser.step()
        lap("optimiser")
    return {part: round(value / sum(spent.values()), 3) for part, value in spent.items()}


# --- A plain loop -----------------------------------------------------------------------------


class OneByOne(Dataset):
    """Images that are cropped, mirrored and scaled one at a time."""

    def __init__(self, images: Data):
        from torchvision.transforms import v2

        mean, deviation = (value.flatten().tolist() for value in pixels(images.train_images))
        self.images = images
        self.change = v2.Compose(
            [
                v2.RandomCrop(images.size, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32),
                v2.Normalize(mean, deviation),
            ]
        )

    def __len__(self):
        return len(self.images.train_images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.change(self.images.train_images[i]), self.images.train_labels[i]


def plain(name: str, images: Data, batch: int, device: torch.device, workers: int = 0) -> Epoch:
    """An epoch as a tutorial writes it."""
    loader = DataLoader(
        OneByOne(images),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    model = whole(name, images, 0, device)
    optimiser = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY)

    def epoch() -> int:
        for view, labels in loader:
            loss = cross_entropy(model(view.to(device)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return len(loader) * batch

    return epoch


# --- Several seeds at once --------------------------------------------------------------------


class Stacked:
    """Networks of several seeds that take their steps together."""

    def __init__(self, models: list[Whole], batch: int, images: Data):
        self.shell = models[0]
        self.weights, _ = stack_module_state(models)
        self.momenta = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.batch, self.images = batch, images
        self.mean, self.deviation = pixels(images.train_images)
        self.draws = [torch.Generator().manual_seed(seed) for seed in range(len(models))]
        self.slopes = torch.func.vmap(torch.func.grad(self.loss))

    def loss(self, weights: dict[str, Tensor], view: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of one network on its own batch."""
        return cross_entropy(functional_call(self.shell, weights, (view,)), labels)

    def orders(self) -> Iterator[tuple]:
        """Each network's own batch, together."""
        here = self.images
        return zip(
            *(
                batches(here.train_images, here.train_labels, self.batch, draw, augment=True)
                for draw in self.draws
            ),
            strict=True,
        )

    @torch.no_grad()
    def step(self, view: Tensor, labels: Tensor) -> None:
        """SGD with momentum and weight decay, as torch.optim.SGD has it."""
        slopes = self.slopes(self.weights, view, labels)
        for name, weight in self.weights.items():
            pull = slopes[name].add_(weight, alpha=DECAY)
            self.momenta[name].mul_(MOMENTUM).add_(pull)
            weight.sub_(self.momenta[name], alpha=RATE)

    def epoch(self) -> int:
        """Train all of them for one epoch."""
        seen = 0
        for together in self.orders():
            views = torch.stack([view for view, _ in together])
            labels = torch.stack([label for _, label in together])
            self.step((views.float() - self.mean) / self.deviation, labels)
            seen += labels.numel()
        return seen


def seeds_at_once(name: str, images: Data, batch: int, device: torch.device, seeds: int) -> Epoch:
    """An epoch of several networks at once."""
    models = [whole(name, images, seed, device) for seed in range(seeds)]
    return Stacked(models, batch, images.to(device)).epoch


# --- All of them ------------------------------------------------------------------------------


def clock(device: torch.device) -> float:
    """Seconds; on a GPU when all that was asked of it is done."""
    synchronise(device)
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def speed(epoch: Epoch, device: torch.device) -> float:
    """Images a second."""
    start = clock(device)
    return epoch() / (clock(device) - start)


def measure(
    images: Data,
    net: str,
    device: torch.device,
    batch: int = 128,
    seeds: int = 4,
    workers: int = 0,
    rounds: int = 5,
    compiled: bool = False,
) -> dict[str, Any]:
    """Train in every way, in turns; return the record."""
    with threads(1 if device.type == "cpu" else None):
        ways = {
            "laboratory": laboratory(net, images, batch, device),
            "plain loop": plain(net, images, batch, device, workers),
            f"{seeds} seeds at once": seeds_at_once(net, images, batch, device, seeds),
        }
        if compiled:
            ways["laboratory, compiled"] = laboratory(net, images, batch, device, compiled=True)
        for epoch in ways.values():
            epoch()  # the first is slower: memory, kernels, compilation
        found: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            order = list(ways) if turn % 2 else list(ways)[::-1]
            for way in order:
                found[way].append(speed(ways[way], device))
        stamp = evidence.stamp(device)
        parts = shares(net, images, batch, device)
    rows = []
    for way, speeds in found.items():
        ratios = [mine / base for mine, base in zip(speeds, found["laboratory"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "case": way,
                "images_per_second": round(statistics.median(speeds)),
                "ratio": round(middle, 3),
                "quartiles": [round(low, 3), round(high, 3)],
            }
        )
    told = {"data": images.source, "net": net, "batch": batch, "workers": workers}
    return stamp | told | {"rounds": rounds, "shares": parts, "rows": rows}


def keep(name: str, record: dict[str, Any], path: Path = RECORD) -> None:
    """Put the record of one setting in the place of the one before."""
    records = json.loads(path.read_text()) if path.exists() else {}
    records[name] = record
    path.write_text(json.dumps(records, indent=1) + "\n")


def main() -> None:
    """Read the command line, measure, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device")
    parser.add_argument("--data", default="pocket", help="as marginlib.lab.data.load takes it")
    parser.add_argument("--net", default="tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=4, help="networks at once")
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop's DataLoader")
    parser.add_argument("--rounds", type=int, default=5, help="2 or more")
    parser.add_argument("--compile", action="store_true", help="the compiled network too")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    asked = parser.parse_args()
    device = device_named(asked.device)
    record = measure(
        data.load(asked.data),
        asked.net,
        device,
        asked.batch,
        asked.seeds,
        asked.workers,
        asked.rounds,
        asked.compile,
    )
    for row in record["rows"]:
        print(f"{row['case']:22} {row['images_per_second']:9,} images/s  {row['ratio']:5.2f}")
    print(record["shares"])
    if not asked.dry:
        keep(f"{device.type} {asked.data} {asked.net}", record)


if __name__ == "__main__":
    main()
