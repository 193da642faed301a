"""Followers read only what is new, and know where a run stands from its files and locks."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.runs.events import State, say, state
from drpo_cli.runs.folder import LAUNCHER_LOCK, RUN_LOCK, RunFolder
from drpo_cli.runs.records import Records, Tail


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "spec.toml").write_text("[run]\nsteps = 2\n")
    return RunFolder(tmp_path)


@contextmanager
def elsewhere(folder: RunFolder, lock: str) -> Iterator[subprocess.Popen[str]]:
    """The folder held by another process."""
    code = (
        "import sys; from pathlib import Path; from drpo_cli.runs.folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(sys.argv[2]):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(folder.path), lock]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_a_tail_gives_whole_lines_once_and_leaves_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    Records(path).extend({"step": step} for step in range(3))
    assert [line["step"] for line in tail.new()] == [0, 1, 2]
    with path.open("a") as file:
        file.write('{"step": 3, "text": "\u2028')
    assert (tail.new(), tail.cut) == ([], True)
    with path.open("a") as file:
        file.write('"}\nno json\n{"step": 4}\n[5]\n')
    assert [line["step"] for line in tail.new()] == [3, 4]
    assert (tail.cut, tail.broken, tail.started_over) == (False, 2, False)


def test_a_tail_starts_over_when_a_resumed_run_rewound_the_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "metrics.jsonl")
    records.extend({"step": step, "try": 1} for step in range(6))
    tail = Tail(records.path)
    tail.new()
    records.rewind(2)
    assert [line["step"] for line in tail.new()] == [0, 1, 2]
    assert tail.started_over
    records.extend({"step": step, "try": 2} for step in range(3, 5))
    assert [line["step"] for line in tail.new()] == [3, 4]
    assert not tail.started_over
    records.rewind(1)  # and has grown beyond its old end before anyone looks
    records.extend({"step": step, "try": 3} for step in range(2, 9))
    assert [line.get("try") for line in tail.new()] == [1, 1] + [3] * 7
    records.path.write_text('{"step": 0}\n')  # written again in place
    assert (tail.new(), tail.started_over) == ([{"step": 0}], True)


@pytest.mark.parametrize("lock", [RUN_LOCK, LAUNCHER_LOCK])
def test_the_last_word_counts_while_somebody_holds_the_folder(folder: RunFolder, lock: str) -> None:
    wanted: tuple[State, ...] = ("starting", "running", "stopped")
    with elsewhere(folder, lock):
        assert state(folder) == "starting"
        for word in wanted:
            say(folder, f"it is {word}", word)
            say(folder, "something else")
            assert state(folder) == word
        say(folder, "resumed", "running")
        assert state(folder) == "running"
        if lock == RUN_LOCK:
            with pytest.raises(UserError, match="in use"), folder.lock():
                pass
    assert state(folder) == "failed"  # gone without a word
    say(folder, "done", "finished")
    assert state(folder) == "finished"
    assert {"time", "text", "state"} == json.loads(folder.events.open().readline()).keys()


def test_a_run_of_an_older_version_is_judged_by_its_metrics(folder: RunFolder) -> None:
    assert state(folder) == "stopped"
    Records(folder.metrics).append({"step": 1})
    assert state(folder) == "stopped"
    Records(folder.metrics).append({"step": 2})
    assert state(folder) == "finished"
    (folder.path / "logs").mkdir()
    folder.record_error(0, 1, "boom")
    assert state(folder) == "failed"
    with elsewhere(folder, RUN_LOCK):
        assert state(folder) == "running"
