"""The optimizer's moments to pinned main memory and back: bit for bit, and how fast."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks._ranks import alone
from benchmarks._trainers import Shape, make_model, on_policy, open_trainer, random_rows, step
from benchmarks.gpu._finding import Finding, Findings, Size, holds, seconds, wait_for

SHAPES: dict[Size, Shape] = {
    "full": Shape(151_936, 1024, 3072, layers=28, heads=16, kv_heads=8, head_dim=128),
    "smoke": Shape(320, 64, 128, layers=2, heads=4, kv_heads=2, head_dim=16),
}
GIB = 2**30


def measure(size: Size) -> Findings:
    """Yields whether the moments and the next step are the same, the rate, and what is freed."""
    import torch

    from drpo_cli.trainer.offload import Offload

    shape = SHAPES[size]
    with tempfile.TemporaryDirectory() as scratch, alone() as world:
        folder = make_model(Path(scratch) / "model", shape)
        trainer = open_trainer(folder, world, "bfloat16", tokens_per_microbatch=4096)
        rows = on_policy(trainer, random_rows([(32, 4)] * 2, 32, shape.vocabulary))
        step(trainer, rows)
        before = [moment.clone() for moment in _moments(trainer)]
        moved = sum(moment.numel() * moment.element_size() for moment in before)
        offload = Offload([trainer.optimizer], world.device)
        held = _allocated(world.device)
        offload.put_away()
        if world.device.type == "cuda":
            freed = held - _allocated(world.device)
            yield holds("all moments leave the device", freed >= moved, f"{freed} of {moved} bytes")

        def round_trip() -> None:
            with offload:
                wait_for(world.device)

        taken = seconds(round_trip, world.device, times=3, warm=1)
        yield Finding("there and back", taken, "s")
        yield Finding("rate, both ways together", 2 * moved / taken / GIB, "GiB/s")
        with offload:
            pairs = zip(before, _moments(trainer), strict=True)
            yield holds("bit for bit", all(torch.equal(old, new) for old, new in pairs))
            step(trainer, rows)
        yield holds("and the next step runs", True)


def _moments(trainer: Any) -> list[Any]:
    from drpo_cli.dist import local

    states = trainer.optimizer.state.values()
    return [local(state[name]) for state in states for name in ("exp_avg", "exp_avg_sq")]


def _allocated(device: Any) -> int:
    import torch

    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
