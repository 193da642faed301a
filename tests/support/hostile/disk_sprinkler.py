"""Writes many files of 1 MiB, up to 1 GiB in all, with pauses."""

import time

for i in range(1024):
    with open(f"small-{i}", "wb") as file:
        file.write(b"\1" * (1 << 20))
    time.sleep(0.001)
