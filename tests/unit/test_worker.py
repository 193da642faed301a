"""How a rank ends: what the machine refuses is one message, a bug keeps its traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder

FAULTS = {
    "python": "bytearray(2**40)",
    "torch": "torch.zeros(2**38)",
    "disk": "os.write(os.open('/dev/full', os.O_WRONLY), b'x')",
    "record": "(folder.path / 'no-such-folder' / 'file').write_text('x')",
    "bug": "{}['key']",
    "bug without a path": "os.waitpid(-1, 0)",
}
CODE = """
import json, os, resource, sys, types
from pathlib import Path
import torch
from drpo_cli.launch import worker
from drpo_cli.runs.folder import RunFolder
os.environ["RANK"] = "0"
resource.setrlimit(resource.RLIMIT_AS, (2**38, 2**38))
for name, code in json.loads(sys.argv[2]).items():
    folder = RunFolder(Path(sys.argv[1]) / name)
    def run(folder):
        exec(code)
    sys.modules["drpo_cli.step.loop"] = types.SimpleNamespace(run=run)
    with open(folder.path.with_suffix(".shown"), "w") as terminal:
        worker.main(folder, terminal)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder for each fault."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-c", CODE, str(folder), json.dumps(FAULTS)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    return folder


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("python", 2, "memory ran out (MemoryError); `drpo plan "),
        ("torch", 2, "memory ran out ([enforce fail at alloc_cpu.cpp"),
        ("disk", 2, "{run}: the disk is full; free some space, then continue with --resume"),
        ("record", 2, "{run}/no-such-folder/file: does not exist; create it, or name another path"),
        ("bug", 1, "Traceback"),
        ("bug without a path", 1, "Traceback"),
    ],
)
def test_a_rank_says_why_it_ended(runs: Path, name: str, code: int, said: str) -> None:
    run = RunFolder(runs / name)
    recorded = json.loads(run.error(0).read_text())
    assert recorded["code"] == code
    assert recorded["message"].startswith(said.replace("{run}", str(run.path)))
    shown = run.path.with_suffix(".shown").read_text()
    assert shown == f"error: rank 0: {recorded['message']}\n"
    assert ("\n" in recorded["message"]) == (code == 1)
    assert "Traceback" in run.log(0).read_text()  # for whoever looks deeper
