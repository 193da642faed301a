"""Makes torchao importable, which `make` installs in a folder of its own.

Where transformers finds torchao, every process that imports transformers imports it too, which
takes a second. Import this after transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import transformers.modeling_utils  # noqa: F401

sys.path.append(str(Path(sys.prefix) / "float8"))

from torchao.float8.float8_linear import Float8Linear as Float8Linear
