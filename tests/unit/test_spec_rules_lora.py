"""`[lora]` in a spec: ranks, targets, dropout, what `drpo check` says, room for checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plan import describe, make_plan
from drpo_cli.runs.checkpoints import checkpoint_bytes
from drpo_cli.settings import LoraSettings
from drpo_cli.spec import load
from drpo_cli.tools.doctor import needs
from support.models import tiny_model
from support.specs import SMALLEST, problem, warnings

LORA = f"{SMALLEST}[rollout]\nmax_new_tokens = 64\n[train]\nlearning_rate = 1e-5\n[lora]\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rank = 513", "lora.rank: is 513; vllm takes adapters of at most rank 512; lower it, or"),
        ("rank = 0", "lora.rank: is 0; must be at least 1"),
        ("alpha = 0", "lora.alpha: is 0; must be above 0"),
        ("dropout = 0.05", "lora.dropout: is 0.05; must be 0: with dropout π is not a function"),
        ("target_modules = []", "lora.target_modules: is []; is empty; name at least one linear"),
        ('start = "nowhere"', "which has no adapter_config.json; name an adapter in PEFT's format"),
        ('sync = "disk"', "lora.sync: is 'disk'; must be 'adapter' or 'merged'"),
    ],
)
def test_what_is_wrong_with_adapters(tmp_path: Path, line: str, said: str) -> None:
    assert said in problem(tmp_path, LORA + line)


@pytest.mark.parametrize(
    "lines",
    ["", "rank = 512", 'rank = 513\nsync = "merged"', 'target_modules = ["q_proj", "v_proj"]'],
)
def test_adapters_that_are_sound(tmp_path: Path, lines: str) -> None:
    assert warnings(tmp_path, LORA + lines) == []


def test_a_learning_rate_of_full_training_is_warned_of(tmp_path: Path) -> None:
    (line,) = warnings(tmp_path, f"{SMALLEST}[lora]\n")
    assert "train.learning_rate: is 1e-06, a rate for training all weights" in line


def test_frozen_routers_have_no_effect(tmp_path: Path) -> None:
    text = LORA.replace("[lora]", "freeze_routers = true\n[lora]")
    assert "train.freeze_routers: has no effect with [lora]" in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("rollout", "sync", "said"),
    [
        ('engine = "transformers"', "adapter", "lora.sync: is 'adapter', and the transformers"),
        ('weight_rounding = "int8"', "merged", "rollout.weight_rounding: rounds weights"),
        ('quantization = "int8"', "merged", "rollout.quantization: rounds weights"),
    ],
)
def test_a_sync_that_cannot_be(tmp_path: Path, rollout: str, sync: str, said: str) -> None:
    text = LORA.replace("[rollout]\n", f"[rollout]\n{rollout}\n")
    (tmp_path / "run.toml").write_text(f'{text}sync = "{sync}"\n')
    with pytest.raises(UserError, match=said):
        load(tmp_path / "run.toml")


def test_the_scaling() -> None:
    assert LoraSettings(rank=16, alpha=32).scaling == 2
    assert LoraSettings(rank=16, alpha=32, rslora=True).scaling == 8


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_targets_are_looked_for_in_the_files_of_the_model(tmp_path: Path, kind: str) -> None:
    model = tiny_model(tmp_path / "model", kind)
    path = tmp_path / "run.toml"
    path.write_text(LORA.replace("some-org/some-model", str(model)))
    targets = "lora.target_modules="
    there = {"qwen3": "down_proj, gate_proj, k_proj", "qwen3_moe": "k_proj, o_proj"}[kind]
    with pytest.raises(UserError) as caught:
        make_plan(load(path, [targets + '["query", "q_proj"]']), 1)
    assert f"names 'query', which no linear layer of {model} is called; there are {there}" in str(
        caught.value
    )
    aside = " (experts have none)" if kind == "qwen3_moe" else ""
    plan = make_plan(load(path, [targets + '["layers.1.self_attn.q_proj"]']), 1)
    assert dict(describe(plan))["adapters"] == (
        f"rank 16, scaled by 2, in layers.1.self_attn.q_proj{aside}; a sync pushes them merged "
        "on a CPU, them alone on a GPU"
    )
    shown = dict(describe(make_plan(load(path, ["rollout.engine=transformers"]), 1)))["adapters"]
    assert shown.endswith(f"all linear layers{aside}; a sync pushes them merged")
    shown = dict(describe(make_plan(load(path, ["lora.sync=adapter"]), 1)))["adapters"]
    assert shown.endswith("; a sync pushes them alone")


def test_the_room_for_checkpoints_is_that_of_adapters(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    path = tmp_path / "run.toml"
    path.write_text(LORA.replace("some-org/some-model", str(model)))
    shapes = [(128, 128), (64, 128), (64, 128), (128, 128), *[(256, 128)] * 3]
    adapters = 2 * 16 * sum(sum(shape) for shape in shapes)
    assert needs.checkpoint_space(load(path)) == 5 * checkpoint_bytes(adapters)
