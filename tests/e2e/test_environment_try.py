"""`drpo environment try --model`: the model plays as in training, and every token is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.runs.metrics import SampleRecord
from drpo_cli.runs.reader import check
from support.command import drpo

pytestmark = pytest.mark.engine

ENVIRONMENT = '''\
"""A game."""

from drpo_cli.environments import Step


class Echo:
    """Repeats what was said, twice."""

    def __init__(self):
        self.said = 0

    def start(self, row, rng):
        return f"{row.prompt}{rng.randint(0, 9)}"

    def step(self, action: str) -> Step:
        self.said += 1
        return Step("again", reward=0.5, done=self.said == 2)
'''


def test_the_model_plays_and_its_tokens_are_told_from_the_others(
    small: Path, tmp_path: Path
) -> None:
    (small.parent / "environments.py").write_text(ENVIRONMENT)
    small.write_text(small.read_text() + '[[environment]]\ntype = "./environments.py:Echo"\n')
    out = tmp_path / "episode.jsonl"
    done = drpo("environment", "try", small, "--model", "--row", 1, "--seed", 4, "--json", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Echo · row ") and "done after 2 turns: reward 1\n" in done.stdout
    record = json.loads(out.read_text())
    _, wrong = check({**record, "step": 0, "prompt": "", "completion": ""}, SampleRecord)
    assert not wrong
    (row,) = record["rows"]
    first, second = record["turns"]
    for turn in (first, second):
        own = row["sampled"][turn["first"] : turn["end"]]
        assert own and all(own)
    observed = row["sampled"][first["end"] : second["first"]]
    assert len(observed) == len("again") and not any(observed)
    for part in row["parts"]:
        if part["sampled"]:
            assert "".join(part["tokens"]) == part["text"]
            assert f"[[{part['text']}]]" in done.stdout or "\\u" in done.stdout
    again = tmp_path / "again.jsonl"
    drpo("environment", "try", small, "--weights", small.parent / "model", "--row", 1, "--seed", 4,
         "--json", again)  # fmt: skip
    assert json.loads(again.read_text())["rows"] == record["rows"]
    command = [sys.executable, "-m", "drpo_cli", "environment", "try", str(small), "--row", "1"]
    by_hand = subprocess.run(
        [*command, "--seed", "4"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert f"user:\n{record['messages'][0]['content']}\n" in by_hand.stdout
