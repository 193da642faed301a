"""`drpo init`: creates a run folder from a template, and the job files of schedulers."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from drpo_cli.errors import UserError, os_message
from drpo_cli.spec import schema

JOBS = {"slurm": ("slurm.sbatch", "train.sbatch"), "kubernetes": ("kubernetes.yaml", "job.yaml")}
"""For each scheduler the file of a job in the folder of templates, and its name in a run folder."""
NOT_COPIED = ("__pycache__", "runs", "model", "models", schema.FILE)
"""What runs and editors may have left in a template."""


def template_folder() -> Path:
    """The folder of the templates: in the installed package, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "templates"
    return shipped if shipped.is_dir() else package.parent / "templates"


def templates(source: Path) -> dict[str, str]:
    """Each template's name and the first line of its README."""
    folders = sorted(path.parent for path in source.glob("*/run.toml"))
    return {folder.name: _summary(folder / "README.md") for folder in folders}


def add_jobs(folder: Path, schedulers: Sequence[str], source: Path) -> list[Path]:
    """Copies the job file of each scheduler into a folder that has a run.toml.

    Raises UserError when one of the files is there already, and then writes none.
    """
    copies = {folder / JOBS[name][1]: source / JOBS[name][0] for name in schedulers}
    for path in copies:
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists", "remove it, or move it away")
    try:
        for path, original in copies.items():
            shutil.copyfile(original, path)
    except OSError as error:
        raise UserError(
            os_message(error, folder, "try again") or f"{folder}: cannot be written: {error}"
        ) from error
    return list(copies)


def init(folder: Path, template: str, source: Path) -> tuple[str, ...]:
    """Copies a template to `folder`, either all of it or nothing, and adds the spec's schema.

    The schema describes the plugins that are installed here, so no template has it; returns the
    warnings from writing it. Raises UserError for an unknown template, or when `folder` is not
    empty.
    """
    known = templates(source)
    if template not in known:
        close = difflib.get_close_matches(template, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        fix = f"{hint}there are: {', '.join(known)}"
        raise UserError(f"there is no template {template!r}", fix)
    taken = any(folder.iterdir()) if folder.is_dir() else folder.exists() or folder.is_symlink()
    if taken:
        raise UserError(f"{folder} exists and is not empty", "choose another folder, or remove it")
    try:
        return _copy(source / template, folder)
    except OSError as error:
        raise UserError(
            os_message(error, folder, "try again") or f"{folder}: cannot be written: {error}"
        ) from error


def _copy(template: Path, folder: Path) -> tuple[str, ...]:
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".drpo-init.", dir=parent) as unfinished:
        copy = Path(unfinished, "copy")
        shutil.copytree(template, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        warnings = schema.write(copy / schema.FILE)
        if folder.is_dir():  # an empty one stays, because a shell may be in it
            for child in copy.iterdir():
                os.rename(child, folder / child.name)
        else:
            os.rename(copy, folder)
    return warnings


def _summary(readme: Path) -> str:
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.lstrip("# ") for line in lines if line.strip()), "")
