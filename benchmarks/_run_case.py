"""A run that takes a step when told, on one rank, for row 9."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drpo_cli.runs.folder import RunFolder
from drpo_cli.step.run import Run, open_run


class RunCase:
    """A run that has proven its sync and waits for its first step."""

    def __init__(self, run: Run):
        self.run = run
        self.steps = run.steps()

    def step(self) -> dict[str, float]:
        """One step: seconds of its training phase and of all of it, samples of this rank.

        What `drpo_cli.step.loop.take` does, with a barrier before the training phase: a rank that
        waits there for a longer rollout is not training.
        """
        run, step = self.run, next(self.steps)
        run.world.barrier()
        began = time.perf_counter()
        found = run.rollout(step)
        run.world.barrier()
        with run.phase("train"):
            run.check_sync(found.groups_P)
            trained = run.train(found)
        seconds = {"train": run.seconds["train"]}
        with run.phase("sync"):
            run.push(step)
        held_out = run.maybe_evaluate(step)
        run.log(step, found, trained, held_out)
        run.maybe_save(step, held_out)
        samples = sum(len(group.rollouts_G) for group in found.groups_P)
        return {**seconds, "step": time.perf_counter() - began, "samples": float(samples)}


@contextmanager
def open_case(folder: Path) -> Iterator[RunCase]:
    """The run of a prepared folder."""
    with open_run(RunFolder(folder)) as run:
        run.prove_sync()
        yield RunCase(run)
