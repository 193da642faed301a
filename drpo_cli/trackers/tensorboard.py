"""TensorBoard: event files, shown by `tensorboard --logdir runs`.

https://www.tensorflow.org/tensorboard; nothing leaves the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from drpo_cli.settings import SpecPath, TrackerSettings
from drpo_cli.trackers import TrackedRun

CLIENT = "tensorboard"


class Config(TrackerSettings):
    """Options of TensorBoard."""

    folder: SpecPath | None = None
    """Folder of event files, which gets a folder named after the run; the run's own folder when not
    set."""


class Tracker:
    """Event files with the metrics as scalars, and the spec and the alerts as text."""

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
        """Writes one event per value and flushes them."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def alert(self, step: int, title: str, text: str) -> None:
        """Writes a line of text."""
        self._writer.add_text("alerts", f"**{title}** {text}", step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
