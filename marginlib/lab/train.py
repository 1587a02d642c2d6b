"""One function that trains any network under any head and reports a :class:`Run`.

What a run draws at random (order of images, their crops, dropout, the validation split)
follows from its seed alone.  Build the network and the head under :func:`seeded` too, and two
runs of one seed on one CPU thread agree to the last bit.

Each run trains one network.  Several seeds as one, with their weights stacked and the step mapped
over them, are measured by ``benchmarks/throughput.py``; on a CPU they train on fewer images
a second than one after another (book/results/throughput.json), and so are not offered here.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from . import evidence, measures
from .data import Data, batches
from .evidence import Run

EVALUATION_BATCH = 500
# The training measures of an epoch are taken over its last examples, at most this many.
TRAINING_SAMPLE = 10_000

Rate = Callable[[float], float]
Schedule = Callable[[nn.Module, float], None]
# Called with the model and the test images (uint8) and labels.
Examine = Callable[["Model", Tensor, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class Falling:
    """A learning rate that falls evenly in its logarithm, as source 002's (section 4.1).

    >>> rate = Falling(0.1, 0.001)
    >>> [round(rate(t), 4) for t in (0, 0.5, 1)]
    [0.1, 0.01, 0.001]
    """

    first: float
    last: float

    def __call__(self, progress: float) -> float:
        """Rate after the share ``progress`` of the steps."""
        return self.first * (self.last / self.first) ** progress


@dataclass(frozen=True)
class Steps:
    """A learning rate divided by ten at some shares of the steps, as source 001's (4.3).

    >>> rate = Steps(0.1, at=(0.4, 0.7))
    >>> [round(rate(t), 4) for t in (0, 0.4, 1)]
    [0.1, 0.01, 0.001]
    """

    first: float
    at: tuple[float, ...]

    def __call__(self, progress: float) -> float:
        """Rate after the share ``progress`` of the steps."""
        return self.first / 10 ** sum(progress >= place for place in self.at)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw as after ``torch.manual_seed(seed)``, then leave the generators as they were.

    >>> with seeded(0):
    ...     first = torch.rand(1)
    >>> with seeded(0):
    ...     again = torch.rand(1)
    >>> bool(first == again)
    True
    """
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Use ``count`` CPU threads (None: as many as now), then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    net: nn.Module,
    head: nn.Module,
    data: Data,
    *,
    seed: int,
    epochs: int,
    batch: int = 128,
    rate: tuple[float, float] | Rate = (0.1, 1e-4),
    momentum: float = 0.9,
    decay: float = 1e-4,
    augment: bool = False,
    validation: float = 0.1,
    device: torch.device | str | None = None,
    half: bool | None = None,
    compiled: bool = False,
    cpu_threads: int | None = 1,
    measure: measures.Measure = measures.default,
    before_step: Schedule | None = None,
    examine: Examine | None = None,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Run:
    """Train ``net`` and ``head`` in place by SGD with momentum; measure; return the run.

    Args:
        net: maps images (n, c, h, w) to features (n, d), as :func:`nets.build` returns.
        head: ``head(features, target)`` is the loss, ``head.logits(features)`` what is
            measured.
        data: what to train on; pixels are centred and scaled by the training images' mean
            and standard deviation per channel.
        seed: decides everything that is drawn.
        epochs: passes over the training images.
        batch: images per step.
        rate: the learning rate: (first, last) for :class:`Falling`, or a function of the
            share of steps done.
        momentum: of SGD.
        decay: the weight decay, on every parameter.
        augment: pad by 4, crop, mirror (:func:`data.batches`).
        validation: the share of the training images that is held out, class by class.  The
            measures of each epoch are taken on it.  0 keeps none.
        device: by default CUDA where there is one.
        half: whether to compute in bfloat16 where autocast deems it safe; by default on
            the CUDA devices that are made for it.
        compiled: whether ``torch.compile`` takes the network first.  That costs up to a
            minute and pays on long runs; ``benchmarks/throughput.py --compile`` measures it.
        cpu_threads: how many to use; one makes a run repeatable to the last bit.
        measure: a function as in :mod:`marginlib.lab.measures`.
        before_step: called as ``before_step(head, share)`` before each step, with the share
            of the steps that are done: the place for a schedule of the head's own.
        examine: called once at the end as ``examine(model, images, labels)`` with the test
            images; the numbers, or lists of numbers, that it returns join the test measures.
        progress: whether to show a bar.
        config: what else the record should say of this run: method, scale, regime.

    Returns:
        The :class:`Run`.  Its test measures are taken once, after the last epoch.  A loss or
        measure that is not finite ends it as ``"diverged at epoch k"``, without them.
    """
    device = device_named(device) if device is None else torch.device(device)
    half = computes_bfloat16(device) if half is None else half
    layout = torch.channels_last if device.type == "cuda" or half else torch.contiguous_format
    if isinstance(rate, tuple):
        rate = Falling(*rate)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    with threads(cpu_threads), seeded(seed, device):
        stamp = evidence.stamp(device)
        rest = data.held_out(validation, seed) if validation else data
        part, test = rest.to(device), (data.test_images.to(device), data.test_labels.to(device))
        net.to(device, memory_format=layout)
        head.to(device)
        # The compiled network shares its weights and its modes with the one it was made from.
        body = torch.compile(net) if compiled else net
        model = Model(body, head, pixels(part.train_images), half, layout)
        trained = Training(
            model, part, batch, rate, momentum, decay, augment, epochs, seed, before_step
        )
        taken: dict[str, dict[str, Any]] = {"train": {}, "validation": {}, "test": {}}
        ended = evidence.FINISHED
        for epoch in bar(epochs, progress):
            found = {"train": trained.epoch(epoch, measure)}
            if validation:
                found["validation"] = measure(*model.outputs(part.test_images, part.test_labels))
            if not all_finite(found):
                ended = f"diverged at epoch {epoch + 1}"
                break
            for split, values in found.items():
                for name, value in values.items():
                    taken[split].setdefault(name, []).append(value)
        if ended == evidence.FINISHED:
            taken["test"] = measure(*model.outputs(*test))
            if examine is not None:
                taken["test"] |= examine(model, *test)
            if not all_finite(taken):
                taken["test"], ended = {}, f"diverged at epoch {epochs}"
    said = {
        "data": data.name,
        "net": getattr(net, "name", type(net).__name__),
        "epochs": epochs,
        "batch": batch,
        "rate": repr(rate),
        "momentum": momentum,
        "decay": decay,
        "augment": augment,
        "validation": validation,
        "half": half,
        "images": len(rest.train_images),
        "parameters": sum(p.numel() for module in (net, head) for p in module.parameters()),
        "method": getattr(head, "name", type(head).__name__),
        "scale": "none",
        "regime": "plain",
    }
    if compiled:
        said["compiled"] = True
    return Run(
        config=evidence.plain(said | dict(config or {})),
        seed=seed,
        measures=evidence.plain(taken),
        ended=ended,
        source=data.source,
        seconds=time.perf_counter() - begun,
        peak_memory=evidence.peak_memory(device),
        **stamp,
    )


