"""Prints 1 GiB."""

import os

for _ in range(1 << 10):
    os.write(1, b"x" * (1 << 20))
