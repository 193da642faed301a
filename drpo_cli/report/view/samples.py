"""The newest step's best and worst completion, from the end of samples.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drpo_cli.runs.records import parse_line

FIRST, MOST = 2**18, 2**23  # bytes of the file's end that are looked at


@dataclass(frozen=True)
class Extremes:
    """Records of samples.jsonl of one step; the same one where it has a single scored sample."""

    step: int
    best: Mapping[str, Any]
    worst: Mapping[str, Any]


def newest(path: Path) -> Extremes | None:
    """Best and worst of the last step in the file; None where nothing is scored there.

    Of a step that takes more than MOST bytes, its last samples.
    """
    wanted = FIRST
    while True:
        records, whole = _last(path, wanted)
        step = records[-1].get("step") if records else None
        own = [r for r in records if r.get("step") == step and r.get("reward") is not None]
        begun = whole or (bool(records) and records[0].get("step") != step)
        if begun or wanted >= MOST:
            break
        wanted *= 4
    if not own or not isinstance(step, int):
        return None
    return Extremes(step, max(own, key=_reward), min(own, key=_reward))


def _reward(record: Mapping[str, Any]) -> float:
    return float(record["reward"])


def _last(path: Path, wanted: int) -> tuple[list[dict[str, Any]], bool]:
    # Whole lines among the last bytes, and whether that is all of the file
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            begin = max(0, size - wanted)
            file.seek(begin)
            lines = file.read(size - begin).split(b"\n")
    except FileNotFoundError:
        return [], True
    found = [parse_line(line) for line in lines[1 if begin else 0 : -1]]
    return [record for record in found if record is not None], begin == 0
