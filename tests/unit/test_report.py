"""Records survive kills, the page escapes what models say, the screens show a step."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drpo_cli.report import page, screen
from drpo_cli.report.metrics import rollout_metrics, sample_records
from drpo_cli.report.records import Records, read
from drpo_cli.run_folder import RunFolder
from drpo_cli.types import Group, Prompt, Rollout, Scores
from support.models import world

METRICS: dict[str, Any] = {
    "reward": 0.5, "shift_p99": 0.1, "corrective_share": 0.02, "gap": 2e-7, "entropy": 0.4,
    "grad_norm": 0.9, "response_length": 4.0,
    "seconds": {"rollout": 0.2, "train": 0.3, "step": 0.5},
    "tokens_per_second": {"rollout": 9000.0, "train": 8000.0},
}  # fmt: skip
SCRIPT = "<script>alert(1)</script>"


def group(texts: tuple[str, ...], truncated: bool = False) -> Group:
    rollouts = tuple(
        Rollout((5,) * len(text), (0.0,) * len(text), text, truncated) for text in texts
    )
    return Group(Prompt("p", SCRIPT, (1,), "1", {}), rollouts)


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


def test_metrics_of_a_rollout() -> None:
    groups_P = [group(("ab", "abcd")), group(("a", "a"), truncated=True)]
    scores_P = [
        Scores((1.0, 0.0), {"right": (1.0, 0.0)}), Scores((0.5, 0.5), {"right": (0.5, 0.5)})
    ]  # fmt: skip
    with world() as here:
        found = rollout_metrics(groups_P, scores_P, here)
    assert found == {
        "reward": 0.5,
        "reward_std": pytest.approx(math.sqrt(0.125)),
        "rewards": {"right": 0.5},
        "zero_advantage_groups": 0.5,
        "response_length": 2.0,
        "truncated_share": 0.5,
    }
    lines = sample_records(3, groups_P, scores_P, count=1)
    assert [(line["completion"], line["reward"]) for line in lines] == [("ab", 1.0), ("abcd", 0.0)]


def test_the_page_escapes_samples_and_says_what_happened(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.spec.write_text('name = "<b>"')
    run.versions.write_text("{}")
    Records(run.metrics).append(
        {"step": 0, "held_out": 0.25, "held_out_low": 0.2, "held_out_high": 0.3}
    )
    last = {"step": 9, "held_out": 0.5, "held_out_low": None, "held_out_high": None, "gap": None}
    Records(run.metrics).append(last)
    Records(run.samples).append({"step": 9, "prompt": SCRIPT, "completion": SCRIPT, "reward": 1.0})
    page.write(run)
    text = run.report.read_text()
    assert "base 25.0% [20.0%, 30.0%], best (step 9) 50.0%, last 50.0%." in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<svg" in text
    assert "default-src 'none'" in text
    assert not list(tmp_path.glob("*.partial"))


def test_a_page_of_a_run_without_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.spec.write_text("")
    run.versions.write_text("{}")
    page.write(run)
    assert "not evaluated after training yet" in run.report.read_text()


def test_plain_lines_when_not_a_terminal() -> None:
    stream = io.StringIO()
    shown = screen.open_screen(stream, "title", steps=9)
    shown.step(3, {**METRICS, "held_out": 0.75}, [("12+34=", "640")])
    shown.close()
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("step 3/9  reward 0.500")
    assert "gap 2.00e-07" in line
    assert "held-out 0.750" in line


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
