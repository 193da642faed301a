"""One process of a run: `python -m drpo_cli.launch.worker RUN_FOLDER`, started by the launcher."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from drpo_cli.errors import EXIT_RUN_FAILED, EXIT_USER_ERROR, UserError
from drpo_cli.runs.events import one_line, say
from drpo_cli.runs.folder import RunFolder

PR_SET_PDEATHSIG = 1


def main(folder: RunFolder) -> int:
    """Runs this rank's part; returns the exit code. Leaves word of a failure for the launcher."""
    rank = int(os.environ["RANK"])
    _send_output_to(folder.log(rank))
    die_with_launcher()
    with _Recorder(folder, rank):
        return _run(folder, rank)
    return EXIT_RUN_FAILED


def _run(folder: RunFolder, rank: int) -> int:
    try:
        from drpo_cli.step.loop import run

        return run(folder)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = error.filename or folder.path
        message = f"{where}: the disk is full; free some space, then go on with --resume"
    sys.stderr.write(message + "\n")
    _leave_word(folder, rank, EXIT_USER_ERROR, message)
    return EXIT_USER_ERROR


def _leave_word(folder: RunFolder, rank: int, code: int, message: str) -> None:
    folder.record_error(rank, code, message)
    with suppress(OSError):  # the word is there; a full disk may be what it is about
        say(folder, f"rank {rank} failed: {one_line(message)}", "failed", rank=rank)


class _Recorder:
    """Leaves word of a crash, and ends it there: whoever called `main` has nothing to add."""

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
    ) -> bool:
        if error is None:
            return False
        message = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(message)
        _leave_word(self.folder, self.rank, EXIT_RUN_FAILED, message)
        return True


def leave(code: int) -> NoReturn:
    """Ends this process at once."""
    # An engine's leftover threads must not turn a finished run into a crash at exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send_output_to(log: Path) -> None:
    """Points everything this process prints to its log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def die_with_launcher() -> None:
    """Ties this process's life to that of the one that started it."""
    # Without it, workers of a launcher killed by SIGKILL would go on writing to the run folder.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    leave(main(RunFolder(Path(sys.argv[1]))))
