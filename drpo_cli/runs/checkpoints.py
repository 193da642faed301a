"""Finds the checkpoints of a run and reads their records; loads no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError

MARKER = "complete.json"
"""Written last into a checkpoint: a folder without it is incomplete."""
_BYTES_PER_WEIGHT = 12  # float32: the weight and AdamW's two moments
_BYTES_BESIDES = 2**24  # configuration, tokenizer, and overhead of the format


def checkpoint_bytes(weights: int) -> int:
    """Bytes of a checkpoint with this number of weights, those of a critic included."""
    return _BYTES_PER_WEIGHT * weights + _BYTES_BESIDES


def complete(folder: Path) -> list[Path]:
    """Finds the complete checkpoints in a folder, oldest first."""
    found = sorted(marker.parent for marker in folder.glob(f"step-*/{MARKER}"))
    return [path for path in found if path.suffix != ".partial"]


def read(checkpoint: Path) -> dict[str, Any]:
    """Reads the record of a checkpoint. Raises UserError when it is incomplete."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        raise UserError(f"{checkpoint} is not a complete checkpoint: it has no {MARKER}")
    record: dict[str, Any] = json.loads(marker.read_text())
    return record


def latest(target: Path) -> Path:
    """Finds the newest checkpoint of a run folder; a checkpoint stands for itself.

    Raises UserError when there is none.
    """
    if (target / MARKER).is_file():
        return target
    found = complete(target / "checkpoints")
    if not found:
        raise UserError(f"{target} is neither a complete checkpoint nor a run folder with one")
    return found[-1]
