"""The process group of one rank: reductions return the values, and leaving it is clean."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch.distributed.tensor import Shard, distribute_tensor

from drpo_cli import dist, plugins
from support.models import world


def test_reductions_of_one_rank_are_its_own_values() -> None:
    values = [1.5, -2.0, float("inf")]
    with world() as here:
        assert (here.rank, here.size) == (0, 1)
        assert here.sum(values) == here.max(values) == values
        assert here.sum([]) == []
        assert here.gather_objects({"a": (1, None)}) == [{"a": (1, None)}]
        here.barrier()


def test_gather_returns_detached_values_on_the_cpu() -> None:
    with world() as here:
        given = torch.arange(3.0, requires_grad=True)
        found = here.gather(given)
    assert found.tolist() == [0, 1, 2]
    assert not found.requires_grad and found.device.type == "cpu"


def test_a_sharded_tensor_is_gathered_whole_and_its_shard_shares_storage() -> None:
    with world() as here:
        sharded = distribute_tensor(torch.arange(4.0), here.mesh, [Shard(0)])
        dist.local(sharded).mul_(2)
        assert dist.full(sharded).tolist() == [0, 2, 4, 6]
        assert type(dist.full(sharded)) is type(dist.local(sharded)) is torch.Tensor


def test_a_plain_tensor_passes_through_without_its_gradient() -> None:
    plain = torch.ones(2, requires_grad=True)
    assert dist.full(plain).tolist() == [1, 1] and not dist.full(plain).requires_grad
    assert dist.local(plain).data_ptr() == plain.data_ptr()


def test_the_group_is_destroyed_on_success_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error, destroying it may wait for ranks that are in a collective."""
    with world():
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with suppress(KeyError), dist.join():
        raise KeyError
    assert torch.distributed.is_initialized()
    torch.distributed.destroy_process_group()


def test_every_group_waits_longer_than_a_run_may_hang() -> None:
    """Those of a mesh and of an engine too: a neighbour may grade for an hour."""
    with world() as here:
        later = torch.distributed.new_group([0])
        for group in (here.mesh.get_group(), later):
            waits = group._get_backend(here.device).options._timeout
            assert waits >= timedelta(hours=2)


def test_a_group_that_an_engine_destroyed_is_not_an_error() -> None:
    with world():
        torch.distributed.destroy_process_group()
    assert not torch.distributed.is_initialized()


def test_ranks_share_the_threads_and_have_at_least_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert dist.threads_per_rank(1) == cores
    assert dist.threads_per_rank(cores) == dist.threads_per_rank(10 * cores) == 1


@pytest.mark.parametrize(("asked", "given"), [("3", 3), ("0", 1), ("2,1", 1), ("", 1)])
def test_the_users_number_of_threads_is_taken(
    monkeypatch: pytest.MonkeyPatch, asked: str, given: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert dist.threads_per_rank(1000) == given


def test_processes_keep_their_memory_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in dist.KEEP_MEMORY:
        monkeypatch.delenv(name, raising=False)
    assert dist.environment(3) == {"OMP_NUM_THREADS": "3", **dist.KEEP_MEMORY}
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    assert "MALLOC_MMAP_MAX_" not in dist.environment(3)


@pytest.mark.parametrize(
    ("engine", "options", "own", "given"),
    [
        ("transformers", {}, None, "expandable_segments:True"),
        ("vllm", {"sleep": False}, None, "expandable_segments:True"),
        ("vllm", {}, None, None),  # it sleeps: its pool cannot be made of such segments
        ("transformers", {}, "PYTORCH_CUDA_ALLOC_CONF", None),
        ("transformers", {}, "PYTORCH_ALLOC_CONF", None),
    ],
)
def test_processes_on_a_gpu_get_the_settings_of_its_allocator(
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    options: dict[str, bool],
    own: str | None,
    given: str | None,
) -> None:
    for name in (*dist.KEEP_MEMORY, *dist.ALLOCATOR_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if own:
        monkeypatch.setenv(own, "max_split_size_mb:512")
    pool = plugins.load("rollout", engine).Config(**options).pools_device_memory()
    expected = {"OMP_NUM_THREADS": "3", **({"PYTORCH_ALLOC_CONF": given} if given else {})}
    assert dist.environment(3, pool) == expected


def test_peak_memory_is_what_the_kernel_says() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kernel = int(status["VmHWM"].split()[0]) / 2**20
    assert dist.peak_memory_gib(torch.device("cpu")) == pytest.approx(kernel, rel=0.05)
