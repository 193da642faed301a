"""TensorBoard: event files, looked at with `tensorboard --logdir runs`.

https://www.tensorflow.org/tensorboard; nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpo_cli.settings import SpecPath, TrackerSettings
from drpo_cli.trackers._contract import TrackedRun

CLIENT = "tensorboard"


class Config(TrackerSettings):
    """Options of TensorBoard."""

    folder: SpecPath | None = None
    """Where event files go, in a folder of the run's name; with the run's other files when not
    set."""


class Tracker:
    """Scalars, the spec and the alerts as text."""

    def __init__(self, config: Config, run: TrackedRun):
        import tomli_w
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder if config.folder is None else config.folder / run.name
        self.id = str(folder)
        self._writer = SummaryWriter(str(folder))
        if run.id is None:
            text = tomli_w.dumps(dict(run.spec))
            self._writer.add_text("spec", "    " + text.replace("\n", "\n    "), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one event a value, and hands them to the system."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def alert(self, step: int, title: str, text: str) -> None:
        """A line of text."""
        self._writer.add_text("alerts", f"**{title}** {text}", step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
