"""Where a run continues or begins: its own newest checkpoint, or what it keeps of another run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drpo_cli.errors import UserError
from drpo_cli.runs import checkpoints as on_disk
from drpo_cli.runs import start
from drpo_cli.runs.alerts import Watch
from drpo_cli.runs.checkpoints import read
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read as read_records
from drpo_cli.runs.records import Records
from drpo_cli.step import saved_state

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


def restore(r: Run) -> None:
    """Continues from the newest whole checkpoint, if there is one, and drops later records.

    One from the middle of a warm-up has the state of another trainer: `r.warming` is its folder.
    """
    found = r.checkpoints.newest_whole(r.say)
    updates = read(found).get("warm_up") if found else None
    if updates is not None:
        r.warming = found
    elif found:
        record = r.checkpoints.load(found, r.trainer)
        with saved_state.reading(found / on_disk.MARKER):
            r.data.stream.load_state_dict(record["data"])
            if record["gap_floor"] is not None:  # nothing was pushed before a warm-up
                r.proof.floor = record["gap_floor"]
        r.done, r.restored = record["step"], True
        r.say(f"resumed after step {r.done}", resumed=r.done)
    else:
        _begin(r)
    if r.world.rank == 0:
        files = r.folder
        for file in (files.metrics, files.held_out, files.samples, files.quarantine):
            Records(file).rewind(r.done or -1)  # step 0 is scored again
        if not r.restored:
            Records(files.warm_up).rewind(-1 if updates is None else updates)
        r.alerts = Watch(read_records(files.metrics, StepMetrics))


def _begin(r: Run) -> None:
    """Takes over what `--keep` named of the checkpoint that the run begins with."""
    if (begun := start.read(r.folder)) is None:
        return
    if "optimizer" in begun.keeps:
        r.checkpoints.load(begun.checkpoint, r.trainer, updates=0)
    if "data" in begun.keeps:
        with saved_state.reading(begun.checkpoint / on_disk.MARKER):
            place = read(begun.checkpoint)["data"]
        try:
            r.data.stream.load_state_dict(place)
        except UserError as error:
            fix = "begin a new run with the same data, or without data in --keep"
            raise UserError(f"--keep {error.what}", fix) from error
