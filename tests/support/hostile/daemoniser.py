"""Ends at once, and leaves a process running in a session of its own, without a parent."""

import os
import sys
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(60)
        with open("late", "w") as file:
            file.write("still here")
    os._exit(0)
os.wait()
sys.stdout.write("gone")
