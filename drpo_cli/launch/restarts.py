"""Starts the ranks of a run again after a crash, from the last checkpoint.

Torch elastic can restart ranks too (`max_restarts`), but it does so within a second and for every
exit code: also for a user's mistake, and without a look at what the ranks recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing import SignalException

from drpo_cli.errors import EXIT_RUN_FAILED
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.meeting import Meeting
from drpo_cli.runs.events import one_line, say_if_room
from drpo_cli.runs.metrics import Stepped
from drpo_cli.runs.reader import read
from drpo_cli.runs.records import Records

PAUSE_S = 5.0  # a machine that ran out of memory, or a device that was reset, needs a moment


Start = Callable[[], tuple[int, str]]
"""Runs the ranks once; returns the exit code, and what is not shown yet."""


def run_with_restarts(
    failures: Failures, restarts: int, start: Start, meeting: Meeting | None = None
) -> tuple[int, str]:
    """Runs the ranks, and after a crash again, at most `restarts` times; returns as `start` does.

    Gives up when the same step fails a second time, with the reason of its first failure. The
    other nodes of a meeting learn each time whether they start again.
    """
    reasons: dict[int, str] = {}
    while True:
        code, message = start()
        end = message
        if code == EXIT_RUN_FAILED and restarts:
            end = _reason_to_end(failures, restarts, reasons, message)
        over = code != EXIT_RUN_FAILED or not restarts or bool(end)
        if meeting is not None and restarts:
            meeting.tell(f"restart/{meeting.begun}", not over)
        if over:
            return code, end
        _pause(failures, restarts, reasons)


def follow_restarts(restarts: int, start: Start, meeting: Meeting) -> tuple[int, str]:
    """Runs the ranks of a node that is not the first, as often as the first one does."""
    while True:
        code, message = start()
        if not restarts or not meeting.hear(f"restart/{meeting.begun}"):
            return code, message


def _reason_to_end(failures: Failures, restarts: int, reasons: dict[int, str], message: str) -> str:
    """What to show of a crash after which nothing starts again; empty if it is worth another try.

    `reasons` has the step and the reason of each failure so far, and gets this one.
    """
    metrics = read(failures.folder.metrics, Stepped)
    failed = 1 + max((record["step"] for record in metrics), default=-1)
    if failed in reasons:
        text = f"step {failed} failed again after a restart; at first: {reasons[failed]}"
        return f"{message}error: {text}\n"
    if len(reasons) == restarts:
        return f"{message}error: all restarts are used up (run.restarts = {restarts})\n"
    reasons[failed] = one_line(failures.reason() or message)
    return ""


def _pause(failures: Failures, restarts: int, reasons: dict[int, str]) -> None:
    """Says why the ranks start again, waits a moment, and removes what the last start left."""
    folder, (step, reason) = failures.folder, list(reasons.items())[-1]
    Records(folder.events).end_line()  # a rank may have been killed while it wrote
    say_if_room(
        folder,
        f"restart {len(reasons)} of {restarts} from the last checkpoint, in {PAUSE_S:g} s; "
        f"step {step} failed: {reason}",
        "starting",
    )
    try:
        time.sleep(PAUSE_S)
    except SignalException:
        say_if_room(folder, "stopped before a restart; continue with --resume", "stopped")
        raise
    failures.forget()
