"""`drpo train --from RUN[@STEP]`: a new run that begins with the weights of another.

They are written as a model into the new run's folder, which then needs the other no more. The
model's configuration, tokenizer and dtype are the other's, too. With `--keep`, it also takes over
the moments of the optimizer, or the place in the data; its steps and its schedule are its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from drpo_cli.errors import UserError
from drpo_cli.model_folder import ADAPTER_CONFIG
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs import start
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.start import Start
from drpo_cli.spec import Spec


class Origin(NamedTuple):
    """What a new run begins with.

    where  a run, `RUN@STEP`, or a checkpoint
    keeps  what it takes over besides the weights: `optimizer`, `data`
    """

    where: str
    keeps: tuple[str, ...] = ()

    @staticmethod
    def read(where: str | None, keeps: Sequence[str]) -> Origin | None:
        """What options say. Raises UserError for what cannot be kept."""
        if unknown := [name for name in keeps if name not in start.WORDS]:
            raise UserError(f"--keep {unknown[0]}: is not kept", f"name {', '.join(start.WORDS)}")
        if where is None and keeps:
            raise UserError("--keep: has no effect without --from", "remove it")
        kept = tuple(name for name in start.WORDS if name in keeps)
        return None if where is None else Origin(where, kept)


def begin(spec: Spec, folder: RunFolder, origin: Origin | None) -> tuple[Spec, Start | None]:
    """The spec of a run, with the model that its folder has if it begins with another's weights.

    For a new run that is written there. Raises UserError where there is no such checkpoint, for
    what of it cannot be kept, and for an origin of a run that began with another.
    """
    if not folder.exists() and origin is not None:
        _write(spec, folder, origin)
    found = start.read(folder) if folder.exists() or origin is not None else None
    if origin is not None and (wrong := _differs(origin, found)):
        raise UserError(
            f"--from {origin.where}: {folder.path} {wrong}",
            "remove --from and --keep to continue it, or set run.name to another name",
        )
    if found is None:
        return spec, None
    model = spec.model.model_copy(update={"path": str(found.model), "prepare": None})
    return replace(spec, model=model), found


def _differs(origin: Origin, found: Start | None) -> str:
    """How a run began otherwise than an origin says; empty if it did not."""
    if found is None:
        return "began without it, and has weights of its own"
    if not _is_meant(origin.where, found.began):
        return f"began with the weights of {found.began}"
    if origin.keeps != found.keeps:
        return f"kept {', '.join(found.keeps) or 'the weights alone'}"
    return ""


def _is_meant(where: str, began: str) -> bool:
    """Whether `--from` names what a run began with; a run stands for any of its steps."""
    path, at, step = where.rpartition("@")
    run, _, its_step = began.rpartition(", step ")
    if not at or not step.isdecimal():
        given = Path(where).absolute()
        is_step = given.parent.parent == Path(run) and given.name.endswith(f"-{int(its_step):06d}")
        return given == Path(run) or is_step
    return (Path(path).absolute(), int(step)) == (Path(run), int(its_step))


def find_checkpoint(where: str) -> Path:
    """The checkpoint that `RUN`, `RUN@STEP` or a checkpoint's own path names.

    Raises UserError where there is none.
    """
    path, at, step = where.rpartition("@")
    if not at or not step.isdecimal():
        return saved.latest(Path(where))
    found = {saved.step_of(one): one for one in saved.complete(RunFolder(Path(path)).checkpoints)}
    if int(step) not in found:
        there = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"--from {where}: there is no checkpoint of step {step} in {path}",
            f"name a step that was saved ({there}), or no step for the newest",
        )
    return found[int(step)]


def _write(spec: Spec, folder: RunFolder, origin: Origin) -> None:
    from drpo_cli.step.checkpoint import export

    checkpoint = find_checkpoint(origin.where)
    if "optimizer" in origin.keeps:
        _require_usable_moments(spec, checkpoint)
    shutil.rmtree(start.folder_of(folder), ignore_errors=True)  # of a start that failed
    with ExitStack() as undo:
        if not folder.path.exists():
            undo.callback(shutil.rmtree, folder.path, ignore_errors=True)
        folder.path.mkdir(parents=True, exist_ok=True)
        export(checkpoint, start.folder_of(folder), merged=True)
        began = f"{checkpoint.absolute().parent.parent}, step {saved.read(checkpoint)['step']}"
        start.write(folder, began, origin.keeps, checkpoint)
        undo.pop_all()


def _require_usable_moments(spec: Spec, checkpoint: Path) -> None:
    """Raises UserError where the optimizer's moments would be of other weights."""
    if (checkpoint / "adapter" / ADAPTER_CONFIG).is_file() or spec.lora is not None:
        why = "adapters are merged into the weights, and new ones begin with none"
    elif spec.sft is not None:
        why = "[sft] trains the weights before the first step"
    elif saved.read(checkpoint).get("warm_up") is not None:
        why = f"{checkpoint} is from the middle of a warm-up, which has an optimizer of its own"
    else:
        return
    raise UserError(f"--keep optimizer: {why}", "remove optimizer from --keep")
