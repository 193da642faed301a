"""drpo: post-train language models with Divergence Regularized Policy Optimization.

    from drpo_cli import evaluate, load, open_run, train

    spec = load("run.toml", ["run.steps=20"])
    result = train(spec)
    print(result.exit_reason, result.final_score)

The functions are described in `drpo_cli.api` and docs/python.md. They are imported when they are
first used: `import drpo_cli` loads neither torch nor anything else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drpo_cli.api import RunResult, evaluate, load, open_run, train
    from drpo_cli.errors import UserError
    from drpo_cli.runs.saved import SavedRun
    from drpo_cli.spec import Spec, SpecError

__version__ = "0.1.0"
__all__ = [
    "RunResult",
    "SavedRun",
    "Spec",
    "SpecError",
    "UserError",
    "evaluate",
    "load",
    "open_run",
    "train",
]
_HOMES = {
    "SavedRun": "drpo_cli.runs.saved",
    "Spec": "drpo_cli.spec",
    "SpecError": "drpo_cli.spec",
    "UserError": "drpo_cli.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'drpo_cli' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "drpo_cli.api")), name)
