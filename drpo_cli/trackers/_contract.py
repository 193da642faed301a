"""What a tracker is given, and what it has to have."""

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
    folder  the tracker's own folder in the run's, which exists
    runs    the folder that run folders lie in
    spec    the resolved spec as tables
    id      what the tracker called the run before, when it is opened again; else None
    """

    name: str
    folder: Path
    runs: Path
    spec: Mapping[str, Any]
    id: str | None


class Tracker(Protocol):
    """A run as a tracker has it open: what `Tracker(config, run)` returns.

    id     how to find the run again when a resumed run, or a retry, opens it once more
    log    takes the numbers of a step; called once a step, in their order, from one thread
    alert  takes a warning about the run, at the step that shows it
    close  hands over what is still on its way; called once, at the end

    What raises is tried again with a tracker opened anew, until the run has ended.
    """

    id: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def alert(self, step: int, title: str, text: str) -> None: ...

    def close(self) -> None: ...


def flat(record: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """The numbers of a record, tables inside it as `seconds/train`; the step itself is left out."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{within}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{within}{key}"] = value
    if not within:
        found.pop("step", None)
    return found


def settings_of(spec: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a spec with its value as text: `reward[0].type`, `exact_match`."""
    for key, value in spec.items():
        tables = value if isinstance(value, list) and value and isinstance(value[0], dict) else None
        if isinstance(value, Mapping):
            yield from settings_of(value, f"{within}{key}.")
        elif tables is not None:
            for i, table in enumerate(tables):
                yield from settings_of(table, f"{within}{key}[{i}].")
        else:
            yield f"{within}{key}", str(value)


def without_secrets(address: str) -> str:
    """The address as it is; ValueError where it holds a password, which the spec would record."""
    if re.search(r"://[^/]*@|[?&][^=]*(token|key|password)[^=]*=", address, re.IGNORECASE):
        raise ValueError(
            "holds a password or token, and specs are kept with every run; take it out and give "
            "it in the environment"
        )
    return address
