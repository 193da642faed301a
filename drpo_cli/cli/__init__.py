"""The verbs. Each reads its arguments and calls the module that does the work."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from drpo_cli import __version__, secrets
from drpo_cli.cli import after, before, during, environments, parts
from drpo_cli.cli.common import app
from drpo_cli.errors import EXIT_USER_ERROR, UserError, os_message
from drpo_cli.terminal import OutputError, guard_streams

EXIT_PIPE_CLOSED = 141  # as of a program that SIGPIPE ended

__all__ = ["after", "app", "before", "during", "environments", "main", "parts"]


def main() -> None:
    """Runs the `drpo` command. Exits 2 on a user's mistake, 1 with a traceback on a bug."""
    guard_streams()
    try:
        try:
            app(prog_name="drpo")  # also as `python -m drpo_cli`
        finally:
            sys.excepthook = secrets.print_exception  # typer has set its own
            sys.stdout.flush()
    except UserError as error:
        _report(error)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        cause = error.cause if isinstance(error, OutputError) else error
        if isinstance(error, OutputError) and cause.errno == errno.EPIPE:
            sys.exit(EXIT_PIPE_CLOSED)
        message = os_message(cause, "the output", "try again")
        if message is None:
            if cause is error:
                raise
            message = str(error)
        sys.stderr.write(f"error: {message}\n")
        sys.exit(EXIT_USER_ERROR)


def _report(error: UserError) -> None:
    from drpo_cli.spec.problems import SpecError

    if isinstance(error, SpecError):
        from drpo_cli.console import open_console
        from drpo_cli.spec.excerpt import show

        show(open_console(sys.stderr), error)
        return
    text = str(error)
    sys.stderr.write(f"error: {text}\n" if "\n" not in text else f"error:\n{text}\n")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"drpo {__version__}")
        raise typer.Exit


@app.callback()
def drpo(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Post-train language models with Divergence Regularized Policy Optimization."""
