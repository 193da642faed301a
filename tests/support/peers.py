"""Evaluation tools that the Makefile installs beside the other packages, to open logs with.

They want other versions of some packages. Their folder comes last on the path, so that nothing in
it replaces another package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.append(str(Path(sys.prefix) / "peers"))
HAS_PEERS = all(importlib.util.find_spec(name) for name in ("inspect_ai", "lm_eval"))
