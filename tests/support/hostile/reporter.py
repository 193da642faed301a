"""Writes 1 GiB to the report, a little at a time."""

import os

for _ in range(1 << 18):
    os.write(3, b"x" * (1 << 12))
