"""Which checkpoints a run folder holds, and what was recorded with them; loads nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drpo_cli.errors import UserError

MARKER = "complete.json"
"""Written last into a checkpoint: a folder without it is not whole."""
_BYTES_PER_WEIGHT = 12  # float32: the weight and AdamW's two moments
_BYTES_BESIDES = 2**24  # configuration, tokenizer and what the format itself takes


def checkpoint_bytes(weights: int) -> int:
    """Bytes that a checkpoint of so many weights takes, a critic's included."""
    return _BYTES_PER_WEIGHT * weights + _BYTES_BESIDES


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = sorted(marker.parent for marker in folder.glob(f"step-*/{MARKER}"))
    return [path for path in found if path.suffix != ".partial"]


def read(checkpoint: Path) -> dict[str, Any]:
    """What was recorded with a checkpoint. Raises UserError when it is not a whole one."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        raise UserError(f"{checkpoint} is not a whole checkpoint: it has no {MARKER}")
    record: dict[str, Any] = json.loads(marker.read_text())
    return record


def latest(target: Path) -> Path:
    """A checkpoint itself, or the newest one of a run folder."""
    if (target / MARKER).is_file():
        return target
    found = complete(target / "checkpoints")
    if not found:
        raise UserError(f"{target} is neither a whole checkpoint nor a run folder with one")
    return found[-1]
