"""How far each run of a grid is, by what its folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs.records import read
from drpo_cli.tools.compare.jobs import Job

Status = Literal["finished", "failed", "unfinished", "not started"]


@dataclass(frozen=True)
class State:
    """Where a run stands; `reason` says why it failed, in one line."""

    status: Status
    reason: str = ""


def on_disk(job: Job) -> State:
    """Where the folder says that a run stands. A run that once failed counts as unfinished."""
    if not job.folder.exists():
        return State("not started")
    steps = job.spec.run.steps
    whole = saved.complete(job.folder.checkpoints)
    if not whole or saved.read(whole[-1])["step"] < steps:
        return State("unfinished")
    if any(record["step"] == steps for record in read(job.folder.metrics)):
        return State("finished")
    return State(
        "failed",
        f"killed between its last checkpoint and its last metrics; remove {job.folder.path} to "
        f"run it again",
    )
