"""The process group: joins it, and offers the few reductions that everything else needs.

Device-specific choices of the trainer live here, those of an engine in its own file.

Every method of `World` that communicates is a collective: all ranks must call it, in the same order
as their other collectives, and each waits until all have called it. A rank that does not call hangs
the others until `run.hang_s` is over. With one rank, nothing is sent.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from drpo_cli.processes import cores

V = TypeVar("V")

# glibc gives large blocks back to the system when they are freed. The next block then costs a page
# fault per 4 KiB, which takes longer than most operations on it on a CPU. On a GPU nothing large is
# in main memory for long.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
# On a GPU, segments that grow leave fewer free blocks that are too small to use. vLLM's pool for
# sleeping cannot be made of them (github.com/pytorch/pytorch/issues/147851): vLLM turns them off
# around the pool, but not while it captures graphs into it.
EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
# The names under which torch reads settings of its allocator.
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run.

    `mesh` has the ranks that share one copy of the weights as its last dimension; a dimension
    before it counts the copies, where there are several.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def in_shards(self, shard: int) -> World:
        """The same ranks, of which each `shard` neighbours share one copy of the weights.

        Consumes: a divisor of the number of ranks, the same on every rank.
        Waits for: all ranks, if there will be several copies: they make process groups.
        Produces: a world whose mesh is copies × shards.
        """
        if shard == self.size:
            return self
        names = ("replicate", "shard")
        sizes = (self.size // shard, shard)
        return replace(self, mesh=init_device_mesh(self.device.type, sizes, mesh_dim_names=names))

    @property
    def shards(self) -> int:
        """How many ranks share one copy of the weights."""
        return self.mesh.size(self.mesh.ndim - 1)

    @property
    def shard(self) -> int:
        """This rank's place among those that share its copy of the weights."""
        return self.mesh.get_local_rank(self.mesh.ndim - 1)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums each value over all ranks, in float64.

        Consumes: equally many values on each rank.
        Waits for: the values of all ranks.
        Produces: the same sums on every rank.
        """
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Takes each value's maximum over all ranks, in float64.

        Consumes: equally many values on each rank.
        Waits for: the values of all ranks.
        Produces: the same maxima on every rank.
        """
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, values_T: Tensor) -> Tensor:
        """Concatenates one-dimensional tensors.

        Consumes: one tensor per rank; lengths may differ and may be 0.
        Waits for: the tensors of all ranks.
        Produces: on every rank the same detached tensor on the CPU, in rank order.
        """
        values_T = values_T.detach().cpu()
        if self.size == 1:
            return values_T
        parts: list[Tensor | None] = [None] * self.size
        dist.all_gather_object(parts, values_T)
        return torch.cat([part for part in parts if part is not None])

    def gather_objects(self, value: V) -> list[V]:
        """Collects a value of each rank.

        Consumes: one picklable value per rank.
        Waits for: the values of all ranks.
        Produces: on every rank all values, in rank order.
        """
        if self.size == 1:
            return [value]
        values: list[V] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def exchange(self, values_R: Sequence[V]) -> list[V]:
        """Sends each rank a value of its own.

        Consumes: one picklable value for each rank, in rank order.
        Waits for: the values that all ranks send here.
        Produces: the value from each rank, in rank order.
        """
        if self.size == 1:
            return list(values_R)
        sent = [torch.frombuffer(bytearray(pickle.dumps(v)), dtype=torch.uint8) for v in values_R]
        sizes = torch.tensor([len(part) for part in sent])
        coming = torch.empty_like(sizes)
        dist.all_to_all_single(coming, sizes)
        received = torch.empty(int(coming.sum()), dtype=torch.uint8)
        dist.all_to_all_single(received, torch.cat(sent), coming.tolist(), sizes.tolist())
        return [pickle.loads(part.numpy().tobytes()) for part in received.split(coming.tolist())]

    def gather_rows(self, shards: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Assembles whole tensors from the rows that the ranks of one copy hold.

        Consumes: this rank's shard of each tensor, cut as FSDP cuts them, all of one dtype; the
            whole shapes, the same on every rank.
        Waits for: the shards of the ranks that share this copy of the weights.
        Produces: on every rank all whole tensors. A single tensor needs no memory beyond its own.
        """
        count = self.shards
        if count == 1:
            return list(shards)
        sizes_RS = [[_count_numbers(s, shard, count) for s in shapes] for shard in range(count)]
        everyone = shards[0].new_empty(sum(shape.numel() for shape in shapes))
        parts_R = torch.split(everyone, [sum(sizes_S) for sizes_S in sizes_RS])
        own = torch.split(parts_R[self.shard], sizes_RS[self.shard])
        for place, shard in zip(own, shards, strict=True):
            place.copy_(shard.reshape(-1))
        # gloo's own all-gather makes two more copies and takes three times as long
        group = self.mesh.get_group(self.mesh.ndim - 1)
        transfers = [
            dist.broadcast(part, group=group, group_src=source, async_op=True)
            for source, part in enumerate(parts_R)
        ]
        for transfer in transfers:
            transfer.wait()
        if len(shapes) == 1:
            return [everyone.view(shapes[0])]
        pieces_RS = [
            torch.split(part, sizes) for part, sizes in zip(parts_R, sizes_RS, strict=True)
        ]
        return [
            torch.cat(pieces_R).view(shape)
            for pieces_R, shape in zip(zip(*pieces_RS, strict=True), shapes, strict=True)
        ]

    def barrier(self) -> None:
        """Waits until every rank has called it. Consumes and produces nothing."""
        dist.barrier()

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op)
        return tensor.tolist()


def _count_numbers(shape: torch.Size, rank: int, size: int) -> int:
    """How many numbers a rank holds of a tensor that FSDP cuts into blocks of equally many rows."""
    most = -(-shape[0] // size)
    return max(0, min(most, shape[0] - rank * most)) * shape[1:].numel()


def device_type() -> str:
    """The kind of device that a run on this machine uses."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_count() -> int:
    """How many processes this machine can run: one per device; on a CPU, one per core."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return cores()


def device_name() -> str:
    """The vendor's name of the device."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    import platform

    return platform.processor() or platform.machine()


def threads_per_rank(ranks: int) -> int:
    """CPU threads of each of `ranks` processes: OMP_NUM_THREADS, else a fair share of the cores.

    Threads that compete for cores wait for each other busily: on two cores, two processes with two
    threads each are ten times slower than with one each.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores() // ranks)


def environment(threads: int, pool: bool = True) -> dict[str, str]:
    """The environment variables that a process with this many threads needs before it starts.

    `pool`: the engine takes device memory from a pool of its own, as vLLM does to sleep. What the
    user set of an allocator, the C library's or torch's, is not overwritten.
    """
    allocator = KEEP_MEMORY
    if device_type() == "cuda":
        own = any(name in os.environ for name in ALLOCATOR_SETTINGS)
        allocator = {} if pool or own else EXPANDABLE
    memory = {name: value for name, value in allocator.items() if name not in os.environ}
    return {"OMP_NUM_THREADS": str(threads), **memory}


@contextmanager
def join(patience_s: float = 0.0) -> Iterator[World]:
    """Joins the process group that the launcher's environment describes; leaves it at the end.

    patience_s  after so many seconds a launcher ends ranks that hang: collectives wait twice as
                long, and two hours at least

    Consumes: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    Waits for: all ranks of the run to join.
    Produces: this process's `World`. The group is destroyed when the block ends without an error:
        after one, other ranks may be in a collective, and to destroy it would wait for them.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank, kind = int(os.environ["LOCAL_RANK"]), device_type()
    device = torch.device("cuda", local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    timeout = max(timedelta(hours=2), timedelta(seconds=2 * patience_s))
    # That of groups which are made later, of a mesh or of an engine: 10 minutes with NCCL
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(distributed_c10d, name, timeout)
    dist.init_process_group(backend, timeout=timeout)
    yield World(rank, size, device, init_device_mesh(kind, (size,)))
    if dist.is_initialized():  # an in-process engine may have destroyed it
        dist.destroy_process_group()


def full(tensor: Tensor) -> Tensor:
    """A parameter as one whole, detached tensor.

    Consumes: the parameter. When it is sharded, this is a collective.
    Waits for: the shards of the ranks that share this copy of the weights; for a norm, which is
        still to be summed, all ranks.
    Produces: the whole tensor on every rank; for a plain tensor, a view of it.
    """
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a parameter, detached, in the same storage. Not a collective."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def copies(tensor: Tensor) -> tuple[tuple[int, ...], int]:
    """Which shard of a parameter this rank has, and how many ranks have the same one.

    The shard is its place along each cut, the same on all ranks that have it; () if it is whole.
    """
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(tensor, DTensor):
        return (), dist.get_world_size()
    mesh, place, count = tensor.device_mesh, [], 1
    for dim, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            count *= mesh.size(dim)
        else:
            place.append(mesh.get_local_rank(dim))
    return tuple(place), count


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the device on a GPU, of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
