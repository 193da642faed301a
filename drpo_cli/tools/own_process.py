"""Runs the part of a verb that starts an engine in a process of its own.

An engine does not free everything when it closes, so each engine of a verb gets a fresh process.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from drpo_cli import processes
from drpo_cli.errors import EXIT_USER_ERROR, UserError


def run_apart(module: str, *arguments: object) -> str:
    """Runs `module`, whose main is `answer`, with these arguments; returns its answer.

    Ends with this process when this one is interrupted. Raises the module's UserError again, and
    RuntimeError, which names the log, if it ended in another way.
    """
    with tempfile.TemporaryDirectory(prefix="drpo-") as scratch:
        out = Path(scratch) / "answer"
        with tempfile.NamedTemporaryFile(prefix="drpo-", suffix=".log", delete=False) as file:
            log = Path(file.name)
        code = processes.run(processes.python(module, out, *arguments), log=log)
        if code not in (0, EXIT_USER_ERROR):
            raise RuntimeError(f"{module} ended with code {code}; its log is {log}")
        log.unlink()
        text = out.read_text(encoding="utf-8")
    if code == EXIT_USER_ERROR:
        raise UserError(text)
    return text


def answer(main: Callable[..., str]) -> int:
    """The main of such a module: writes what `main` returns for its arguments; the exit code."""
    out, *arguments = sys.argv[1:]
    try:
        text, code = main(*arguments), 0
    except UserError as error:
        text, code = str(error), EXIT_USER_ERROR
    Path(out).write_text(text, encoding="utf-8")
    return code
