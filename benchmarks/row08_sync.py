"""Weight sync of 268 M parameters: time ÷ a plain copy of the same bytes, and extra memory.

A Qwen3 with the sizes of Gemma 3 270M: 18 layers, and an embedding of 262,144 × 640 that is also
the head. `WeightSync.push` streams the float32 weights from the sharded trainer into each engine,
in one process with all cores, and in two gloo ranks with half of the cores each. The copy is
`Tensor.copy_` from one set of whole tensors to another, on every rank at the same time, since each
rank gets all weights. Push and copy are timed alternately, from the call until the last rank is
done.

Memory is the kernel's high-water mark of a rank's resident pages during a push, above what it holds
between pushes, on the rank where that is highest. The largest layer is the largest unit that FSDP
gathers, here the embedding.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._bench import Goal, Measured, Size, ratios, time_pairs
from benchmarks._ranks import open_ranks
from benchmarks._sync_case import open_case
from benchmarks._trainers import Shape, make_model
from drpo_cli.dist import cores

CASES = (("transformers", 1), ("transformers", 2), ("vllm", 1), ("vllm", 2))
TIME_GOAL = {1: 3.0, 2: 6.0}  # by ranks
GOALS = tuple(
    goal
    for engine, ranks in CASES
    for goal in (
        Goal(f"time ÷ copy, {engine}, ranks: {ranks}", TIME_GOAL[ranks], at_most=True),
        Goal(f"extra memory ÷ largest layer, {engine}, ranks: {ranks}", 1.0, at_most=True),
    )
)
SHAPES: dict[Size, Shape] = {
    "full": Shape(262_144, 640, 2048, layers=18, heads=4, kv_heads=1, head_dim=256),
    "smoke": Shape(4096, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32),
}
PAIRS: dict[Size, int] = {"full": 5, "smoke": 2}
MEMORY_REPEATS = 2
FLOAT32 = 4  # bytes


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    shape = SHAPES[size]
    layer = FLOAT32 * max(shape.layer_weights, shape.head_weights)
    figures: list[tuple[float, ...]] = []
    notes: dict[str, Any] = {"largest_layer_bytes": layer}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", shape)
        for engine, ranks in CASES:
            found = _case(model, engine, ranks, PAIRS[size])
            figures.append(ratios(found["seconds_push_copy"]))
            figures.append(tuple(extra / layer for extra in found["extra_bytes"]))
            notes[f"{engine}, ranks: {ranks}"] = found
    return Measured(tuple(figures), notes)


def _case(model: Path, engine: str, size: int, pairs: int) -> dict[str, Any]:
    cores_each = max(1, cores() // size)
    with open_ranks(size, cores_each, open_case, folder=model, engine=engine) as ranks:
        times = time_pairs(partial(ranks.call, "push"), partial(ranks.call, "copy"), pairs)
        extra = [max(ranks.call("push_extra_bytes")) for _ in range(MEMORY_REPEATS)]
        total = ranks.call("bytes")[0]
    return {"seconds_push_copy": times, "extra_bytes": extra, "bytes": total}
