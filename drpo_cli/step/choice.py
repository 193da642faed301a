"""Whether weights were chosen for their held-out score, and on which problems.

Such a score is optimistic on the same problems. A checkpoint says so by its run's metrics; a model
that was exported from one has a note.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from drpo_cli.runs.checkpoints import MARKER, read
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.runs.saved import open_run

NOTE = "drpo.json"


class Choice(NamedTuple):
    """The evaluations of which weights had the highest score, and the id of their problems."""

    evaluations: int
    problems: str


def of_checkpoint(checkpoint: Path) -> Choice | None:
    """Why a checkpoint of a run may have been chosen.

    Counts the evaluations of steps that the run saved a checkpoint of. A run folder, and the
    checkpoint after the last evaluation, are not chosen for their score: None. So is what belongs
    to no run, or to one whose problems are not on record.
    """
    folder = RunFolder(checkpoint.resolve().parent.parent)
    if not (checkpoint / MARKER).is_file() or not folder.exists():
        return None
    run, step = open_run(folder.path), read(checkpoint)["step"]
    every = run.spec.get("checkpoint", {}).get("every") or run.last_step
    saved = [each for each in run.held_out if each.step > 0 and each.step % every == 0]
    best = max(saved, key=lambda each: each.score, default=None)
    if best is None or best.step != step or step == saved[-1].step or not run.held_out_set:
        return None
    return Choice(len(saved), run.held_out_set)


def write_note(checkpoint: Path, folder: Path) -> None:
    """Writes into a model's folder why the checkpoint that it comes from may have been chosen."""
    if (choice := of_checkpoint(checkpoint)) is not None:
        values = {"chosen_of": choice.evaluations, "held_out_set": choice.problems}
        write_whole(folder / NOTE, json.dumps(values) + "\n")


def of_model(folder: Path) -> Choice | None:
    """What `write_note` wrote into a model's folder."""
    try:
        values = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return Choice(int(values["chosen_of"]), str(values["held_out_set"]))
    except (OSError, ValueError, KeyError, TypeError):  # the file is another program's
        return None
