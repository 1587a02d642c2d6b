"""Train a head whose classes are parted among the ranks, and go on where the last run stopped.

    python -m torch.distributed.run --nproc-per-node 4 -m marginlib.scale.launch --classes 100000
    ... --nproc-per-node 8 -m marginlib.scale.launch --classes 10000000 --rate 0.1 --save runs/face

The network is copied to every rank, each brings rows of its own, and the head holds a slice of
the classes: the arrangement to copy for a network of yours, where ``Network`` and ``batch`` are
the places to change.  Before training it prints what one step sends.  With ``--save`` it keeps a
checkpoint every so many steps, and the same command goes on from the last whole one, on any
number of ranks.  A rank that dies or hangs ends the others within ``--timeout`` seconds.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

import marginlib

from .sharded import ShardedHead, Traffic

LOSSES = {
    "softmax": marginlib.softmax_loss,
    "large-margin": marginlib.large_margin_loss,
    "cosface": marginlib.cosface_loss,
    "arcface": marginlib.arcface_loss,
    "mixture": partial(marginlib.gaussian_mixture_loss, alpha=0.1),
}
INPUTS = 64


class Network(nn.Module):
    """From inputs (n, 64) to features (n, d)."""

    def __init__(self, d: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(INPUTS, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features."""
        return self.layers(inputs)


def batch(step: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    """The rows of all ranks in one step, a function of the step alone.

    A class is a point on a curve, and its examples lie around it: no table of classes is needed.
    """
    draw = torch.Generator().manual_seed(step)
    target = torch.randint(classes, (rows,), generator=draw)
    waves = torch.arange(1.0, INPUTS + 1).sqrt()
    noise = torch.randn(rows, INPUTS, generator=draw, dtype=torch.float32)
    inputs = torch.cos(target[:, None] * waves) + 0.1 * noise
    return inputs.to(torch.get_default_dtype()), target


class Training:
    """The network, the head, their optimizer, and how far they have come."""

    def __init__(self, asked: argparse.Namespace, device: torch.device):
        torch.manual_seed(asked.seed)
        self.asked, self.device, self.step = asked, device, 0
        network = Network(asked.features).to(device)
        ids = [device.index] if device.type == "cuda" else None
        self.network = DistributedDataParallel(network, device_ids=ids)
        self.head = ShardedHead(asked.features, asked.classes, LOSSES[asked.loss], rate=asked.rate)
        # Two groups: an optimizer's fused form takes plain tensors or DTensors, not both at once.
        groups = [{"params": list(part.parameters())} for part in (self.network, self.head)]
        self.optimizer = torch.optim.SGD(groups, lr=asked.lr, momentum=0.9)

    def __call__(self) -> float:
        """Take one step; return the loss of the rows of all ranks."""
        inputs, target = batch(self.step, self.asked.rows, self.asked.classes)
        ranks, rank = dist.get_world_size(), dist.get_rank()
        inputs, target = (t.chunk(ranks)[rank].to(self.device) for t in (inputs, target))
        # What a rank draws in a step is the same after a restart.
        torch.manual_seed((self.asked.seed * 2**20 + self.step) * ranks + rank)
        self.optimizer.zero_grad()
        loss = self.head(self.network(inputs), target)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def parts(self) -> nn.ModuleDict:
        """What is saved."""
        return nn.ModuleDict({"network": self.network.module, "head": self.head})


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, the oldest first."""
    # The file that describes the others is written last.
    return sorted(path.parent for path in folder.glob("step-*/.metadata"))


def save(training: Training, folder: Path) -> None:
    """Each rank writes its slices; the two newest checkpoints stay."""
    model, optimizer = get_state_dict(training.parts(), training.optimizer)
    state = {"model": model, "optimizer": optimizer, "step": training.step}
    dcp.save(state, checkpoint_id=folder / f"step-{training.step:08}")
    if dist.get_rank() == 0:
        for old in saved(folder)[:-2]:
            shutil.rmtree(old)


def resume(training: Training, path: Path) -> None:
    """Read a checkpoint, whatever the number of ranks that wrote it."""
    parts = training.parts()
    model, optimizer = get_state_dict(parts, training.optimizer)
    state = {"model": model, "optimizer": optimizer, "step": 0}
    dcp.load(state, checkpoint_id=path)
    set_state_dict(
        parts,
        training.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    training.step = state["step"]


def say(words: str) -> None:
    """Print once, not once for each rank."""
    if dist.get_rank() == 0:
        print(words, flush=True)


def train(training: Training) -> None:
    """Go on from the last checkpoint to the last step."""
    asked = training.asked
    whole = saved(asked.save) if asked.save else []
    if whole:
        resume(training, whole[-1])
        say(f"going on from {whole[-1].name}")
    while training.step < asked.steps:
        first = training.step
        if first == 0:
            with Traffic() as traffic:
                loss = training()
            say(f"one step on {dist.get_world_size()} ranks\n{traffic}")
        else:
            loss = training()
        say(f"step {first} loss {loss:.8f}")
        if asked.save and training.step % asked.every == 0:
            save(training, asked.save)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m torch.distributed.run ... -m marginlib.scale.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=128, help="features of an example")
    parser.add_argument("--rows", type=int, default=256, help="examples in a step, of all ranks")
    parser.add_argument("--loss", choices=sorted(LOSSES), default="arcface")
    parser.add_argument("--rate", type=float, default=1.0, help="share of the classes in a step")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--save", type=Path, help="a folder for checkpoints that all ranks see")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for a rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    asked = parser.parse_args(words)
    ranks = int(os.environ.get("WORLD_SIZE", "0"))
    if ranks == 0:
        parser.error("start it by python -m torch.distributed.run, which says who is which rank")
    if asked.rows % ranks:
        parser.error(f"every rank needs as many rows: {asked.rows} do not part among {ranks}")
    if asked.every < 1:
        parser.error(f"expected 1 step or more between checkpoints; got {asked.every}")
    return asked


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    asked = arguments(words)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.set_default_dtype(getattr(torch, asked.dtype))
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=asked.timeout))
        print(f"rank {dist.get_rank()} is process {os.getpid()}", flush=True)
        train(Training(asked, device))
    except (RuntimeError, dcp.api.CheckpointException) as error:
        # A lost connection and a timeout are RuntimeErrors, on a CPU of no kind of their own; other
        # ones, such as out of memory, pass as they are.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        go_on = "the same command goes on from the last checkpoint"
        sys.exit(
            f"rank {os.environ['RANK']} stops: another rank has died or does not answer; "
            f"{go_on if asked.save else 'there is no checkpoint, see --save'}.\n{error}"
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
