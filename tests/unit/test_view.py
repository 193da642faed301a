"""The view of a run: what it says, within any rectangle, and harmless whatever the model wrote."""

import io
import random
import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from drpo_cli.report.view.follow import Followed, find_extremes
from drpo_cli.report.view.frame import draw_run
from drpo_cli.report.view.screen import Lines
from drpo_cli.report.view.table import draw_runs
from drpo_cli.report.view.text import (
    ASCII,
    format_duration,
    format_number,
    head,
    head_and_tail,
    make_visible,
    sparkline,
    tail,
)
from drpo_cli.runs.events import say
from drpo_cli.runs.records import Records
from support.runs import metrics, run_folder, sample

FAILED: dict[str, Any] = {
    "rewards": {"exact_match": 0.5, "[red]judge": None},
    "grading": {
        "exact_match": {"failures": {}},
        "[red]judge": {"failures": {"timeout": 3, "crash": 1}},
    },
    "skipped_samples": 4,
    "skipped_updates": 1,
}
BASE = {"step": 0, "held_out": 0.25, "held_out_low": 0.2, "held_out_high": 0.3}
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\nb\u202e\u2028\x9b31m\ud800[red]\U0001f600漢字\ufe0f"


def followed(path: Path, *records: Any, samples: Any = (), steps: int = 9) -> Followed:
    run = Followed(run_folder(path, records, samples, steps))
    run.look()
    return run


def text(run: Followed, width: int = 80, height: int = 24) -> str:
    return "\n".join(line.plain for line in draw_run(run, width, height))


def test_everything_a_run_tells_fits_80_by_24(tmp_path: Path) -> None:
    records = [BASE, *(metrics(s, **FAILED) for s in range(1, 7)), metrics(7, held_out=0.75)]
    samples = [
        sample(6, 9, "old"),
        sample(7, 1, "46\n"),
        sample(7, -0.5, "[/red]5"),
        sample(7, None, "x"),
    ]
    run = followed(tmp_path / "quick", *records, samples=samples)
    say(run.folder, "an event")
    with run.folder.lock():
        run.look()
        seen = text(run)
    rows = seen.splitlines()
    assert len(rows) <= 24 and max(map(cell_len, rows)) <= 80
    for expected in (
        "quick  drpo on model",
        " running",
        "step 7/9",
        "0.750 ↑ from 0.250",
        "0.507 ↑ from 0.501",
        "|π−μ| p99",
        "corrective share",
        "entropy",
        "response length",
        "ETA 0:00:20",
        "R rollout 40%  W reward not hidden 10%  T train 30%  S sync 10%  O other 10%",
        "rollout 9,000, train 8,000   peak memory 1.5 GiB",
        "an event",
        "[red]judge 18 timeout 6 crash; 24 samples skipped; 6 updates\n",
        "\n                 skipped since the start\n",
        "best 1.000       12+34= → 46↵",
        "worst -0.500     12+34= → [/red]5",
    ):
        assert expected in seen, seen
    bar = next(row for row in rows if row.startswith("time")).split()[1]
    assert [bar.count(letter) for letter in "RWTSO"] == [25, 7, 19, 6, 6]


def test_on_a_small_screen_what_matters_least_goes_first(tmp_path: Path) -> None:
    records = [BASE, metrics(1, **FAILED), metrics(2, held_out=0.75)]
    run = followed(tmp_path / "quick", *records, samples=[sample(2, 1, "46")])
    heights = [text(run, 80, height).splitlines() for height in range(1, 30)]
    assert heights[0][0].startswith("quick")
    assert [len(rows) for rows in heights[:12]] == list(range(1, 13))
    for fewer, more in pairwise(heights):
        assert len(set(fewer) - set(more)) == 0
    assert "held-out score" in "\n".join(heights[2]) and "failures" in "\n".join(heights[5])


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_width_or_height_is_overrun(tmp_path: Path, ascii_only: bool) -> None:
    samples = [sample(3, 1, HOSTILE * 40, HOSTILE * 30), sample(3, 0, "漢字" * 400)]
    records = [BASE, *(metrics(s, **FAILED) for s in range(1, 4))]
    runs = [followed(tmp_path / ("n" * n), *records, samples=samples) for n in (1, 40, 90)]
    for width in (1, 2, 7, 20, 33, 61, 80, 140, 400):
        for height in (1, 2, 9, 24, 60):
            for some in (runs[:1], runs[:2], runs):
                lines = draw_runs(some, width, height, ascii_only)
                assert len(lines) <= height
                assert max(line.cell_len for line in lines) <= width
                assert "\x1b" not in "".join(line.plain for line in lines)


def test_without_a_metric_there_is_a_dash_and_no_crash(tmp_path: Path) -> None:
    empty = text(followed(tmp_path / "empty"))
    assert "step 0/9" in empty and "reward           –" in empty
    bare = text(followed(tmp_path / "bare", {"step": 1, "reward": None, "gap": None}))
    assert "step 1/9" in bare and "failures" not in bare


def test_what_is_not_whole_is_passed_over_and_said(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "cut", [metrics(1), metrics(2)])
    with folder.metrics.open("a") as file:
        file.write('{"step": 3, "rew')
    run = Followed(folder)
    run.look()
    assert run.state == "failed" and "step 2/9" in text(run)
    assert "the last line of metrics.jsonl was cut off" in text(run)
    with folder.lock():  # it may be about to be whole
        run.look()
        seen = text(run)
    assert seen.splitlines()[0].endswith(" running") and "skipped" not in seen


