"""One rank of a job that is not ours: `torchrun … -m drpo_cli.worker RUN_FOLDER`, as every task.

Continues the run of the folder from its newest checkpoint. `drpo train RUN.toml --external` begins
one, and becomes this program.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from drpo_cli import processes
from drpo_cli.errors import EXIT_USER_ERROR, UserError
from drpo_cli.launch.place import PREPARED
from drpo_cli.runs.folder import RunFolder


def main(arguments: list[str]) -> int:
    """Runs this rank's part; returns its exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("usage: torchrun … -m drpo_cli.worker RUN_FOLDER")
        if PREPARED not in os.environ:
            from drpo_cli.launch.external import continue_run

            continue_run(Path(arguments[0]))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    from drpo_cli.launch import worker

    terminal = open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    return worker.main(RunFolder(Path(arguments[0])), terminal)


if __name__ == "__main__":
    # An engine's leftover threads must not turn a finished run into a crash at exit
    processes.exit_now(main(sys.argv[1:]))
