"""Sleeps for a long time."""

import time

time.sleep(60)
