"""Four processes that hold gloo groups of four and of two, and do what a test asks them to.

They are started once for a module: torch is imported once, by the process they are forked from.
"""

import multiprocessing
import os
import traceback
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

RANKS = 4
PATIENCE = 300  # seconds until a rank that does not answer is an error; a busy machine is none
IMPORTED = ["torch", "torch.distributed.tensor", "torch.distributed.fsdp"]
IMPORTED += ["torch.distributed.checkpoint.state_dict", "marginlib.scale.launch", "pytest"]


def forked():
    """How processes are started: from one that has a single thread, which pytest's have not."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


class Ranks:
    """The processes, as seen from the test."""

    def __init__(self, folder):
        os.environ["OMP_NUM_THREADS"] = "1"
        context = forked()
        self.ends = []
        self.processes = []
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, str(folder / "store"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def do(self, function, *given, ranks=RANKS):
        """What ``function(mesh, *given)`` returned on each rank of a mesh of so many."""
        for end in self.ends:
            end.send((function, given, ranks))
        answers = []
        for rank, end in enumerate(self.ends):
            assert end.poll(PATIENCE), f"rank {rank} did not answer in {PATIENCE} s"
            answers.append(end.recv())
        wrong = [answer for done, answer in answers if not done]
        assert not wrong, wrong[0]
        # Two ranks at a time: the second pair does the same once more.
        return [answer for _, answer in answers][:ranks]

    def close(self):
        for end in self.ends:
            end.close()  # which a rank takes for the end
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def serve(rank, store, end):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    # A rank that waits longer for another one is stuck; the test then says so.
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=PATIENCE / 2),
    )
    from torch.distributed.device_mesh import init_device_mesh

    four = init_device_mesh("cpu", (RANKS,))
    pairs = init_device_mesh("cpu", (RANKS // 2, 2), mesh_dim_names=("pair", "class"))
    meshes = {RANKS: four, 2: pairs["class"]}
    while True:
        try:
            function, given, ranks = end.recv()
        except EOFError:
            break
        try:
            end.send((True, function(meshes[ranks], *given)))
        except Exception:
            end.send((False, f"rank {rank}: {traceback.format_exc()}"))
    dist.destroy_process_group()
