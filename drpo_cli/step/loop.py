"""The one screen: what a step of DRPO is."""

from __future__ import annotations

from drpo_cli.runs.folder import RunFolder
from drpo_cli.step.run import Run, open_run


def run(folder: RunFolder) -> int:
    """Trains this rank's part of the run in `folder`; returns the exit code."""
    with open_run(folder) as r:
        r.prove_sync()
        r.evaluate_base()
        for step in r.steps():
            take(r, step)
        return r.finish()


def take(r: Run, step: int) -> None:
    """One step."""
    found = r.rollout(step)
    with r.phase("train"):
        r.check_sync(found.groups_P)
        trained = r.train(found)
    with r.phase("sync"):
        r.push(step)
    with r.phase("evaluate"):
        held_out = r.maybe_evaluate(step)
    with r.phase("log"):
        r.log(step, found, trained, held_out)
    with r.phase("checkpoint"):
        r.maybe_save(step, held_out)
