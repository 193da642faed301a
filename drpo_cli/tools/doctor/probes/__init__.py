"""Programs that the doctor runs in processes of their own; they speak in JSON lines."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(**found: Any) -> None:
    """Tells the doctor, at once: what comes after may not end."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
