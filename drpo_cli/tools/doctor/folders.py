"""Folders that a run writes to: whether it may, and what room there is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong

GIB = 2**30
_LITTLE = 2 * GIB


def hub_cache() -> Path:
    """Where models and data sets of the hub are kept."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def temporary() -> Path:
    """Where temporary files go. Raises FileNotFoundError where there is no usable folder."""
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir())


def folder(check: str, path: Path, variable: str, needs: int = 0) -> Iterator[Finding]:
    """Whether a file can be made in it, or it in its nearest ancestor, and `needs` bytes fit.

    variable  what to set to have another one
    """
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        fix = f"make it writable, or set {variable} to another folder"
        yield wrong(check, f"{path} is not writable: {error.strerror}", fix)
        return
    free = shutil.disk_usage(existing).free
    text = f"{path}: writable, {free / GIB:.1f} GiB free"
    if free < max(needs, _LITTLE // 16):
        want = f", and this spec's checkpoints take {needs / GIB:.1f} GiB" if needs else ""
        yield wrong(check, text + want, f"free some space, or set {variable} to another folder")
    elif free < needs + _LITTLE:
        yield warning(check, text, f"free some space, or set {variable} to another folder")
    else:
        yield ok(check, text)
