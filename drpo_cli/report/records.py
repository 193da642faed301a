"""What a run leaves behind, one JSON object a line: metrics.jsonl and samples.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Records:
    """An append-only file of one JSON object a line, each with a `step`."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, step: int) -> None:
        """Drops lines after `step`, and a last line cut short: a resumed run writes them again."""
        if not self.path.is_file():
            return
        kept = [json.dumps(record) for record in read(self.path) if record["step"] <= step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line and hands it to the system, so that a killed run keeps it."""
        with self.path.open("a") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    # JSON has no NaN; a value that is not finite is recorded as missing
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a records file; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    *lines, tail = path.read_text().split("\n")
    if tail:
        try:
            json.loads(tail)
            lines.append(tail)
        except json.JSONDecodeError:
            pass  # the process died while writing it
    return [json.loads(line) for line in lines]
