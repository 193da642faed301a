"""Computes for a long time, in two processes."""

import os
import time

os.fork()
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
