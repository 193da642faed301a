"""Packages that the Makefile installs beside the others, because they want other versions of them.

Their folder comes last on the path, so that nothing in it replaces another package.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.append(str(Path(sys.prefix) / "verifiers"))
HAS_VERIFIERS = importlib.util.find_spec("verifiers") is not None
