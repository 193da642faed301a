"""Files of the user that import other files of their folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli import plugins
from drpo_cli.rewards import math_verify
from support.rewards import graded, group

ENTRIES = {
    "data": "def load(config): return helper.VALUE",
    "rollout": "def Engine(*a): return helper.VALUE",
    "rewards": "def reward(completion): return helper.VALUE",
    "advantages": "def advantages(*a): return helper.VALUE",
    "objectives": "def loss(*a): return helper.VALUE",
    "environments": "def Environment(*a): return helper.VALUE",
    "trackers": "def Tracker(*a): return helper.VALUE",
}


def write(folder: Path, value: float, entry: str, neighbour: str = "helper") -> str:
    folder.mkdir()
    (folder / f"{neighbour}.py").write_text(f"VALUE = {value}\n")
    (folder / "mine.py").write_text(f"import {neighbour} as helper\n{entry}\n")
    return f"{folder}/mine.py"


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_kind_of_plugin_imports_the_files_beside_it(tmp_path: Path, kind: str) -> None:
    neighbour = f"beside_{kind}"
    file = write(tmp_path / "a", 0.5, ENTRIES[kind], neighbour)
    entry = plugins.load(kind, file).entry
    assert entry(*[None] * (kind in ("data", "rewards"))) == 0.5


@pytest.mark.parametrize("start", ["from helper.inner import VALUE\n", None])
def test_files_of_two_folders_get_their_own_neighbours(tmp_path: Path, start: str | None) -> None:
    one = write(tmp_path / "one", 0.25, ENTRIES["rewards"])
    package = tmp_path / "two" / "helper"
    two = write(tmp_path / "two", 9, ENTRIES["rewards"])
    (tmp_path / "two" / "helper.py").unlink()
    package.mkdir()
    if start is not None:
        (package / "__init__.py").write_text(start)
    (package / "inner.py").write_text("VALUE = 0.75\n")
    (tmp_path / "two" / "mine.py").write_text(
        "from helper import inner as helper\n" + ENTRIES["rewards"]
    )
    three = write(tmp_path / "three", 0.125, ENTRIES["rewards"])
    assert plugins.load("rewards", one).entry("") == 0.25
    assert plugins.load("rewards", two).entry("") == 0.75
    assert plugins.load("rewards", three).entry("") == 0.125
    assert plugins.load("rewards", one).entry("") == 0.25
    assert [sys.path.count(str(tmp_path / name)) for name in ("one", "two")] == [1, 1]


def test_the_processes_of_rewards_find_neighbours_too(tmp_path: Path) -> None:
    lazily = "def reward(completion):\n    import also\n    return helper.VALUE + also.VALUE"
    file = write(tmp_path / "a", 0.5, lazily, "beside_worker")
    (tmp_path / "a" / "also.py").write_text("VALUE = 0.125\n")
    selected = plugins.Selected("rewards", file, plugins.load("rewards", file).Config())
    assert graded([selected], [group("1", "2")]).scores_P[0].total_G == (0.625, 0.625)


def test_a_neighbour_does_not_replace_what_is_installed(tmp_path: Path) -> None:
    """In a process that has not imported the library yet."""
    folder = tmp_path / "a"
    write(folder, 0.5, ENTRIES["rewards"], "math_verify")
    code = (
        "from drpo_cli import plugins; from drpo_cli.rewards.math_verify import Config, reward;"
        f"mine = plugins.load('rewards', {str(folder / 'other.py')!r});"
        "import math_verify; print(math_verify.__file__)"
    )
    (folder / "other.py").write_text("def reward(completion): return 0.0\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "site-packages" in done.stdout
    assert math_verify.IMPORTS
