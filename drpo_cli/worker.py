"""One process of a run: `python -m drpo_cli.worker RUN_FOLDER`, started by the launcher."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TextIO

from drpo_cli.errors import EXIT_RUN_FAILED, EXIT_USER_ERROR, UserError
from drpo_cli.run_folder import RunFolder

PR_SET_PDEATHSIG = 1


def main(folder: RunFolder) -> int:
    """Runs this rank's part; returns the exit code. Leaves word of a failure for the launcher."""
    rank = int(os.environ["RANK"])
    screen = _send_output_to(folder.log(rank))
    die_with_launcher()
    with _Recorder(folder, rank):
        return _run(folder, rank, screen)


def _run(folder: RunFolder, rank: int, screen: TextIO) -> int:
    try:
        from drpo_cli.loop import run

        return run(folder, screen)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = error.filename or folder.path
        message = f"{where}: the disk is full; free some space, then go on with --resume"
    sys.stderr.write(message + "\n")
    folder.record_error(rank, EXIT_USER_ERROR, message)
    return EXIT_USER_ERROR


class _Recorder:
    """Leaves word of a crash, and leaves: whoever called `main` has nothing to add."""

    def __init__(self, folder: RunFolder, rank: int):
        self.folder = folder
        self.rank = rank

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        message = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(message)
        self.folder.record_error(self.rank, EXIT_RUN_FAILED, message)
        leave(EXIT_RUN_FAILED)


def leave(code: int) -> NoReturn:
    """Ends this process at once."""
    # An engine's leftover threads must not turn a finished run into a crash at exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send_output_to(log: Path) -> TextIO:
    """Points everything this process prints to its log; returns the terminal it had."""
    screen = os.fdopen(os.dup(1), "w")
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    return screen


def die_with_launcher() -> None:
    """Ties this process's life to that of the one that started it."""
    # Without it, workers of a launcher killed by SIGKILL would go on writing to the run folder.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    leave(main(RunFolder(Path(sys.argv[1]))))
