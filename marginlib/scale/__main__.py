"""Train heads of more and more classes, plain and by blocks, and print what a step costs.

    python -m marginlib.scale                              a thousand classes to a million
    python -m marginlib.scale --most 100000 --memory 1     stop the plain heads at 1 GiB
    python -m marginlib.scale --device cuda --n 1024

A step is forward, backward and one step of gradient descent.  Its time is the least of several;
its memory the most that tensors hold during it beyond the features and the weight.  What does not
go by blocks and would need more than ``--memory`` is left out from there on; ten times the
classes count for ten times what was measured.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

import marginlib

from . import chunked
from .measure import peak, seconds

FIRST, FACTOR = 1000, 10
MIB = 2**20

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of features, weight and target


def ways(block: int) -> dict[str, Loss]:
    """What is compared; torch's own only where this torch has it."""
    found: dict[str, Loss] = {
        "softmax, plain": lambda x, w, y: marginlib.softmax_loss(x @ w.mT, y).mean(),
        "softmax, by blocks": lambda x, w, y: chunked.softmax_loss(x, w, y, block=block).mean(),
    }
    if hasattr(functional, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        found["softmax, torch's"] = lambda x, w, y: functional.linear_cross_entropy(
            x, w, y, options=options
        )
    return found | {
        "large margin, plain": lambda x, w, y: marginlib.large_margin_loss(x @ w.mT, y).mean(),
        "large margin, by blocks": lambda x, w, y: chunked.large_margin_loss(
            x, w, y, block=block
        ).mean(),
        "ArcFace, plain": lambda x, w, y: marginlib.arcface_loss(x, w, y).mean(),
        "ArcFace, by blocks": lambda x, w, y: chunked.arcface_loss(x, w, y, block=block).mean(),
    }


class Training:
    """One batch and one weight, and a step of gradient descent that changes the weight."""

    def __init__(self, loss: Loss, n: int, d: int, c: int, device: torch.device):
        draw = torch.Generator().manual_seed(0)
        self.loss = loss
        self.features = torch.randn(n, d, generator=draw).to(device).requires_grad_()
        self.weight = (torch.randn(c, d, generator=draw) / d**0.5).to(device).requires_grad_()
        self.target = torch.randint(c, (n,), generator=draw).to(device)

    def __call__(self, rate: float = 1.0) -> Tensor:
        """Take the step; return the loss before it."""
        loss = self.loss(self.features, self.weight, self.target)
        loss.backward()
        with torch.no_grad():
            self.weight.add_(self.weight.grad, alpha=-rate)
        self.features.grad = self.weight.grad = None
        return loss.detach()


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m marginlib.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--most", type=int, default=1_000_000, help="classes to go up to")
    parser.add_argument("--n", type=int, default=64, help="examples in a batch")
    parser.add_argument("--d", type=int, default=128, help="features of an example")
    parser.add_argument("--block", type=int, default=chunked.BLOCK, help="classes in a block")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB for a step of a plain head")
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed")
    parser.add_argument("--steps", type=int, default=5, help="steps of training at the end")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    asked = parser.parse_args(words)
    for name, least in (("most", 2), ("n", 1), ("d", 1), ("block", 1), ("rounds", 1), ("steps", 0)):
        if getattr(asked, name) < least:
            parser.error(f"--{name} must be {least} or more; got {getattr(asked, name)}")
    device = torch.device(asked.device)
    print(f"n = {asked.n}, d = {asked.d}, blocks of {asked.block} classes, {device}, float32")
    print(f"{'classes':>9}  {'':24} {'ms a step':>10} {'MiB':>9} {'loss':>9}")
    before: dict[str, int] = {}
    c = min(FIRST, asked.most)
    while c <= asked.most:
        for name, loss in ways(asked.block).items():
            foreseen = FACTOR * before.get(name, 0)
            if foreseen > asked.memory * 2**30 and "by blocks" not in name:
                print(f"{c:9}  {name:24} would take {foreseen / MIB:.0f} MiB")
                before[name] = foreseen
                continue
            training = Training(loss, asked.n, asked.d, c, device)
            value = training(rate=0.0).item()
            before[name] = peak(training, device)
            fastest = min(seconds(training, device) for _ in range(asked.rounds))
            mib = before[name] / MIB
            print(f"{c:9}  {name:24} {1e3 * fastest:10.1f} {mib:9.1f} {value:9.4f}", flush=True)
        last, c = c, FACTOR * c
    training = Training(ways(asked.block)["ArcFace, by blocks"], asked.n, asked.d, last, device)
    # The mean over n examples leaves each class a share of 1 / n.
    losses = [f"{training(rate=0.1 * asked.n):.4f}" for _ in range(asked.steps)]
    print(f"ArcFace by blocks, {last} classes, step by step: {' '.join(losses)}")


if __name__ == "__main__":
    main()
