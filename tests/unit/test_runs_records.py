"""Records survive kills, are followed while they grow, and tell the state of a run."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.errors import UserError
from drpo_cli.runs.events import say, state
from drpo_cli.runs.folder import LAUNCHER_LOCK, RUN_LOCK, RunFolder
from drpo_cli.runs.metrics import HeldOutRecord, State
from drpo_cli.runs.reader import Damage, iterate, iterate_lines, read
from drpo_cli.runs.records import Records, Tail

Line = dict[str, Any]


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


def test_a_line_cut_short_is_left_out_and_written_again(tmp_path: Path) -> None:
    records = Records(tmp_path / "metrics.jsonl")
    for step in range(4):
        records.append({"step": step, "loss": math.nan if step == 1 else 0.5})
    with records.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read(records.path, Line)] == [0, 1, 2, 3]
    assert read(records.path, Line)[1]["loss"] is None
    records.rewind(2)
    records.append({"step": 3})
    assert [json.loads(line)["step"] for line in records.path.open()] == [0, 1, 2, 3]


def test_nothing_that_is_not_finite_reaches_a_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "quarantine.jsonl")
    records.append({"step": 1, "scores": [0.5, math.inf, (math.nan, {"x": -math.inf})]})
    assert read(records.path, Line) == [{"step": 1, "scores": [0.5, None, [None, {"x": None}]]}]
    records.extend([])
    assert len(read(records.path, Line)) == 1


def test_processes_append_to_one_file_without_tearing_lines(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    code = (
        "import sys; from pathlib import Path; from drpo_cli.runs.records import Records\n"
        "who = sys.argv[2]\n"
        "for batch in range(60):\n"
        "    lines = [{'step': batch, 'who': who, 'i': i, 'text': who * 5000} for i in range(4)]\n"
        "    Records(Path(sys.argv[1])).extend(lines)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in ("a", "b", "c")
    ]
    assert [writer.wait(timeout=240) for writer in writers] == [0, 0, 0]
    found = read(path, Line)
    assert len(found) == 3 * 60 * 4
    for at in range(0, len(found), 4):  # what was handed over together stands together
        whole = found[at : at + 4]
        assert {(r["who"], r["step"]) for r in whole} == {(whole[0]["who"], whole[0]["step"])}
        assert [r["i"] for r in whole] == [0, 1, 2, 3]
        assert all(r["text"] == r["who"] * 5000 for r in whole)


def test_a_broken_line_in_the_middle_is_no_cut_and_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    damage = Damage()
    assert [line["step"] for line in iterate(path, Line, damage)] == [1, 3]
    assert damage == Damage(skipped=1, reason="line 2: not a JSON object")
    Records(path).rewind(3)  # as a resumed run does
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


@pytest.mark.parametrize("line", ['{"step": "\\ud800"}', '{"step": 1, "rates": [0.5, "\\ud800"]}'])
def test_half_a_character_where_a_number_belongs_is_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(line + '\n{"step": 2, "rates": [], "\\ud800": 1}\n')
    damage = Damage()
    assert list(iterate(path, HeldOutRecord, damage)) == [{"step": 2, "rates": [], "?": 1}]
    assert damage.skipped == 1 and damage.reason.startswith("line 1: Expected")


def test_lines_are_found_again_by_their_bytes(tmp_path: Path) -> None:
    records = Records(tmp_path / "samples.jsonl")
    records.extend({"step": step, "completion": "é\u2028\n" * step} for step in range(5))
    whole = records.path.read_bytes()
    found = list(iterate_lines(records.path, Damage()))
    assert [number for _, number, _ in found] == [1, 2, 3, 4, 5]
    assert all(whole[at:].startswith(line) for at, _, line in found)


def test_a_tail_gives_whole_lines_once_and_leaves_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path, Line)
    assert tail.new() == []
    Records(path).extend({"step": step} for step in range(3))
    assert [line["step"] for line in tail.new()] == [0, 1, 2]
    with path.open("a") as file:
        file.write('{"step": 3, "text": "\u2028')
    assert (tail.new(), tail.damage.cut) == ([], True)
    with path.open("a") as file:
        file.write('"}\nno json\n{"step": 4}\n[5]\n')
    assert [line["step"] for line in tail.new()] == [3, 4]
    assert (tail.damage.cut, tail.damage.skipped, tail.started_over) == (False, 2, False)


def test_a_tail_starts_over_when_a_resumed_run_rewound_the_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "metrics.jsonl")
    records.extend({"step": step, "try": 1} for step in range(6))
    tail = Tail(records.path, Line)
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
