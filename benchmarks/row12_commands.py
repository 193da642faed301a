"""Seconds of `drpo --help` and `drpo check` ÷ those of importing the libraries that they stand on.

Whole processes, from fork to exit, in turns, with compiled bytecode on the disk and their files in
memory. `drpo check` reads the quickstart's spec, whose model folder is not there yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks._bench import Goal, Measured, Size, paired, ratios

GOALS = (
    Goal("drpo --help ÷ importing pydantic, typer, rich, tomli", 2.0, at_most=True),
    Goal("drpo check ÷ importing pydantic, typer, rich, tomli", 2.0, at_most=True),
)
DRPO = str(Path(sys.executable).with_name("drpo"))
IMPORTS = (sys.executable, "-c", "import pydantic, typer, rich, tomli")
PAIRS: dict[Size, int] = {"full": 15, "smoke": 3}


def measure(size: Size) -> Measured:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        _run(DRPO, "init", str(demo), "--template", "quickstart")
        commands = [(DRPO, "--help"), (DRPO, "check", str(demo / "run.toml"))]
        taken = [
            paired(partial(_run, *command), partial(_run, *IMPORTS), PAIRS[size], warm=2)
            for command in commands
        ]
    return Measured(
        tuple(ratios(pairs) for pairs in taken),
        {"seconds_help_imports": taken[0], "seconds_check_imports": taken[1]},
    )


def _run(*command: str) -> None:
    # As installed: pip compiles what it installs, and a checkout may be told to leave no bytecode.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
