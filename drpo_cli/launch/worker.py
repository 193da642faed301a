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
from drpo_cli.launch.heartbeat import Heartbeat
from drpo_cli.launch.watchdog import WATCHED, Watchdog, hang_limit
from drpo_cli.runs.events import one_line, say
from drpo_cli.runs.folder import RunFolder


def main(folder: RunFolder, terminal: TextIO | None = None) -> int:
    """Runs this rank's part and returns its exit code; records a failure for the launcher.

    terminal  where a failure is shown too: no launcher of ours shows it

    A rank that has neighbours does not return from a failure but ends at once: to unwind would stop
    the engine and free the process group, and both may wait for neighbours, which wait for it.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1))
    processes.print_to(folder.log(rank))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Or it would write to the run folder after its launcher is gone. What starts a task of
        # SLURM may end before the task does; there the job's end is the end of all its processes
        processes.die_with_parent()
    watch = Watchdog(folder, world, hang_limit(folder)).look if _watches() else lambda: None
    with Heartbeat(folder, rank, world, watch):
        try:
            from drpo_cli.step.loop import run

            return run(folder)
        except BaseException as error:  # at the end of the process: recorded, as Python would do
            code, message = _explain(error, folder)
            _record_failure(folder, rank, code, message, terminal)
            if world > 1:
                processes.exit_now(code)
            return code


def _watches() -> bool:
    """Whether this rank has to look for hanging ranks, because no launcher does."""
    return WATCHED not in os.environ and int(os.environ.get("LOCAL_RANK", 0)) == 0


def _explain(error: BaseException, folder: RunFolder) -> tuple[int, str]:
    """The exit code and the message for what a rank raised, which is printed too."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        message = str(error)
        _print(message + "\n")
        return EXIT_USER_ERROR, message
    _print(trace)
    if isinstance(error, OSError):
        found = os_message(error, folder.path, "continue with --resume")
    elif isinstance(error, MemoryError | RuntimeError) and _is_out_of_memory(error):
        what = f"memory ran out ({one_line(str(error)) or type(error).__name__})"
        fix = f"`drpo plan {folder.spec}` shows which settings need less, then continue with"
        found = f"{what}; {fix} --resume"
    else:
        found = None
    if found is None:
        return EXIT_RUN_FAILED, trace
    _print(found + "\n")
    return EXIT_USER_ERROR, found


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
    with suppress(OSError):  # a full disk may be its cause: the launcher will say that
        folder.record_error(rank, code, message)
        say(folder, f"rank {rank} failed: {one_line(message)}", "failed", rank=rank)
    if terminal is not None:
        with suppress(OSError):  # nobody reads it
            terminal.write(f"error: rank {rank}: {message}\n")
            terminal.flush()


def _print(text: str) -> None:
    with suppress(OSError):  # the log is on a full disk
        sys.stderr.write(text)
        sys.stderr.flush()


if __name__ == "__main__":
    # An engine's leftover threads must not turn a finished run into a crash at exit
    processes.exit_now(main(RunFolder(Path(sys.argv[1]))))
