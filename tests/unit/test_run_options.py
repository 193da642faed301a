"""Whole runs in this process, on the transformers engine, with optional parts switched on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.ends import find_ends
from drpo_cli.runs.checkpoints import latest
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.reader import read
from drpo_cli.settings import ModelSettings, RolloutSettings
from drpo_cli.spec import dump, load
from drpo_cli.step import loop
from drpo_cli.step.checkpoint import export
from support.command import drpo, timeless
from support.ends import odd_model
from support.models import free_port, tiny_model

NEVER = 999  # no token has this id, so with it as end of sequence every response is truncated
ENDS = list(range(4, 20))  # a quarter of the tokens: some responses end in time, some do not
SPEC = """
[run]
name = "test"
steps = 2
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 5
context_length = 32
[[reward]]
type = "./rewards.py:half"
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
every = 1
problems = 4
samples_per_prompt = 2
threshold = 0.5
"""
REWARDS = """
def half(completion):
    return 0.5

def even(tokens):
    return float(tokens[0] % 2)
"""
EVERYTHING = (
    "reward[0].type=./rewards.py:even",
    "advantage.type=gae",
    "critic.learning_rate=1e-3",
    "critic.warmup_steps=1",
    "reference.kl=k3",
    "train.anchor=trainer",
    "train.importance_cap=2.0",
    "train.entropy_bonus=0.01",
    "train.reduction=fixed_horizon",
    "train.overlong=soft",
    "rollout.dynamic_sampling_rounds=2",
    "rollout.weight_rounding=int8",
    "run.steps=3",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a spec and the environment of the launcher; restores signal handlers."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "run.toml").write_text(SPEC)
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**place, "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(folder: Path, name: str, *overrides: str) -> tuple[list[dict[str, Any]], str]:
    """Starts or continues a run; returns its records and the output of `drpo watch`."""
    runs = RunFolder(folder / "runs" / name)
    runs.path.mkdir(parents=True, exist_ok=True)
    runs.versions.write_text("{}")
    runs.spec.write_text(dump(load(folder / "run.toml", overrides)))
    try:
        assert loop.run(runs) == 0
    finally:
        if torch.distributed.is_initialized():  # after an error a rank leaves it to its end
            torch.distributed.destroy_process_group()
    return read(runs.metrics, dict[str, Any]), drpo("watch", runs.path).stdout


def test_evaluation_scores_truncated_responses_as_the_rewards_do(folder: Path) -> None:
    tiny_model(folder / "model", eos_token_id=ENDS)
    for handling in ("keep", "zero", "soft", "mask"):
        metrics, _ = run(folder, handling, f"train.overlong={handling}")
        first, cut = metrics[1], metrics[1]["truncated_share"]
        assert [record["held_out"] for record in metrics] == [1.0] * 3
        assert 0 < cut < 1
        if handling == "zero":
            assert first["reward"] == pytest.approx(0.5 * (1 - cut))
        elif handling == "soft":  # a buffer of one token: each cut response loses 1
            assert first["reward"] <= 0.5 - cut
        else:
            assert first["reward"] == 0.5
        tokens = round(first["response_length"] * 16)
        left_out = round(cut * 16) * 5 if handling == "mask" else 0
        assert first["trained_tokens"] == tokens - left_out


def test_dynamic_sampling_filters_on_scores_before_overlong_shaping(folder: Path) -> None:
    """Every response scores 0.5; shaping alone makes the groups differ, and teaches nothing new."""
    tiny_model(folder / "model", eos_token_id=ENDS)
    shaped = ("train.overlong=soft", "rollout.dynamic_sampling_rounds=2", "run.steps=1")
    metrics, _ = run(folder, "shaped", *shaped)
    assert metrics[1]["reward_std"] > 0  # the scores that training saw do differ
    assert (metrics[1]["sampling_rounds"], metrics[1]["missing_groups"]) == (3, 4)


def test_a_step_whose_responses_are_all_left_out_is_shown_and_survived(folder: Path) -> None:
    tiny_model(folder / "model", eos_token_id=NEVER)
    tokenizer = folder / "model" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace('"eos_token"', '"unused"'))  # it ends too
    metrics, shown = run(folder, "mask", "train.overlong=mask")
    for record in metrics[1:]:
        assert record["truncated_share"] == 1 and record["skipped_updates"] == 2
        assert record["loss"] is None and record["trained_tokens"] == 0
    assert "step 2/2  reward 0.500  |π−μ| p99 –" in shown


def test_alerts_are_logged_once_by_a_resumed_run_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(folder / "model", eos_token_id=NEVER)
    logged = []
    for steps in (3, 5, 6):  # the alert needs four steps
        run(folder, "cut", f"run.steps={steps}")
        said = capsys.readouterr().err.splitlines()
        logged.append([line for line in said if line.startswith("alert: truncation since step")])
    assert [len(lines) for lines in logged] == [0, 1, 0]
    assert "raise rollout.max_new_tokens" in logged[1][0]


def test_a_generation_config_stays_as_it_is(folder: Path) -> None:
    """Even one that transformers refuses to save: run and export end where the base model ends."""
    model = odd_model(folder / "model")
    run(folder, "odd", "run.steps=1", "rollout.stop_token_ids=[6]")
    saved = latest(folder / "runs" / "odd") / "hf"
    export(folder / "runs" / "odd", folder / "exported")
    base = (model / "generation_config.json").read_bytes()
    tokenizer, options = AutoTokenizer.from_pretrained(model), RolloutSettings()
    assert (saved / "generation_config.json").read_bytes() == base
    assert (folder / "exported" / "generation_config.json").read_bytes() == base
    ends = find_ends(options, ModelSettings(path=str(folder / "exported")), tokenizer)
    assert ends == find_ends(options, ModelSettings(path=str(model)), tokenizer)
    (model / "generation_config.json").unlink()
    model.rename(folder / "bare")
    run(folder, "none", "run.steps=1", "model.path=bare")
    export(folder / "runs" / "none", folder / "plain")
    assert not (folder / "plain" / "generation_config.json").exists()


def test_a_broken_generation_config_is_refused_before_the_model_loads(folder: Path) -> None:
    (odd_model(folder / "model") / "generation_config.json").write_text("[1]")
    (folder / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"generation_config.json cannot be read as JSON"):
        run(folder, "broken")


def test_everything_at_once_and_resumed_bit_for_bit(folder: Path) -> None:
    tiny_model(folder / "model")
    whole, _ = run(folder, "whole", *EVERYTHING)
    run(folder, "parts", *EVERYTHING, "run.steps=2")
    parts, _ = run(folder, "parts", *EVERYTHING)
    assert list(map(timeless, parts[:2])) == list(map(timeless, whole[:2]))
    assert timeless(parts[-1]) == timeless(whole[-1])
    last = whole[-1]
    for key in ("value_loss", "explained_variance", "reference_kl", "sampling_rounds"):
        assert last[key] is not None, key
    assert whole[1]["reference_kl"] == whole[2]["reference_kl"] == 0 < last["reference_kl"]
    assert last["gap_floor"] < 1e-5 < 1e-3 < last["gap"]  # the gap includes the rounding


def test_a_row_that_cannot_be_used_ends_a_run_that_can_be_continued(folder: Path) -> None:
    """An endless source, whose rows are not read before their turn."""
    tiny_model(folder / "model")
    (folder / "endless.py").write_text(
        "from drpo_cli.data.pipeline.rows import Lazy\n"
        "from drpo_cli.types import Problem\n"
        "def load(config):\n"
        "    return Lazy(2**31 - 1, lambda i: Problem('1+' * (20 if i == 17 else 1) + str(i)))\n"
    )
    data = "data=[{type='./endless.py'}]"
    with pytest.raises(UserError, match=r"endless.py/17: the prompt has 42 tokens"):
        run(folder, "ends", data, "run.steps=6")
    assert latest(folder / "runs" / "ends").name == "step-000003"
    skips = "data=[{type='./endless.py', too_long='skip'}]"
    whole, _ = run(folder, "whole", skips, "run.steps=6")
    ends, _ = run(folder, "ends", skips, "run.steps=6")
    assert list(map(timeless, ends)) == list(map(timeless, whole))
