"""Ignores every signal that can be ignored."""

import contextlib
import signal
import time

for number in signal.valid_signals():
    with contextlib.suppress(OSError):
        signal.signal(number, signal.SIG_IGN)
time.sleep(60)
