"""Training adapters ÷ training all weights: the time of a step, and its peak memory.

Two models with random weights: one of the quickstart's shape, and one of 100 M weights. `Trainer.
step` packs, runs one forward and backward pass over every sample, clips and updates, in float32;
adapters have rank 16 in all linear layers. The two trainers of a model are timed alternately in one
process. Memory is measured in a process for each: the kernel's high-water mark while a model is
loaded, replays and trains, above what the process held before.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._bench import Goal, Measured, Size, in_own_process, ratios, time_pairs
from benchmarks._memory import peak_extra_bytes
from benchmarks._ranks import alone
from benchmarks._trainers import Shape, make_model, on_policy, open_trainer, random_rows, step

MIB = 2**20
RANK = 16
QUICKSTART = Shape(64, 128, 384, layers=3, heads=4, kv_heads=2, head_dim=32)
LARGE = Shape(32_000, 768, 2048, layers=12, heads=12, kv_heads=4, head_dim=64)
SMALL = Shape(512, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32)
GOALS = (
    Goal("step, adapters ÷ all weights, the quickstart's shape", 1.3, at_most=True),
    Goal("step, adapters ÷ all weights, 100 M weights", 1.0, at_most=True),
    Goal("peak memory, adapters ÷ all weights, 100 M weights", 0.6, at_most=True),
)
SHAPES: dict[Size, tuple[Shape, Shape]] = {"full": (QUICKSTART, LARGE), "smoke": (SMALL, SMALL)}
SAMPLES: dict[Size, tuple[int, int]] = {"full": (64, 4), "smoke": (2, 2)}
PAIRS: dict[Size, tuple[int, int]] = {"full": (9, 3), "smoke": (1, 1)}


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    taken, peaks = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (shape, prompts) in enumerate(zip(SHAPES[size], SAMPLES[size], strict=True)):
            model = make_model(Path(folder) / str(i), shape)
            taken.append(in_own_process(times, model, shape, prompts, PAIRS[size][i]))
        for rank in (RANK, 0):
            peaks[rank] = in_own_process(peak, model, shape, prompts, rank)
    notes: dict[str, Any] = {
        "rank": RANK,
        "seconds_adapters_all": taken,
        "peak_mib_adapters_all": [peaks[RANK] / MIB, peaks[0] / MIB],
    }
    return Measured((*map(ratios, taken), (peaks[RANK] / peaks[0],)), notes)


def times(model: Path, shape: Shape, prompts: int, pairs: int) -> list[tuple[float, float]]:
    """Seconds of a step with adapters, and of one with all weights, alternately."""
    with alone() as world:
        adapters, all_weights = (open_trainer(model, world, rank=rank) for rank in (RANK, 0))
        exp = on_policy(all_weights, random_rows([(16, 8)] * prompts, 32, shape.vocabulary))
        return time_pairs(partial(step, adapters, exp), partial(step, all_weights, exp), pairs)


def peak(model: Path, shape: Shape, prompts: int, rank: int) -> int:
    """Bytes at the peak of loading, replaying and two steps."""
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        small = make_model(Path(folder) / "small", SMALL)  # libraries and kernels are loaded by it
        step(open_trainer(small, world, rank=rank), random_rows([(8, 2)], 8, SMALL.vocabulary))

        def work() -> None:
            trainer = open_trainer(model, world, rank=rank)
            exp = on_policy(trainer, random_rows([(16, 8)] * prompts, 32, shape.vocabulary))
            step(trainer, exp)
            step(trainer, exp)

        return peak_extra_bytes(work)
