"""Kills every process that it is allowed to."""

import contextlib
import os
import signal
import time

with contextlib.suppress(OSError):
    os.kill(-1, signal.SIGKILL)
time.sleep(60)
