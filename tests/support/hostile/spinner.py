"""Computes for long, in two processes."""

import os
import time

os.fork()
end = time.monotonic() + 60
while time.monotonic() < end:
    pass
