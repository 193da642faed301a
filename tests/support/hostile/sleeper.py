"""Does nothing for long."""

import time

time.sleep(60)
