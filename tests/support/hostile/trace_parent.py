"""Writes into the memory of the process that started it."""

import os

with open(f"/proc/{os.getppid()}/mem", "r+b", buffering=0) as memory:
    memory.seek(4096)
    memory.write(b"x")
