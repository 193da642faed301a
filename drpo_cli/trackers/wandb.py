"""Weights & Biases: in the cloud, on your own server, or offline for `wandb sync`.

https://docs.wandb.ai; log in with `wandb login` or WANDB_API_KEY. It gets the metrics, the spec,
the alerts, and what the client itself reports about the machine; no code, git state or output.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from drpo_cli.settings import TrackerSettings
from drpo_cli.trackers import TrackedRun, refuse_secrets

CLIENT = "wandb"
LONGEST_TITLE = 63  # characters; the client refuses more


class Config(TrackerSettings):
    """Options of Weights & Biases."""

    project: Annotated[str, Field(min_length=1)] = "drpo"
    """Project that the run belongs to."""
    entity: str | None = None
    """User or team that the project belongs to; your default one when not set."""
    run_name: str | None = None
    """Name of the run there; `run.name` when not set."""
    group: str | None = None
    """Group of runs that it belongs to."""
    tags: tuple[str, ...] = Field(default=(), strict=False)
    """Tags of the run."""
    mode: Literal["online", "offline"] = "online"
    """Send during the run; or write to the run's folder, for `wandb sync` to send later."""
    base_url: Annotated[str, AfterValidator(refuse_secrets)] | None = None
    """Address of your own server; WANDB_BASE_URL or the cloud when not set."""


class Tracker:
    """A run of Weights & Biases."""

    def __init__(self, config: Config, run: TrackedRun):
        import wandb

        settings = wandb.Settings(console="off", save_code=False, disable_git=True)
        if config.base_url is not None:
            settings.base_url = config.base_url
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.run_name or run.name,
            group=config.group,
            tags=config.tags,
            mode=config.mode,
            dir=str(run.folder),
            id=run.id,
            resume="allow",
            reinit="finish_previous",
            config=dict(run.spec),
            allow_val_change=True,  # of a resumed run: its spec may have more steps
            settings=settings,
        )
        self.id: str = self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queues one step's values."""
        self._run.log(dict(values), step=step)

    def alert(self, step: int, title: str, text: str) -> None:
        """Sends an alert, which goes where the user's settings at Weights & Biases say."""
        self._run.alert(title=title[:LONGEST_TITLE], text=f"step {step}: {text}", level="WARN")

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()
