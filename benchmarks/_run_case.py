"""A run that takes a step when asked, on one rank, for row 9."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import read
from drpo_cli.step.loop import take
from drpo_cli.step.proof import prove_sync
from drpo_cli.step.run import Run, open_run


class RunCase:
    """A run that has proven its sync and waits for its first step."""

    def __init__(self, run: Run):
        self.run = run
        self.steps = run.steps()
        sleep = run.engine.sleep

        def sleep_together() -> None:
            sleep()
            run.world.barrier()  # a rank that waits for a longer rollout is not training

        run.engine.sleep = sleep_together  # type: ignore[method-assign]

    def step(self) -> dict[str, float]:
        """One step: seconds of its training phase and of all of it, samples of this rank."""
        run, step = self.run, next(self.steps)
        run.world.barrier()
        began = time.perf_counter()
        take(run, step)
        took = time.perf_counter() - began
        training = read(run.folder.metrics)[-1]["seconds"]["train"]
        samples = run.plan.sequences_per_step / run.world.size
        return {"train": training, "step": took, "samples": samples}


@contextmanager
def open_case(folder: Path) -> Iterator[RunCase]:
    """The run of a prepared folder."""
    with open_run(RunFolder(folder)) as run:
        prove_sync(run)
        yield RunCase(run)