def test_an_alert_has_its_reason_and_what_to_do(tmp_path: Path) -> None:
    run = followed(tmp_path / "cut", *(metrics(s, truncated_share=0.9) for s in range(1, 9)))
    (alert,) = run.current_alerts()
    flat = " ".join(text(run).split())
    assert f"! {alert.kind} since step {alert.step}: {alert.reason}; {alert.suggestion}" in flat
    stream = io.StringIO()
    lines = Lines(stream)
    fresh = Followed(run.folder)
    for _ in range(2):  # once
        lines.show([fresh], [fresh.look()])
    assert stream.getvalue().count(alert.reason) == 1


def test_the_newest_step_is_found_at_the_end_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert find_extremes(path) is None
    Records(path).extend(sample(s, s, "x" * 5000) for s in range(1, 400))  # type: ignore[misc]
    Records(path).extend(sample(400, i % 7, str(i) * 4000) for i in range(200))  # type: ignore[misc]
    with path.open("a") as file:
        file.write('{"step": 401, "rew')
    found = find_extremes(path)
    assert found is not None
    assert (found.step, found.best["reward"], found.worst["reward"]) == (400, 6, 0)
    Records(tmp_path / "unscored.jsonl").append({"step": 1, "reward": None})
    assert find_extremes(tmp_path / "unscored.jsonl") is None


def test_plain_lines_have_one_line_a_step_and_events_once(tmp_path: Path) -> None:
    run = Followed(run_folder(tmp_path / "a", [BASE, metrics(1)]))
    stream = io.StringIO()
    lines = Lines(stream)
    lines.show([run], [run.look()])
    Records(run.folder.metrics).append(metrics(3, held_out=0.75, **FAILED))
    say(run.folder, "rank 0 failed: \x1b[2Jno", "failed", rank=0)
    lines.show([run], [run.look()])
    lines.show([run], [run.look()])
    said = stream.getvalue().splitlines()
    assert said[:2] == ["loading the model …", "training …"]
    assert said[2].startswith("step 1/9  reward 0.501  |π−μ| p99 0.100  corrective 0.020")
    assert said[2].endswith("length 4.000  10.0 s") and "gap 2.00e-07" in said[2]
    expected = "held-out 0.750  10.0 s  failures [red]judge 3 timeout 1 crash; 4 samples skipped"
    assert said[3].endswith(expected)
    assert said[4:] == ["rank 0 failed: \\u001b[2Jno"]


def test_a_resumed_run_is_told_from_where_it_goes_on(tmp_path: Path) -> None:
    run = Followed(run_folder(tmp_path / "a", [metrics(s) for s in range(1, 6)]))
    assert [record["step"] for record in run.look().steps] == [1, 2, 3, 4, 5]
    say(run.folder, "resumed after step 3", resumed=3)
    Records(run.folder.metrics).rewind(3)
    Records(run.folder.metrics).append(metrics(4, reward=0.0, **FAILED))
    assert [record["step"] for record in run.look().steps] == [4]
    assert [record["step"] for record in run.metrics] == [1, 2, 3, 4]
    assert run.skipped == {"samples": 4, "updates": 1}


def test_several_runs_are_a_row_each_where_there_is_no_room(tmp_path: Path) -> None:
    runs = [followed(tmp_path / f"seed{n}", BASE, metrics(n, held_out=0.5)) for n in (1, 2, 3)]
    rows = [line.plain for line in draw_runs(runs, 80, 24)]
    assert rows[0].split()[:4] == ["run", "state", "step", "held-out"]
    assert rows[1].split()[:4] == ["seed1", "failed", "1/9", "0.500"]
    assert [line.plain for line in draw_runs(runs, 80, 3)][-1] == "… and 2 more"
    beside = [line.plain for line in draw_runs(runs, 200, 24)]
    assert all(f"seed{n}  drpo on model" in beside[0] for n in (1, 2, 3))
    below = [line.plain for line in draw_runs(runs[:2], 80, 50)]
    assert sum("drpo on model" in row for row in below) == 2


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 9, ""),
        ([None], 9, ""),
        ([2.0], 9, "▁"),
        ([0, 7], 9, "▁█"),
        ([1, None, 2], 9, "▁ █"),
        (list(range(16)), 8, "▁▂▃▄▅▆▇█"),
        ([5, 5, 5], 9, "▁▁▁"),
        ([1, 2], 0, ""),
    ],
)
def test_a_curve_of_blocks(values: list[float | None], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected
    assert len(sparkline(values, width, ASCII)) == len(expected)


def test_text_is_cut_by_cells_and_has_nothing_a_terminal_obeys() -> None:
    assert make_visible("a\n\x1b[31m\u202e\u2028\x9b\t\ud800b") == (
        "a↵\\u001b[31m\\u202e\\u2028\\u009b \\ud800b"
    )
    source = random.Random(0)
    alphabet = string.ascii_letters + "漢字😀é"
    for _ in range(200):
        words = "".join(source.choices(alphabet, k=source.randrange(60)))
        for cells in range(0, 40, 3):
            for cut in (
                head(words, cells),
                tail(words, max(1, cells)),
                head_and_tail(words, cells),
            ):
                assert cell_len(cut) <= max(1, cells)
    assert (head("abc", 3), tail("abcdef", 3), format_duration(90_061)) == (
        "abc",
        "…ef",
        "1d 1:01:01",
    )
    numbers = [format_number(value) for value in (None, 2e-7, 0.5, 12345.6)]
    assert numbers == ["–", "2.00e-07", "0.500", "12,346"]


def test_colour_is_for_terminals_and_not_where_it_is_unwanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = followed(tmp_path / "a", metrics(1, **FAILED))
    for unwanted in (False, True):
        if unwanted:
            monkeypatch.setenv("NO_COLOR", "1")
        console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="256")
        console.print(*draw_run(run, 80, 24), sep="\n")
        assert isinstance(console.file, io.StringIO)
        assert ("\x1b[31mfailures" in console.file.getvalue()) is not unwanted
