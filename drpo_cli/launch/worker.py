"""One rank of a run: `python -m drpo_cli.launch.worker RUN_FOLDER`, started by the launcher.

Consumes   the prepared run folder; RANK, WORLD_SIZE and the meeting point in the environment
Waits for  the other ranks, in every collective of `step`
Produces   this rank's part of the run folder, an exit code, and on failure `logs/rankN.error`
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from drpo_cli import processes
from drpo_cli.errors import EXIT_RUN_FAILED, EXIT_USER_ERROR, UserError, os_message
from drpo_cli.runs.events import one_line, say
from drpo_cli.runs.folder import RunFolder


def main(folder: RunFolder, terminal: TextIO | None = None) -> int:
    """Runs this rank's part and returns its exit code; records a failure for the launcher.

    terminal  where a failure is shown too: no launcher of ours shows it
    """
    rank = int(os.environ["RANK"])
    processes.print_to(folder.log(rank))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Or it would write to the run folder after its launcher is gone. What starts a task of
        # SLURM may end before the task does; there the job's end is the end of all its processes
        processes.die_with_parent()
    try:
        return _train(folder, rank, terminal)
    except BaseException:  # at the end of the process: recorded and shown whole, as Python would
        message = traceback.format_exc()
        _print(message)
        _record_failure(folder, rank, EXIT_RUN_FAILED, message, terminal)
        return EXIT_RUN_FAILED


def _train(folder: RunFolder, rank: int, terminal: TextIO | None) -> int:
    try:
        from drpo_cli.step.loop import run

        return run(folder)
    except UserError as error:
        message = str(error)
    except OSError as error:
        found = os_message(error, folder.path, "continue with --resume")
        if found is None:
            raise
        message = found
        _print(traceback.format_exc())
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        what = f"memory ran out ({one_line(str(error)) or type(error).__name__})"
        fix = f"`drpo plan {folder.spec}` shows which settings need less, then continue with"
        message = f"{what}; {fix} --resume"
        _print(traceback.format_exc())
    _print(message + "\n")
    _record_failure(folder, rank, EXIT_USER_ERROR, message, terminal)
    return EXIT_USER_ERROR


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, torch's allocator on a CPU or that of a GPU found no room."""
    names = {type_.__name__ for type_ in type(error).__mro__}
    text = str(error)
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(
        words in text
        for words in ("can't allocate memory", "not enough memory", "can't start new thread")
    )


def _record_failure(
    folder: RunFolder, rank: int, code: int, message: str, terminal: TextIO | None
) -> None:
    if terminal is not None:
        with suppress(OSError):  # nobody reads it
            terminal.write(f"error: rank {rank}: {message}\n")
            terminal.flush()
    with suppress(OSError):  # a full disk may be its cause: the launcher will say that
        folder.record_error(rank, code, message)
        say(folder, f"rank {rank} failed: {one_line(message)}", "failed", rank=rank)


def _print(text: str) -> None:
    with suppress(OSError):  # the log is on a full disk
        sys.stderr.write(text)
        sys.stderr.flush()


if __name__ == "__main__":
    # An engine's leftover threads must not turn a finished run into a crash at exit
    processes.exit_now(main(RunFolder(Path(sys.argv[1]))))
