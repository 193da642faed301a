"""The process group: joining it, and the few reductions everything else needs.

Device-specific choices live here and in `rollout/vllm.py`, nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from drpo_cli.processes import cores

V = TypeVar("V")

# glibc gives large blocks back to the system when they are freed. The next one then costs a page
# fault every 4 KiB, which takes longer than most of what is done with it on a CPU.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run."""

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Each value's maximum over ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, values_T: Tensor) -> Tensor:
        """One-dimensional tensors of any lengths, concatenated in rank order, on the CPU."""
        values_T = values_T.detach().cpu()
        if self.size == 1:
            return values_T
        parts: list[Tensor | None] = [None] * self.size
        dist.all_gather_object(parts, values_T)
        return torch.cat([part for part in parts if part is not None])

    def gather_objects(self, value: V) -> list[V]:
        """Every rank's picklable value, in rank order."""
        if self.size == 1:
            return [value]
        values: list[V] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, shards: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Tensors of these shapes from each rank's rows of them, cut as FSDP cuts them. Collective.

        All have one dtype. A tensor by itself takes no memory but its own.
        """
        if self.size == 1:
            return list(shards)
        sizes_RS = [[_rows(s, rank, self.size) for s in shapes] for rank in range(self.size)]
        everyone = shards[0].new_empty(sum(shape.numel() for shape in shapes))
        parts_R = everyone.split([sum(sizes_S) for sizes_S in sizes_RS])
        own = parts_R[self.rank].split(sizes_RS[self.rank])
        for place, shard in zip(own, shards, strict=True):
            place.copy_(shard.reshape(-1))
        # gloo's own all-gather copies everything twice more, and takes three times as long
        for transfer in [dist.broadcast(p, r, async_op=True) for r, p in enumerate(parts_R)]:
            transfer.wait()
        if len(shapes) == 1:
            return [everyone.view(shapes[0])]
        pieces_RS = [part.split(sizes) for part, sizes in zip(parts_R, sizes_RS, strict=True)]
        return [
            torch.cat(pieces_R).view(shape)
            for pieces_R, shape in zip(zip(*pieces_RS, strict=True), shapes, strict=True)
        ]

    def barrier(self) -> None:
        """Waits for every rank."""
        dist.barrier()

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op)
        return tensor.tolist()


def _rows(shape: torch.Size, rank: int, size: int) -> int:
    """Numbers in a rank's rows of a tensor: equal numbers of rows as far as they go."""
    most = -(-shape[0] // size)
    return max(0, min(most, shape[0] - rank * most)) * shape[1:].numel()


def device_type() -> str:
    """The kind of device a run on this machine uses."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_count() -> int:
    """Processes this machine can run, one a device; on a CPU, one a core."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return cores()


def device_name() -> str:
    """What the vendor calls the device."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    import platform

    return platform.processor() or platform.machine()


def threads_per_rank(ranks: int) -> int:
    """CPU threads of each of `ranks` processes: OMP_NUM_THREADS, else a fair share of the cores.

    Threads that fight over cores wait for each other busily: two processes with two threads each
    on two cores are ten times slower than with one each.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores() // ranks)


def environment(threads: int) -> dict[str, str]:
    """What the environment of a process with so many threads needs before it starts.

    Settings of the C library's allocator that are there already stay as they are.
    """
    memory = {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ}
    return {"OMP_NUM_THREADS": str(threads), **memory}


@contextmanager
def join() -> Iterator[World]:
    """Joins the process group that the launcher's environment describes; leaves it at the end."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank, kind = int(os.environ["LOCAL_RANK"]), device_type()
    device = torch.device("cuda", local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=2))
    try:
        yield World(rank, size, device, init_device_mesh(kind, (size,)))
    finally:
        if dist.is_initialized():  # an in-process engine takes the group down with it
            dist.destroy_process_group()


def full(tensor: Tensor) -> Tensor:
    """A parameter as one whole tensor, gathered from all ranks when it is sharded."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a parameter, sharing its storage."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far, GiB: of the device on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
