"""Takes memory in eight processes, a little in each: 8 × 128 MiB."""

import os
import time

for _ in range(8):
    if os.fork() == 0:
        held = b"\1" * (128 << 20)
        time.sleep(20)
        os._exit(len(held) % 2)
time.sleep(20)
