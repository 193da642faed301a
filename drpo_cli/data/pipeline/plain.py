"""Paths for the `datasets` library, which gives a meaning to many characters of a path.

It expands patterns (`*`, `?`, `[`, `{`), and reads `::` and `://` as addresses. Such a path gets a
link with a plain name, in the cache of `datasets`. The name depends on the path alone, so that rows
that were copied into the cache are found there again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from drpo_cli.settings import PLAIN_PATH


def plain_path(path: Path) -> Path:
    """The path, or where it holds other than plain characters, a plain link to the same.

    For a folder, it is a folder of links to its files, because `datasets` follows the link of a
    folder before it expands patterns.
    """
    path = path.absolute()
    if PLAIN_PATH.fullmatch(str(path)):
        return path
    from datasets import config

    digest = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:16]
    links = Path(config.HF_DATASETS_CACHE) / "drpo-links" / digest
    if path.is_file():
        return _link(links / f"rows{path.suffix}", path)
    files = {file.relative_to(path): file for file in path.rglob("*") if file.is_file()}
    links = links / "rows"
    for old in [file for file in links.rglob("*") if file.is_symlink()]:
        if old.relative_to(links) not in files:
            old.unlink(missing_ok=True)
    for name, file in files.items():
        _link(links / name, file)
    return links


def _link(link: Path, target: Path) -> Path:
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # of an earlier run, or of another rank
        link.symlink_to(target)
    return link
