"""MLflow, on a tracking server or in a local database.

https://mlflow.org/docs/latest/ml/tracking; credentials come from MLflow's environment variables.
A local database needs only the extra; to look at it with `mlflow ui`, install `mlflow`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from pydantic import AfterValidator, Field

from drpo_cli.settings import TrackerSettings
from drpo_cli.trackers import TrackedRun, list_settings, refuse_secrets

CLIENT = "mlflow"
BATCH_SIZE = 100  # parameters per request, at most
LONGEST_PARAMETER = 6000  # characters


class Config(TrackerSettings):
    """Options of MLflow."""

    uri: Annotated[str, AfterValidator(refuse_secrets)] | None = None
    """Tracking server, or a database as `"sqlite:////data/mlflow.db"`; MLFLOW_TRACKING_URI when
    not set, else `mlflow.db` in `run.folder`."""
    experiment: Annotated[str, Field(min_length=1)] = "drpo"
    """Experiment that the run belongs to."""
    run_name: str | None = None
    """Name of the run there; `run.name` when not set."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the run."""


class Tracker:
    """A run of an experiment, through the client without global state."""

    def __init__(self, config: Config, run: TrackedRun):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        given = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = given or f"sqlite:///{self._plain(run.runs.absolute()) / 'mlflow.db'}"
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.id = run.id or self._create_run(config, run)
        self._client.update_run(self.id, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends one step's values in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_key(key), value, now, step) for key, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def alert(self, step: int, title: str, text: str) -> None:
        """Sets a tag of the run, because MLflow has no alerts."""
        self._client.set_tag(self.id, _key(f"alert {step} {title}"), text)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self.id)

    def _plain(self, folder: Path) -> Path:
        """The folder, or a link to it if its path would end at a `?` in an address."""
        if "?" not in str(folder):
            return folder
        self._scratch = TemporaryDirectory(prefix="drpo-mlflow-")  # as long as this tracker
        link = Path(self._scratch.name) / "runs"
        link.symlink_to(folder, target_is_directory=True)
        return link

    def _create_run(self, config: Config, run: TrackedRun) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(config.experiment)
        experiment = found.experiment_id if found else None
        if experiment is None:
            experiment = self._client.create_experiment(config.experiment)
        name = config.run_name or run.name
        begun = self._client.create_run(experiment, run_name=name, tags=dict(config.tags))
        given = [Param(_key(k), v[:LONGEST_PARAMETER]) for k, v in list_settings(run.spec)]
        for i in range(0, len(given), BATCH_SIZE):
            self._client.log_batch(begun.info.run_id, params=given[i : i + BATCH_SIZE])
        return str(begun.info.run_id)


def _key(name: str) -> str:
    # Names of rewards and options may have characters that MLflow does not allow
    return re.sub(r"[^\w\-./ ]", "_", name)
