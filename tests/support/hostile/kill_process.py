"""Kills the process whose id is on stdin."""

import os
import signal
import sys

os.kill(int(sys.stdin.read()), signal.SIGKILL)
