"""A run on a mixture of experts, with a real engine that says which experts it chose."""

from pathlib import Path

import pytest

from support.command import drpo, records
from support.models import tiny_model

SETTINGS = (
    "rollout.engine=vllm",
    "model.dtype=bfloat16",
    "train.router_replay=true",
    "train.freeze_routers=true",
    "train.router_dtype=float32",
    "train.updates_per_rollout=1",
    "rollout.prompts_per_step=16",
    "rollout.max_new_tokens=24",
    "rollout.context_length=64",
    "eval.problems=1",
)


@pytest.mark.engine
def test_a_run_with_router_replay(small: Path) -> None:
    tiny_model(small.parent / "model", "qwen3_moe", num_hidden_layers=3)
    done = drpo("train", small, *(word for one in SETTINGS for word in ("--set", one)))
    assert done.returncode == 0, done.stderr
    first, second = records(small.parent / "runs/small/metrics.jsonl")[1:]
    for line in (first, second):
        # of chance, three of four would be other experts: each is of the right token and layer
        assert 0 < line["router_disagreement"] < 0.05
        assert line["skipped_updates"] == 0 < line["trained_tokens"]