@dataclass(frozen=True)
class Model:
    """A network, its head, and what both need to know of the pixels."""

    net: nn.Module
    head: nn.Module
    pixels: tuple[Tensor, Tensor]
    half: bool
    layout: torch.memory_format

    def features(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Map raw images to features, in float32."""
        mean, deviation = self.pixels
        view = ((images.float() - mean) / deviation).contiguous(memory_format=self.layout)
        context = torch.autocast(images.device.type, torch.bfloat16) if self.half else nullcontext()
        with context:
            return self.net(view).float()

    @torch.no_grad()
    def outputs(
        self, images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels and features of a whole set, without dropout."""
        self.net.eval()
        self.head.eval()
        features = torch.cat([self.features(part) for part in images.split(EVALUATION_BATCH)])
        return self.head.logits(features), labels, features


class Training:
    """The optimiser's side of a run: one call an epoch."""

    def __init__(
        self,
        model: Model,
        data: Data,
        batch: int,
        rate: Rate,
        momentum: float,
        decay: float,
        augment: bool,
        epochs: int,
        seed: int,
        before_step: Schedule | None,
    ):
        self.model, self.data, self.batch, self.augment = model, data, batch, augment
        self.rate, self.before_step = rate, before_step
        parameters = [*model.net.parameters(), *model.head.parameters()]
        self.optimiser = torch.optim.SGD(
            parameters, lr=rate(0.0), momentum=momentum, weight_decay=decay
        )
        self.draw = torch.Generator().manual_seed(seed)
        self.steps = max(1, len(data.train_images) // batch)
        self.last = max(1, epochs * self.steps - 1)

    def epoch(self, epoch: int, measure: measures.Measure) -> dict[str, float]:
        """Train for one epoch; return the measures over its last examples, and its mean loss.

        These are taken in passing: with dropout, with augmentation, while the weights move.
        """
        net, head, data = self.model.net, self.model.head, self.data
        net.train()
        head.train()
        kept = -(-TRAINING_SAMPLE // self.batch)
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        total = torch.zeros((), device=data.train_images.device)
        order = batches(data.train_images, data.train_labels, self.batch, self.draw, self.augment)
        for step, (images, labels) in enumerate(order):
            share = (epoch * self.steps + step) / self.last
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(share)
            if self.before_step is not None:
                self.before_step(head, share)
            features = self.model.features(images)
            loss = head(features, labels)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            # A sum on the device: asking for its value here would wait for the GPU each step.
            total += loss.detach()
            if step >= self.steps - kept:
                with torch.no_grad():
                    seen.append((head.logits(features.detach()), labels, features.detach()))
        mean = (total / self.steps).item()
        columns = [torch.cat(column) for column in zip(*seen, strict=True)]
        return measure(*columns) | {"loss": mean}


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_named(name: str | None) -> torch.device:
    """The device of this name; without one, CUDA where there is one.

    Raises:
        ValueError: for a name that is none, or a device that this machine does not have.

    >>> device_named("cpu")
    device(type='cpu')
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    there = ["cpu", *(["cuda"] if count else []), *(f"cuda:{k}" for k in range(count))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in there:
        raise ValueError(f"there is no device {name!r} here; there are {', '.join(there)}")
    return torch.device(name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has bfloat16 in hardware: from compute capability 8 on, so not a T4."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def pixels(images: UInt8[Tensor, "n c h w"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, shaped to broadcast; a flat channel counts 1."""
    count = images.numel() / images.shape[1]
    # By histogram: exact in float64, and the images are never copied as floats.
    levels = torch.arange(256, dtype=torch.float64, device=images.device)
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    mean = (counts * levels).sum(1) / count
    deviation = ((counts * levels.square()).sum(1) / count - mean.square()).clamp_min(0).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return mean.float()[:, None, None], deviation.float()[:, None, None]


def all_finite(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every measure, of every epoch so far, is a finite number."""
    numbers = [torch.tensor(value) for values in found.values() for value in values.values()]
    return all(bool(number.isfinite().all()) for number in numbers)


def bar(epochs: int, progress: bool) -> Iterator[int]:
    """Count epochs, with a progress bar if wanted."""
    if not progress:
        return iter(range(epochs))
    # tqdm.auto would ask for ipywidgets and warn where they are missing.
    from tqdm import trange

    return iter(trange(epochs, unit="epoch"))
