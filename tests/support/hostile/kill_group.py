"""Kills its process group."""

import os
import signal
import time

os.killpg(0, signal.SIGKILL)
time.sleep(60)
