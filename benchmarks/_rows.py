"""Finds the rows, and runs one of them in its own process.

`python -m benchmarks._rows NAME SIZE FILE` is that process: it writes its result to FILE.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from benchmarks._bench import Goal, Measured, Size
from drpo_cli.dist import cores, environment
from drpo_cli.errors import UserError

FOLDER = Path(__file__).parent
CRASH_LINES = 40  # at the end of a row's log, shown after a crash


@dataclass(frozen=True)
class Row:
    """One file `rowNN_name.py`."""

    number: int
    name: str

    @property
    def module(self) -> str:
        """The file's name, without its ending."""
        return f"row{self.number:02d}_{self.name}"

    def threads(self) -> int:
        """OpenMP threads: the file's THREADS, else OMP_NUM_THREADS, else one per core."""
        # Parsed, not imported: its imports would load torch before the number is set.
        for node in ast.parse((FOLDER / f"{self.module}.py").read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "THREADS":
                return int(ast.literal_eval(node.value))
        return int(os.environ.get("OMP_NUM_THREADS") or cores())


@dataclass(frozen=True)
class Crash:
    """A row that ended with an error."""

    row: Row
    code: int
    log: Path

    def message(self) -> str:
        """The last lines of the row's output, with its traceback."""
        lines = self.log.read_text(errors="replace").splitlines()[-CRASH_LINES:]
        return "\n".join([f"row {self.row.number} ended with code {self.code}", *lines, ""])


def find(numbers: Sequence[int] = ()) -> list[Row]:
    """Finds the rows with these numbers, or all. Raises UserError for a number without a row."""
    found = []
    for path in sorted(FOLDER.glob("row[0-9][0-9]_*.py")):
        number, _, name = path.stem.removeprefix("row").partition("_")
        found.append(Row(int(number), name))
    if missing := set(numbers) - {row.number for row in found}:
        known = ", ".join(str(row.number) for row in found)
        raise UserError(f"there is no row {min(missing)} in {FOLDER}", f"choose one of {known}")
    return [row for row in found if not numbers or row.number in numbers]


def run(row: Row, size: Size, logs: Path) -> dict[str, Any] | Crash:
    """Measures a row in a fresh process that prints to a log; returns its result as in JSON."""
    logs.mkdir(parents=True, exist_ok=True)
    log, result = logs / f"{row.module}.log", logs / f"{row.module}.json"
    result.unlink(missing_ok=True)
    threads, load, began = row.threads(), os.getloadavg()[0], time.perf_counter()
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks._rows", row.module, size, str(result)],
            check=False,
            cwd=FOLDER.parent,
            env={**os.environ, **environment(threads)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode or not result.is_file():
        return Crash(row, done.returncode, log)
    return {
        "row": row.number,
        "name": row.name,
        "threads": threads,
        "load_before": load,
        "seconds": time.perf_counter() - began,
        **json.loads(result.read_text()),
    }


def measure(name: str, size: Size) -> dict[str, Any]:
    """Measures a row in this process."""
    module = importlib.import_module(f"benchmarks.{name}")
    goals: tuple[Goal, ...] = getattr(module, "GOALS", None) or (module.GOAL,)
    measured: Measured = module.measure(size)
    if len(measured.figures) != len(goals):
        raise ValueError(f"{name}: {len(measured.figures)} figures for {len(goals)} goals")
    return {
        "about": str(module.__doc__).splitlines()[0],
        "goals": [asdict(goal) for goal in goals],
        "figures": measured.figures,
        "notes": measured.notes,
    }


def main(name: str, size: Size, result: Path) -> NoReturn:
    """Measures a row, writes the result, and exits at once."""
    result.write_text(json.dumps(measure(name, size), indent=1))
    sys.stdout.flush()
    sys.stderr.flush()
    # An engine's remaining threads must not turn a finished measurement into a crash.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], "smoke" if sys.argv[2] == "smoke" else "full", Path(sys.argv[3]))
