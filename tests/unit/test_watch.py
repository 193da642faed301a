"""`drpo watch` on folders as runs leave them: several, no terminal, a dumb one, no run at all."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drpo_cli.runs.events import say
from support.command import drpo
from support.runs import metrics, run_folder, sample
from support.terminal import on_terminal


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of three runs, one of them by a version without events."""
    for number in (1, 2, 3):
        name = tmp_path / f"seed{number}"
        folder = run_folder(name, [metrics(s) for s in range(1, number + 1)], [sample(1, 1, "46")])
        say(folder, f"stopped after step {number}", "stopped")
    folder.events.unlink()
    (tmp_path / "notes.txt").write_text("no run")
    return tmp_path


def test_several_runs_are_a_row_each_at_80_columns_and_beside_each_other_at_200(runs: Path) -> None:
    with on_terminal("watch", runs) as terminal:
        assert terminal.end() == 0
        rows = [row.split() for row in terminal.text.splitlines() if row]
    assert [row[:3] for row in rows] == [
        ["run", "state", "step"],
        ["seed1", "stopped", "1/9"],
        ["seed2", "stopped", "2/9"],
        ["seed3", "stopped", "3/9"],
    ]
    every = [runs / "seed1", runs / "seed2", runs / "notes.txt"]
    with on_terminal("watch", *every[:2], size=(200, 24)) as terminal:
        assert terminal.end() == 0
        assert terminal.text.splitlines()[0].count("drpo on model") == 2
    assert b"\x1b[?1049h" not in terminal.written  # nothing to wait for, nothing to leave
    done = drpo("watch", *every)
    assert done.returncode == 2 and "notes.txt is not a run folder" in done.stderr


def test_a_dumb_terminal_and_a_pipe_get_lines(runs: Path) -> None:
    with on_terminal("watch", runs / "seed2", environment={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.written and b"step 2/9" in terminal.written
    piped = drpo("watch", runs)
    assert piped.returncode == 0
    lines = piped.stdout.splitlines()
    assert sum(line.startswith("seed3: step ") for line in lines) == 3
    assert "seed2: stopped after step 2" in lines and "seed1: training …" in lines
    once = drpo("watch", runs / "seed1", "--once")
    assert "step 1/9" in once.stdout and "\x1b" not in once.stdout
    assert len(drpo("watch", runs, "--once").stdout.splitlines()) == 4


def test_a_picture_asks_the_network_for_nothing(runs: Path) -> None:
    picture = runs / "view.svg"
    assert drpo("watch", runs / "seed3", "--out", picture).returncode == 0
    root = ElementTree.parse(picture).getroot()
    seen = " ".join("".join(root.itertext()).split())
    assert "R\xa0rollout\xa040%" in seen or "R rollout 40%" in seen
    outside = re.findall(r"https?://[^\s\"']+", picture.read_text())
    assert set(outside) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
    refused = drpo("watch", runs / "seed3", "--out", runs / "none" / "view.svg")
    assert refused.returncode == 2 and "No such file or directory; name a file" in refused.stderr


def test_colour_on_a_terminal_unless_it_is_unwanted(runs: Path) -> None:
    seen = {}
    for colour in ("", "1"):
        environment = {"NO_COLOR": colour} if colour else {}
        with on_terminal("watch", runs / "seed1", "--once", environment=environment) as terminal:
            assert terminal.end() == 0
        seen[colour] = terminal.written
        assert "R rollout 40%" in terminal.text
    assert b"\x1b[37;44mR" in seen[""] and b"37;44m" not in seen["1"]
