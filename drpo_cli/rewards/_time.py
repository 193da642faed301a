"""A limit on the CPU time of a comparison: what a model writes can make one run for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LIMIT_S = 1.0
"""CPU seconds for one completion. Elapsed time would also count what other processes do."""


@contextmanager
def limited(seconds: float = LIMIT_S, error: type[BaseException] = TimeoutError) -> Iterator[None]:
    """Raises the error inside once this process has computed for so long.

    It is raised again after every further tenth of that: Python ignores what is raised while it
    deletes an object, and a library may catch it. It interrupts Python and its regular expressions.
    Signals reach the main thread only, where rewards run; elsewhere there is no limit but the
    `timeout_s` of the call.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
