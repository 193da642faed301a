"""`drpo train --from RUN[@STEP]`: a new run that begins with the weights of another.

They are written as a model into the new run's folder, which then needs the other no more. The
model's configuration, tokenizer and dtype are the other's, too; its optimizer, its order of data
and its step are not continued: that is what `--resume` does.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from drpo_cli.errors import UserError
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import Spec

FOLDER = "start"


def begins_elsewhere(folder: RunFolder) -> bool:
    """Whether the run in a folder began with the weights of another."""
    return folder.exists() and (folder.path / FOLDER).is_dir()


def with_origin(spec: Spec, folder: RunFolder, origin: str | None) -> tuple[Spec, str]:
    """The spec of a run whose model is the one in its folder, and where that came from.

    For a new run it is written there. Raises UserError where there is no such checkpoint, and for
    an origin of a run that began without one.
    """
    start = folder.path / FOLDER
    note = start / "origin.txt"
    if not folder.exists():
        assert origin is not None
        checkpoint = find_checkpoint(origin)
        _export(checkpoint, folder)
        text = f"{checkpoint.absolute().parent.parent}, step {saved.read(checkpoint)['step']}"
        note.write_text(text + "\n", encoding="utf-8")
    elif not start.is_dir():
        raise UserError(
            f"--from {origin}: {folder.path} began without it, and has weights of its own",
            "remove --from to continue it, or set run.name to another name",
        )
    model = spec.model.model_copy(update={"path": str(start), "prepare": None})
    began = note.read_text(encoding="utf-8").strip()
    if origin is not None and not _is_meant(origin, began):
        raise UserError(
            f"--from {origin}: {folder.path} began with the weights of {began}",
            "remove --from to continue it, or set run.name to another name",
        )
    return replace(spec, model=model), began


def _is_meant(origin: str, began: str) -> bool:
    """Whether `--from` names what a run began with; a run stands for any of its steps."""
    path, at, step = origin.rpartition("@")
    run, _, its_step = began.rpartition(", step ")
    if not at or not step.isdecimal():
        given = Path(origin).absolute()
        is_step = given.parent.parent == Path(run) and given.name.endswith(f"-{int(its_step):06d}")
        return given == Path(run) or is_step
    return (Path(path).absolute(), int(step)) == (Path(run), int(its_step))


def find_checkpoint(origin: str) -> Path:
    """The checkpoint that `RUN`, `RUN@STEP` or a checkpoint's own path names.

    Raises UserError where there is none.
    """
    path, at, step = origin.rpartition("@")
    if not at or not step.isdecimal():
        return saved.latest(Path(origin))
    found = {saved.step_of(one): one for one in saved.complete(RunFolder(Path(path)).checkpoints)}
    if int(step) not in found:
        there = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"--from {origin}: there is no checkpoint of step {step} in {path}",
            f"name a step that was saved ({there}), or no step for the newest",
        )
    return found[int(step)]


def _export(checkpoint: Path, folder: RunFolder) -> None:
    from drpo_cli.step.checkpoint import export

    start = folder.path / FOLDER
    shutil.rmtree(start, ignore_errors=True)  # of a start that failed
    with ExitStack() as undo:
        if not folder.path.exists():
            undo.callback(shutil.rmtree, folder.path, ignore_errors=True)
        folder.path.mkdir(parents=True, exist_ok=True)
        export(checkpoint, start, merged=True)
        undo.pop_all()
