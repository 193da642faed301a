"""docs/agents.md: its commands run one after the other, and write what the page says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from drpo_cli.spec import load
from support.command import drpo

pytestmark = pytest.mark.engine

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")


def test_the_commands_run(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    small.write_text(
        small.read_text().replace('"length"\nlimit = 8\nsoft_limit = 1', '"exact_match"')
    )
    (block,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    printed = {}
    for line in block.splitlines():
        name, *words = shlex.split(line)
        assert name == "drpo"
        done = drpo(*words)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed[words[0]] = done.stdout
    for verb in ("check", "plan", "runs"):
        json.loads(printed[verb])
    scores = json.loads(Path("scores.json").read_text())
    assert list(scores["targets"]) == ["model", "runs/first"]
    assert {"low", "high"} <= scores["differences"][0]["estimate"].keys()
    steps = [json.loads(line) for line in Path("runs/first/metrics.jsonl").read_text().splitlines()]
    assert {"zero_advantage_groups", "truncated_share"} <= steps[-1].keys()
    assert "held_out" in steps[0] and Path("runs/first/report.html").is_file()


def test_the_spec_loads(tmp_path: Path) -> None:
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "run.toml").write_text(toml)
    (tmp_path / "train.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
    assert load(tmp_path / "run.toml").objective.type == "drpo"
