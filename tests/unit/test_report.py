"""Records survive kills and come from several processes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.runs.records import Records, read, read_at, read_with_offsets


def test_a_line_cut_short_is_left_out_and_written_again(tmp_path: Path) -> None:
    records = Records(tmp_path / "metrics.jsonl")
    for step in range(4):
        records.append({"step": step, "loss": math.nan if step == 1 else 0.5})
    with records.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in read(records.path)] == [0, 1, 2, 3]
    assert read(records.path)[1]["loss"] is None
    records.rewind(2)
    records.append({"step": 3})
    assert [json.loads(line)["step"] for line in records.path.open()] == [0, 1, 2, 3]


def test_nothing_that_is_not_finite_reaches_a_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "quarantine.jsonl")
    records.append({"step": 1, "scores": [0.5, math.inf, (math.nan, {"x": -math.inf})]})
    assert read(records.path) == [{"step": 1, "scores": [0.5, None, [None, {"x": None}]]}]
    records.extend([])
    assert len(read(records.path)) == 1


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
    found = read(path)
    assert len(found) == 3 * 60 * 4
    for at in range(0, len(found), 4):  # what was handed over together stands together
        whole = found[at : at + 4]
        assert {(r["who"], r["step"]) for r in whole} == {(whole[0]["who"], whole[0]["step"])}
        assert [r["i"] for r in whole] == [0, 1, 2, 3]
        assert all(r["text"] == r["who"] * 5000 for r in whole)


def test_a_broken_line_in_the_middle_is_no_cut_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(json.JSONDecodeError):
        read(path)


def test_lines_are_found_again_by_their_bytes(tmp_path: Path) -> None:
    records = Records(tmp_path / "samples.jsonl")
    records.extend({"step": step, "completion": "é\u2028\n" * step} for step in range(5))
    offsets = [at for at, _ in read_with_offsets(records.path)]
    assert [r["step"] for r in read_at(records.path, [offsets[3], offsets[0]])] == [3, 0]
