"""trackio: a local database with a dashboard (`trackio show`), or a Hugging Face Space.

https://huggingface.co/docs/trackio
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from drpo_cli.settings import SpecPath, TrackerSettings
from drpo_cli.trackers import TrackedRun

CLIENT = "trackio"


class Config(TrackerSettings):
    """Options of trackio."""

    project: Annotated[str, Field(min_length=1)] = "drpo"
    """Project that the run belongs to."""
    run_name: str | None = None
    """Name of the run there; `run.name` when not set."""
    group: str | None = None
    """Group of runs that it belongs to."""
    space: str | None = None
    """Hugging Face Space to send to, as `"user/space"`; only this machine when not set."""
    folder: SpecPath | None = None
    """Folder of its database; TRACKIO_DIR or the one in Hugging Face's cache when not set."""


class Tracker:
    """A run of trackio; its name identifies it when it is opened again."""

    def __init__(self, config: Config, run: TrackedRun):
        if config.folder is not None:
            os.environ["TRACKIO_DIR"] = str(config.folder)  # read on import
        import trackio

        self.id = run.id or config.run_name or run.name
        self._run = trackio.init(
            project=config.project,
            name=self.id,
            group=config.group,
            space_id=config.space,
            config=dict(run.spec),
            resume="never" if run.id is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queues one step's values."""
        self._run.log(dict(values), step=step)

    def alert(self, step: int, title: str, text: str) -> None:
        """Queues an alert at a step."""
        self._run.alert(title=title, text=text, step=step)

    def close(self) -> None:
        """Waits until all is written."""
        self._run.finish()
