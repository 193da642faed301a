"""`drpo reward test --generate` samples what a run of the same spec would train on."""

import json
from pathlib import Path

import pytest

from drpo_cli.plan import make_plan
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import load
from drpo_cli.step import build as assemble
from support.command import drpo

pytestmark = pytest.mark.engine


def test_groups_are_sampled_from_the_runs_model(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = drpo("reward", "test", small, "--generate", 6, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "24 samples of 6 prompts" in done.stdout
    samples = json.loads(out.read_text())["samples"]
    loaded = load(small)
    stream = assemble.data(make_plan(loaded, 1), assemble.tokenizer(loaded.model), 0).stream
    expected = [prompt.id for prompt in [*stream.next(), *stream.next()][:6] for _ in range(4)]
    assert [sample["prompt_id"] for sample in samples] == expected
    assert all(1 <= len(sample["token_ids"]) <= 4 for sample in samples)
    # the reward is of the engine's own tokens: (soft_limit − n) / (limit − soft_limit)
    for sample in samples:
        length = len(sample["token_ids"])
        assert sample["rewards"]["length"] == pytest.approx((1 - length) / 7)


def test_a_mistake_in_the_sampling_process_is_said(small: Path) -> None:
    done = drpo("reward", "test", small, "--generate", 1, "--set", 'rollout.stop=["x"]')
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the transformers engine does not search texts for 'x'" in done.stderr


def test_what_a_run_recorded_is_scored_alike(small: Path, tmp_path: Path) -> None:
    small.write_text(
        small.read_text().replace(
            'type = "length"\nlimit = 8\nsoft_limit = 1', 'type = "./mine.py:vowels"'
        )
    )
    (small.parent / "mine.py").write_text(
        "def vowels(completion: str) -> float:\n"
        "    return float(sum(completion.count(vowel) for vowel in 'aeiou'))\n"
    )
    assert drpo("train", small).returncode == 0
    recorded = RunFolder(small.parent / "runs" / "small").samples
    out = tmp_path / "out.json"
    done = drpo("reward", "test", small, "--samples", recorded, "--json", out)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    samples = json.loads(out.read_text())["samples"]
    key = ("prompt_id", "completion", "reward")
    assert sorted(tuple(line[k] for k in key) for line in lines) == sorted(
        tuple(sample[k] for k in key) for sample in samples
    )
