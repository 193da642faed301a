"""Records survive kills and come from several processes; the screens show a step."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drpo_cli.report import screen
from drpo_cli.report.records import Records, at_bytes, located, read

METRICS: dict[str, Any] = {
    "reward": 0.5, "shift_p99": 0.1, "corrective_share": 0.02, "gap": 2e-7, "entropy": 0.4,
    "grad_norm": 0.9, "response_length": 4.0,
    "seconds": {"rollout": 0.2, "train": 0.3, "step": 0.5},
    "tokens_per_second": {"rollout": 9000.0, "train": 8000.0},
}  # fmt: skip
FAILED: dict[str, Any] = {
    "rewards": {"exact_match": 0.5, "[red]judge": None},
    "grading": {
        "exact_match": {"failures": {}},
        "[red]judge": {"failures": {"timeout": 3, "crash": 1}},
    },
    "skipped_samples": 4,
}  # fmt: skip


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


def test_plain_lines_when_not_a_terminal() -> None:
    stream = io.StringIO()
    shown = screen.open_screen(stream, "title", steps=9)
    shown.step(3, {**METRICS, "held_out": 0.75}, [("12+34=", "640")])
    shown.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("step 3/9  reward 0.500")
    assert "gap 2.00e-07" in line
    assert "held-out 0.750" in line


@pytest.mark.parametrize(
    ("kinds", "skipped", "expected"),
    [
        ({}, 0, ""),
        ({"judge": {"timeout": 3}}, 0, "failures judge 3 timeout"),
        (
            {"judge": {"timeout": 3, "crash": 1}, "http": {"exception": 2}}, 1,
            "failures judge 3 timeout 1 crash, http 2 exception; 1 sample skipped",
        ),
        ({"judge": {}}, 2, "failures 2 samples skipped"),
    ],
)  # fmt: skip
def test_a_plain_line_ends_with_what_failed_in_the_step(
    kinds: dict[str, dict[str, int]], skipped: int, expected: str
) -> None:
    stream = io.StringIO()
    grading = {name: {"calls": 8, "failures": failures} for name, failures in kinds.items()}
    shown = screen.open_screen(stream, "title", steps=9)
    shown.step(3, {**METRICS, "grading": grading, "skipped_samples": skipped}, [])
    (line,) = stream.getvalue().splitlines()
    assert line.partition(" s  ")[2] == expected


def test_the_live_view_fits_80_columns_and_takes_markup_as_text() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30, record=True)
    shown = screen.LiveScreen(console, "title", steps=9)
    shown.step(3, {**METRICS, "held_out": 0.75}, [("[bold]12+34=", "[/red]640")])
    sys.stderr.write("an engine's chatter")
    shown.close()
    plain = console.export_text()
    assert max(map(len, plain.splitlines())) <= 80
    assert "chatter" not in plain  # it goes where stderr goes: to the log
    for expected in ("3/9", "75.0%", "[bold]12+34=", "[/red]640", "rollout 0.20"):
        assert expected in plain


def test_the_live_view_adds_failures_up_and_shows_every_reward() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30)
    shown = screen.LiveScreen(console, "title", steps=9)
    for step, metrics in enumerate((METRICS, {**METRICS, **FAILED}, {**METRICS, **FAILED}), 1):
        shown.step(step, metrics, [])
    shown.step(4, METRICS, [])  # what failed before stays in sight
    seen = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    seen.print(shown.body)
    shown.step(5, {**METRICS, **FAILED}, [])
    seen.print(shown.body)
    shown.close()
    plain, styled = seen.export_text(clear=False), seen.export_text(styles=True)
    assert "[red]judge 6 timeout 2 crash; 8 samples skipped since the start" in plain
    assert "[red]judge 9 timeout 3 crash; 12 samples skipped since the start" in plain
    assert "exact_match 0.500, [red]judge –" in plain
    assert "\x1b[31mfailures" in styled


def test_no_failure_no_red_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, record=True)
    shown = screen.LiveScreen(console, "title", steps=9)
    shown.step(1, {**METRICS, "grading": {"judge": {"failures": {}}}, "skipped_samples": 0}, [])
    shown.close()
    plain = console.export_text()
    assert "reward" in plain and "failures" not in plain


def test_nothing_that_is_not_finite_reaches_a_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "quarantine.jsonl")
    records.append({"step": 1, "scores": [0.5, math.inf, (math.nan, {"x": -math.inf})]})
    assert read(records.path) == [{"step": 1, "scores": [0.5, None, [None, {"x": None}]]}]
    records.extend([])
    assert len(read(records.path)) == 1


def test_processes_append_to_one_file_without_tearing_lines(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    code = (
        "import sys; from pathlib import Path; from drpo_cli.report.records import Records\n"
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
    offsets = [at for at, _ in located(records.path)]
    assert [r["step"] for r in at_bytes(records.path, [offsets[3], offsets[0]])] == [3, 0]
