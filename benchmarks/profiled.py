"""`python -m benchmarks.profiled equal|ragged|float32|bfloat16|sync`: where the time of a row goes.

Lists operators by their own time in one warm repetition of the training phase of rows 1 and 2
(with the samples of `ablation`) or of row 4, or of the push of row 8 into vLLM on one rank.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ablation, row04_model_flops, row08_sync
from benchmarks._peers import MODEL
from benchmarks._ranks import alone, free_port, place
from benchmarks._trainers import make_model, on_policy, open_trainer, step
from drpo_cli.dist import cores, environment

ROWS = 14


@contextmanager
def training(kind: str) -> Iterator[Callable[[], object]]:
    """Opens a training phase of row 1, 2 or 4."""
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        if kind in PAIRED:
            trainer = open_trainer(make_model(Path(folder) / "model", MODEL), world)
            known = on_policy(trainer, ablation.batch(kind))
        else:
            shape = row04_model_flops.SHAPES["full"]
            model = make_model(Path(folder) / "model", shape)
            trainer, known = row04_model_flops.phase(model, shape, world, kind)  # type: ignore[arg-type]
        yield lambda: step(trainer, known)


@contextmanager
def sync(_: str) -> Iterator[Callable[[], object]]:
    """Opens a push of row 8."""
    from benchmarks._sync_case import open_case

    os.environ.update(place(0, 1, free_port()))
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", row08_sync.SHAPES["full"])
        with open_case(model, "vllm") as case:
            yield case.push


PAIRED = ("equal", "ragged")
KINDS = {**dict.fromkeys((*PAIRED, "float32", "bfloat16"), training), "sync": sync}


def main(kind: str) -> None:
    """Prints the operators."""
    with KINDS[kind](kind) as work:
        import torch

        for _ in range(3):
            work()
        with torch.profiler.profile() as profile:
            work()
        table = profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS)
        sys.stdout.write(table)
        sys.stdout.flush()
        os._exit(0)  # does not wait for an engine's remaining threads


if __name__ == "__main__":
    if missing := environment(cores()).items() - os.environ.items():
        # the C library and OpenMP read these when a process starts
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **dict(missing)})
    main(sys.argv[1])
