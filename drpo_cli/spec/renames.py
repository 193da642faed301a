"""Keys of older versions: what became of them, and what to say of a folder that still has them."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

RENAMED = {
    ("train", "logprob_chunk_tokens"): (
        "logits_mib",
        "was replaced by train.logits_mib, the size in MiB of a block of logits instead of tokens; "
        "take it out for the default of 8 MiB",
    ),
}
"""Section and key of an older version → the key that took its place, and how to migrate."""


def moved(section: str, name: str) -> str | None:
    """What became of a key that an older version had."""
    found = RENAMED.get((section, name))
    return found[1] if found else None


def note(path: Path) -> str:
    """What to say besides when the spec that a run folder was written with is wrong here."""
    versions = path.parent / "versions.json"
    if path.name != "spec.toml" or not versions.is_file():
        return ""
    try:
        wrote = json.loads(versions.read_text(encoding="utf-8"))["packages"]["drpo"]
    except (OSError, ValueError, LookupError, TypeError):
        wrote = "of unknown version"
    here = metadata.version("drpo")
    return (
        f"{path.parent} is a run folder that drpo {wrote} wrote, and this is drpo {here}: mend the "
        "keys above in its spec.toml, as the run's own TOML would be mended; the rest of the "
        "folder stays as it is"
    )
