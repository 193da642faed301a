"""Kills the process that started it, and process 1."""

import contextlib
import os
import signal
import time

for pid in (os.getppid(), 1):
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
time.sleep(60)
