"""The time and the memory of one step, for benchmarks: what a clock and an allocator say."""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own remarks

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], Any]


def clock(device: torch.device) -> float:
    """Seconds; on a GPU when all that was asked of it is done, on a CPU of this process alone."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def seconds(step: Step, device: torch.device) -> float:
    """The time of one step."""
    start = clock(device)
    step()
    return clock(device) - start


def peak(step: Step, device: torch.device) -> int:
    """The bytes by which the tensors' memory grows during one step, at the most.

    The step is taken twice, so that what it keeps from one time to the next is there already.
    """
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    # Gradients of the step before may be let go of first: not from zero, but from the least.
    held = least = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            least, most = min(least, held), max(most, held - least)
    return most
