"""`python -m benchmarks.gpu [STEP …]`: runs the steps in order within a time limit.

Each step is a file `stepNN_name.py` with `measure(size)`, which yields findings. It runs in its own
process and its findings are written as they come, so a step that crashes, hangs or runs out of time
loses nothing: the table and `gpu.json` have what was found before. The exit code is 1 if a step
crashed, ran out of time, or found something outside its bound; 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.gpu._finding import Size
from drpo_cli.errors import EXIT_USER_ERROR

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
WIDTH = 150  # columns of the table in a file
LOG_LINES = 25  # of a failed step's log, shown after the table


def main(arguments: Sequence[str]) -> int:
    """Runs the steps that the arguments name; returns the exit code."""
    asked = _parser().parse_args(arguments)
    names = sorted(path.stem for path in FOLDER.glob("step*.py"))
    names = [n for n in names if not asked.steps or int(n[4:6]) in asked.steps]
    if asked.size == "full" and not _has_gpu():
        sys.stderr.write(
            "error: this machine has no GPU that torch can use; `--size smoke` runs tiny versions "
            "of the steps on a CPU\n"
        )
        return EXIT_USER_ERROR
    out = asked.out or ROOT / ".bench" / "gpu"
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * asked.minutes
    results: list[dict[str, Any]] = []
    for name in names:
        results.append(_run(name, asked.size, deadline - time.monotonic(), out))
        _write(results, out)
    for result in results:
        if result["ended"] not in ("done", "no time was left"):
            text = (out / f"{result['step']}.log").read_text(encoding="utf-8", errors="replace")
            sys.stdout.write("\n".join(["", result["step"], *text.splitlines()[-LOG_LINES:], ""]))
    return 0 if all(_is_good(result) for result in results) else 1


def measure(name: str, size: Size, file: Path) -> None:
    """Runs one step in this process; appends each finding to `file` as a line of JSON."""
    step = importlib.import_module(f"benchmarks.gpu.{name}")
    with file.open("a", encoding="utf-8") as lines:
        for finding in step.measure(size):
            lines.write(json.dumps(asdict(finding)) + "\n")
            lines.flush()


def _run(name: str, size: Size, left: float, out: Path) -> dict[str, Any]:
    result: dict[str, Any] = {"step": name, "ended": "no time was left", "findings": []}
    if left <= 0:
        return result
    sys.stderr.write(f"{name} …\n")
    file, began = out / f"{name}.jsonl", time.monotonic()
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", name, str(file), "--size", size]
    with (out / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = child.wait(timeout=left)
            result["ended"] = "done" if code == 0 else f"failed with code {code}"
        except subprocess.TimeoutExpired:
            result["ended"] = "ran out of time"
        finally:
            _end(child)
    result["seconds"] = time.monotonic() - began
    if file.exists():
        result["findings"] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return result


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills what the step has started too: an engine or a run of its own."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _is_good(result: dict[str, Any]) -> bool:
    kept = all(finding["ok"] is not False for finding in result["findings"])
    return result["ended"] == "done" and kept


def _write(results: Sequence[dict[str, Any]], out: Path) -> None:
    """Writes everything found so far, and prints the table of the newest step."""
    (out / "gpu.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    Console().print(_table(results[-1:]), markup=False)
    with (out / "gpu.md").open("w", encoding="utf-8") as file:
        Console(file=file, width=WIDTH).print(_table(results), markup=False)


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.MARKDOWN)
    for column in ("step", "what", "found", "bound", ""):
        table.add_column(column)
    for result in results:
        name = result["step"][4:].replace("_", " ")
        for one in result["findings"]:
            verdict = {None: "", True: "ok", False: "NOT KEPT"}[one["ok"]]
            value = one["value"]
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            table.add_row(
                name, one["what"], f"{shown} {one['unit']}".strip(), one["limit"], verdict
            )
        if result["ended"] != "done":
            table.add_row(name, "", result["ended"], "", "NOT DONE")
    return table


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("steps", nargs="*", type=int, metavar="STEP", help="numbers; default: all")
    parser.add_argument("--size", choices=get_args(Size), default="full")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all steps together")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: .bench/gpu")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    if "--step" in sys.argv:
        given = _parser().parse_args()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        measure(given.step[0], given.size, Path(given.step[1]))
        os._exit(0)  # an engine's threads would keep the process alive
    sys.exit(main(sys.argv[1:]))
