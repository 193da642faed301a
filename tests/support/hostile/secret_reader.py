"""Prints its own environment, and that of every process that it can see."""

import os
import sys

sys.stdout.write(repr(dict(os.environ)))
for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
    if name.isdecimal():
        try:
            with open(f"/proc/{name}/environ", errors="replace") as file:
                sys.stdout.write(file.read())
        except OSError:
            continue
