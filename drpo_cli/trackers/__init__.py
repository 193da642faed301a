"""Trackers: where metrics are sent besides metrics.jsonl, one plugin per file.

Here is what a tracker gets and what it must have; `launch/follower.py` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for.

    name    `run.name`
    folder  a folder for the tracker's own files, inside the run's folder; it exists
    runs    the folder that contains the run folders
    spec    the resolved spec as tables
    id      what the tracker called the run before, when it is opened again; else None
    """

    name: str
    folder: Path
    runs: Path
    spec: Mapping[str, Any]
    id: str | None


class Tracker(Protocol):
    """A run that is open in a tracker: what `Tracker(config, run)` returns.

    id     how to find the run again when a resumed run, or a retry, opens it once more
    log    takes the numbers of a step; called once per step, in order, from one thread
    alert  takes a warning about the run, at the step that shows it
    close  sends what is not sent yet; called once, at the end

    After an error the tracker is opened again and the call is repeated, until the run has ended.
    """

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def alert(self, step: int, title: str, text: str) -> None: ...

    def close(self) -> None: ...


def flatten(record: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """The numbers of a record by key, those of a table as `seconds/train`; without `step`."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{within}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{within}{key}"] = value
    if not within:
        found.pop("step", None)
    return found


def list_settings(spec: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a spec and its value as text: `reward[0].type`, `exact_match`."""
    for key, value in spec.items():
        tables = value if isinstance(value, list) and value and isinstance(value[0], dict) else None
        if isinstance(value, Mapping):
            yield from list_settings(value, f"{within}{key}.")
        elif tables is not None:
            for i, table in enumerate(tables):
                yield from list_settings(table, f"{within}{key}[{i}].")
        else:
            yield f"{within}{key}", str(value)


def refuse_secrets(address: str) -> str:
    """Returns the address; raises ValueError when it holds a password, as specs are recorded."""
    if re.search(r"://[^/]*@|[?&][^=]*(token|key|password)[^=]*=", address, re.IGNORECASE):
        raise ValueError(
            "holds a password or token, and specs are kept with every run; remove it and set it in "
            "the environment"
        )
    return address
