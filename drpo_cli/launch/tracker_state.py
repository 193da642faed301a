"""How far a tracker is: its table in the run's spec, and what it has been sent."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drpo_cli import plugins
from drpo_cli.runs.folder import RunFolder, write_whole


@dataclass
class State:
    """What is kept of a tracker between one start of a run and the next.

    id        what the tracker calls the run; None before it was first opened
    step      the last step that it has taken; −1 before the first
    failures  how often it raised
    error     what it raised last
    """

    id: str | None = None
    step: int = -1
    failures: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> State:
        """What `write` left; a fresh state where there is nothing."""
        try:
            return cls(**json.loads((folder / "state.json").read_text()))
        except FileNotFoundError:
            return cls()

    def write(self, folder: Path) -> None:
        """Replaces the file whole."""
        write_whole(folder / "state.json", json.dumps(asdict(self)))


def tables(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The trackers of a resolved spec, each with a name."""
    found: list[dict[str, Any]] = spec.get("tracker", [])
    return [{"name": plugins.short_name(table["type"]), **table} for table in found]


def spec_of(folder: RunFolder) -> dict[str, Any]:
    """The run's resolved spec as tables, without loading any of its plugins."""
    return tomllib.loads(folder.spec.read_text(encoding="utf-8"))
