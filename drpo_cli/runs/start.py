"""What a run that began with another's weights has of it: `start/` in its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from drpo_cli.runs.folder import RunFolder

WORDS = {"optimizer": "optimizer", "data": "place in the data"}
"""What may be kept besides the weights, and what it is called."""


@dataclass(frozen=True)
class Start:
    """The model that a run began with, and what else it took over from the same checkpoint.

    model       a Hugging Face folder
    began       `RUN, step N`
    keeps       names of `WORDS`
    checkpoint  a copy of the checkpoint; it exists if something is kept
    """

    model: Path
    began: str
    keeps: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """See the class."""
        return self.model / "kept"

    def describe(self) -> str:
        """What was taken over and what is new, in words."""
        taken = ["weights", *(WORDS[name] for name in self.keeps)]
        new = [word for name, word in WORDS.items() if name not in self.keeps]
        return f"begins with the {_list(taken)} of {self.began}; new: {_list([*new, 'steps'])}"


def folder_of(run: RunFolder) -> Path:
    """Where a run has what it began with."""
    return run.path / "start"


def read(run: RunFolder) -> Start | None:
    """What a run began with; None if it began with the model of its spec."""
    folder = folder_of(run)
    if not (note := folder / "origin.txt").is_file():
        return None
    began, *keeps = note.read_text(encoding="utf-8").splitlines()
    return Start(folder, began, tuple(keeps))


def write(run: RunFolder, began: str, keeps: tuple[str, ...], checkpoint: Path) -> None:
    """Notes what a run begins with, and copies the checkpoint if it keeps more than weights."""
    start = Start(folder_of(run), began, keeps)
    if keeps:
        shutil.copytree(checkpoint, start.checkpoint)
    (start.model / "origin.txt").write_text("\n".join([began, *keeps, ""]), encoding="utf-8")


def _list(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
