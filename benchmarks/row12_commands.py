"""Seconds of `drpo --help` and `drpo check` ÷ those of importing the libraries that they use.

Whole processes, from fork to exit, alternately, with compiled bytecode on disk and their files in
the page cache. `drpo check` reads the quickstart's spec, whose model folder does not exist yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks._bench import Goal, Measured, Size, ratios, time_pairs

GOALS = (
    Goal("drpo --help ÷ importing pydantic, typer, rich, tomli", 2.0, at_most=True),
    Goal("drpo check ÷ importing pydantic, typer, rich, tomli", 2.0, at_most=True),
)
DRPO = str(Path(sys.executable).with_name("drpo"))
IMPORTS = (sys.executable, "-c", "import pydantic, typer, rich, tomli")
PAIRS: dict[Size, int] = {"full": 15, "smoke": 3}


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        _run(DRPO, "init", str(demo), "--template", "quickstart")
        commands = [(DRPO, "--help"), (DRPO, "check", str(demo / "run.toml"))]
        taken = [
            time_pairs(partial(_run, *command), partial(_run, *IMPORTS), PAIRS[size], warm=2)
            for command in commands
        ]
    return Measured(
        tuple(ratios(pairs) for pairs in taken),
        {"seconds_help_imports": taken[0], "seconds_check_imports": taken[1]},
    )


def _run(*command: str) -> None:
    # As when installed: pip compiles the bytecode, which this variable would prevent.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
