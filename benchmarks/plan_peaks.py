"""`python -m benchmarks.plan_peaks [CASE…]`: the peaks of `drpo plan`, and measured ones.

Each case is a trainer with random weights that replays, trains, and streams its weights as for a
sync, in its own processes. The measurement is the kernel's high-water mark of resident pages in
each piece of work, above what the process holds before it has a model, after every module and
kernel was used once. It is taken twice: with an allocator that gives freed blocks back, so that
only memory in use counts, and with the settings of a run, which keeps freed blocks
(`drpo_cli.dist.KEEP_MEMORY`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks._memory import peak_above, release_unused
from benchmarks._ranks import free_port, place
from benchmarks._trainers import DType, Shape, make_model, open_trainer

MODULE = "benchmarks.plan_peaks"
MIB = 2**20
WORK = ("replay", "train", "sync")
SMALL = Shape(512, 64, 128, layers=2, heads=2, kv_heads=1, head_dim=32)  # for the warm-up
GIVES_BACK = {
    "MALLOC_MMAP_THRESHOLD_": str(2**16),
    "MALLOC_TRIM_THRESHOLD_": str(2**16),
    "MALLOC_TOP_PAD_": "0",
}


@dataclass(frozen=True)
class Case:
    """A trainer, and sequences of which one group fills a micro-batch exactly.

    rank  that of adapters, which are trained in place of the weights; 0 for none
    """

    shape: Shape
    dtype: DType = "float32"
    checkpointing: bool = False
    rank: int = 0
    ranks: int = 1
    prompt: int = 128
    response: int = 225
    group: int = 4
    microbatches: int = 2

    @property
    def budget(self) -> int:
        """The tokens of a micro-batch."""
        return self.prompt + self.group * (self.response - 1)


WIDE = Shape(32_000, 512, 1536, layers=8, heads=8, kv_heads=2, head_dim=64)
DEEP = Shape(8_192, 256, 768, layers=16, heads=8, kv_heads=4, head_dim=32)
CASES = {
    "wide": Case(WIDE),
    "wide, one micro-batch": Case(WIDE, microbatches=1),
    "wide, checkpointing": Case(WIDE, checkpointing=True),
    "wide, bfloat16": Case(WIDE, dtype="bfloat16"),
    "wide, two ranks": Case(WIDE, ranks=2),
    "wide, adapters": Case(WIDE, rank=16),
    "wide, bfloat16, adapters": Case(WIDE, dtype="bfloat16", rank=16),
    "deep": Case(DEEP),
    "deep, checkpointing, two ranks": Case(DEEP, checkpointing=True, ranks=2),
}


def main(names: Sequence[str]) -> None:
    """Prints a line of a Markdown table for each piece of work of each case."""
    print("| case | work | predicted | measured | ratio | as a run has it |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(Path(folder) / "model", CASES[name].shape)
            predicted = in_process("predict", CASES[name], model, {})[0]
            exact = measure_case(CASES[name], model, GIVES_BACK)
            kept = measure_case(CASES[name], model, _run_settings())
        for work in WORK:
            # the settings of a run keep the highest peak of all
            in_a_run = f"{kept[work] / MIB:,.0f} MiB" if work == "train" else ""
            figures = (predicted[work] / MIB, exact[work] / MIB)
            print(  # noqa: T201
                f"| {name} | {work} | {figures[0]:,.0f} MiB | {figures[1]:,.0f} MiB | "
                f"{figures[0] / figures[1]:.2f} | {in_a_run} |",
                flush=True,
            )


def measure_case(case: Case, model: Path, allocator: dict[str, str]) -> dict[str, int]:
    """Measures the bytes of each piece of work, on the rank where it takes most."""
    found = in_process("measure", case, model, allocator)
    return {work: max(one[work] for one in found) for work in WORK}


def in_process(
    function: str, case: Case, model: Path, environment: dict[str, str]
) -> list[dict[str, int]]:
    """Runs a function of this module in one process per rank of the case; returns its results."""
    ranks, port = (case.ranks if function == "measure" else 1), free_port()
    command = [sys.executable, "-m", MODULE, "--", function, json.dumps(asdict(case)), str(model)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **environment, **place(rank, ranks, port), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{function} failed: {printed}")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def measure(case: Case, model: Path) -> dict[str, int]:
    """Measures the peaks of this rank."""
    from drpo_cli import dist
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.step.sync import trainer_weights
    from drpo_cli.tools.memory.inputs import Batch, Lengths

    def samples(microbatches: int) -> Any:
        lengths = Lengths(case.prompt, case.response)
        return Batch(lengths, case.group, case.group * microbatches, 2**40).rows

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        small_model = make_model(Path(folder) / "small", SMALL)  # before join: only one rank saves
        world = stack.enter_context(dist.join())
        options = {
            "gradient_checkpointing": case.checkpointing,
            "tokens_per_microbatch": case.budget,
        }
        small = open_trainer(small_model, world, case.dtype, case.rank, **options)
        small.step(samples(case.microbatches))
        del small
        before = release_unused()
        trainer = open_trainer(model, world, case.dtype, case.rank, **options)
        everything = samples(case.microbatches)
        trainer.step(everything)  # makes the optimizer's moments
        precision = Precision(case.dtype, case.dtype)

        def sync() -> None:
            for _ in trainer_weights(trainer.policy, precision, world):
                pass

        work: dict[str, Callable[[], object]] = {
            "replay": lambda: trainer.replay(everything),
            "train": lambda: trainer.step(everything),
            "sync": sync,
        }
        return {name: peak_above(before, do) for name, do in work.items()}


def predict(case: Case, model: Path) -> dict[str, int]:
    """Predicts the peaks of a rank as `drpo plan` does, without its allowances."""
    from drpo_cli.devices import resolve
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.settings import LoraSettings, ModelSettings, TrainSettings
    from drpo_cli.tools.memory.inputs import Batch, Lengths
    from drpo_cli.tools.memory.passes import Job, highest
    from drpo_cli.tools.memory.passes import measure as passes

    lengths = Lengths(case.prompt, case.response)
    batch = Batch(lengths, case.group, case.group * case.microbatches, case.budget)
    settings = TrainSettings(gradient_checkpointing=case.checkpointing)
    job = Job(
        model=ModelSettings(path=str(model), dtype=case.dtype),
        precision=Precision(case.dtype, case.dtype),
        settings=resolve(settings, "cpu", case.dtype),
        ranks=case.ranks,
        batch=batch,
        probe=Batch(lengths, 1, 1, case.budget),
        accumulate=case.microbatches > 1,
        lora=LoraSettings(rank=case.rank) if case.rank else None,
    )
    found = passes(job)
    return {work: sum(highest(found, [work]).values()) for work in WORK}


def _run_settings() -> dict[str, str]:
    from drpo_cli import dist

    return dist.environment(1)


def _case(fields: dict[str, Any]) -> Case:
    return Case(**{**fields, "shape": Shape(**fields["shape"])})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--"]:
        _, _, function, fields, model = sys.argv
        result = {"measure": measure, "predict": predict}[function](
            _case(json.loads(fields)), Path(model)
        )
        print(json.dumps(result))  # noqa: T201
    else:
        main(sys.argv[1:])
