"""A user's trackers that work or fail, and run folders for them to follow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from drpo_cli.settings import TrackerSettings
from drpo_cli.trackers import TrackedRun

HERE = Path(__file__)


class Notes:
    """Writes every call to a file."""

    def __init__(self, config: TrackerSettings, run: TrackedRun) -> None:
        self.id = run.id or "first"
        self._file = run.folder / "notes.jsonl"
        self._note("opened", name=run.name, id=run.id, steps=run.spec["run"]["steps"])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._note("log", step=step, values=dict(values))

    def alert(self, step: int, title: str, text: str) -> None:
        self._note("alert", step=step, title=title, text=text)

    def close(self) -> None:
        self._note("closed")

    def _note(self, what: str, **more: object) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"what": what, **more}) + "\n")


class Flaky(Notes):
    """Fails in every ninth call of `log`."""

    calls = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        Flaky.calls += 1
        if Flaky.calls % 9 == 0:
            raise ConnectionError("no route to host")
        super().log(step, values)


class Raising(Notes):
    """Fails in every call of `log`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise ConnectionError("no route to host")


class Hanging(Notes):
    """Hangs in its first step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        super().log(step, values)
        time.sleep(3600)


class Dying(Notes):
    """Ends its process in its first step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        os._exit(7)


def table(tracker: str, **options: object) -> str:
    """The spec's table for one of these trackers, named after its class."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(["", "[[tracker]]", f'type = "{HERE}:{tracker}"', *lines, ""])


def run_folder(path: Path, trackers: str, metrics: Path | None = None) -> Path:
    """Makes the folder of an ended run, with the files that trackers read."""
    path.mkdir(parents=True)
    (path / "spec.toml").write_text(f'[run]\nname = "{path.name}"\nsteps = 32\n{trackers}')
    if metrics is not None:
        (path / "metrics.jsonl").write_text(metrics.read_text())
    return path
