"""Tensor parallelism: what a vLLM engine over several of our ranks needs of each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def find_sharers(tensor_parallel: int, ranks: int) -> ProcessGroup | None:
    """The process group, on CPUs, of the ranks that share this one's engine; None if it is alone.

    vLLM makes an engine of each `tensor_parallel` neighbouring ranks of the process group. With one
    rank, as in `drpo eval`, it starts the processes for the other devices itself.
    """
    if tensor_parallel == 1 or ranks == 1:
        return None
    from vllm.distributed import get_tp_group

    group: ProcessGroup = get_tp_group().cpu_group
    return group


def keep_from_shared_memory() -> None:
    """Has ranks that share an engine on CPUs use the process group, not vLLM's shared memory.

    vLLM names that memory by the ranks alone. Two runs on one machine would get the same, and after
    a run that was killed no other could start: the memory stays, and vLLM refuses it.
    """
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False


def tell_every_rank() -> None:
    """Has vLLM return experts to every rank that shares an engine, and not to the first alone.

    Each has a scheduler of its own, which waits for them, and each hears all routers.
    """
    from vllm.distributed.aux_output_connector import worker

    worker.get_tp_group = lambda: SimpleNamespace(is_first_rank=True)
