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
from drpo_cli.runs.events import one_line, say_if_room
from drpo_cli.runs.metrics import Stepped
from drpo_cli.runs.reader import read
from drpo_cli.runs.records import Records

PAUSE_S = 5.0  # a machine that ran out of memory, or a device that was reset, needs a moment


def run_with_restarts(
    failures: Failures, restarts: int, start: Callable[[], tuple[int, str]]
) -> tuple[int, str]:
    """Runs the ranks, and after a crash again, at most `restarts` times.

    `start` runs them once and returns the exit code and what is not shown yet; so does this. Gives
    up when the same step fails a second time, with the reason of its first failure.
    """
    folder = failures.folder
    reasons: dict[int, str] = {}
    while True:
        code, message = start()
        if code != EXIT_RUN_FAILED or not restarts:
            return code, message
        failed = 1 + max((record["step"] for record in read(folder.metrics, Stepped)), default=-1)
        if failed in reasons:
            text = f"step {failed} failed again after a restart; at first: {reasons[failed]}"
            return code, f"{message}error: {text}\n"
        if len(reasons) == restarts:
            return code, f"{message}error: all restarts are used up (run.restarts = {restarts})\n"
        reasons[failed] = one_line(failures.reason() or message)
        Records(folder.events).end_line()  # a rank may have been killed while it wrote
        say_if_room(
            folder,
            f"restart {len(reasons)} of {restarts} from the last checkpoint, in {PAUSE_S:g} s; "
            f"step {failed} failed: {reasons[failed]}",
            "starting",
        )
        try:
            time.sleep(PAUSE_S)
        except SignalException:
            say_if_room(folder, "stopped before a restart; continue with --resume", "stopped")
            raise
        failures.forget()
