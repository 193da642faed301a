"""`drpo eval --export FORMAT=DIR`: writes logs of an evaluation for other tools."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from drpo_cli.errors import UserError, writing
from drpo_cli.tools.exports import inspect_ai, lm_eval
from drpo_cli.tools.exports.results import Result


class Format(NamedTuple):
    """A format of logs: what writes it, and how a folder of them is opened."""

    write: Callable[[Path, Sequence[Result]], None]
    opened_by: str


FORMATS: Mapping[str, Format] = {
    "inspect": Format(inspect_ai.write, "`inspect view --log-dir {}` shows them"),
    "lm-eval": Format(lm_eval.write, "in lm-eval's layout, a folder for each model"),
}


class Exports:
    """The logs to write after an evaluation: collects its results, and what they are written from.

    The responses wait in a scratch folder, as long as this object.
    """

    def __init__(self, asked: Sequence[tuple[str, Path]]) -> None:
        self._asked = asked
        self._results: list[Result] = []
        self._scratch = tempfile.TemporaryDirectory(prefix="drpo-responses-")
        self._files = 0

    @staticmethod
    def read(texts: Sequence[str]) -> Exports | None:
        """Reads `FORMAT=DIR`, and makes the folders; None for no texts. Raises UserError."""
        asked = [_read(text) for text in texts]
        for _, folder in asked:  # now, not after hours of sampling
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return Exports(asked) if asked else None

    def new_file(self) -> str:
        """A file for the responses of another job."""
        self._files += 1
        return str(Path(self._scratch.name, f"{self._files}.jsonl"))

    def add(self, result: Result) -> None:
        """Takes a result that the logs will have."""
        self._results.append(result)

    def write(self) -> Iterator[str]:
        """Writes the logs; yields a sentence about each format."""
        for name, folder in self._asked:
            FORMATS[name].write(folder, self._results)
            yield f"wrote logs to {folder}: {FORMATS[name].opened_by.format(folder)}"


def _read(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if name not in FORMATS or not folder:
        formats = " or ".join(f"{known}=DIR" for known in FORMATS)
        raise UserError(f"--export {text}: is not FORMAT=DIR", f"write {formats}")
    return name, Path(folder)
