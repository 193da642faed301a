"""The slot for adapters in vLLM: what is asked for, what is refused, what sleeps."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
from vllm.config.lora import MaxLoRARanks

from drpo_cli.errors import UserError
from drpo_cli.rollout import vllm as rollout
from drpo_cli.rollout.engine.adapters import RANKS, slot_arguments, wants_slot
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext
from drpo_cli.settings import LoraSettings, ModelSettings
from drpo_cli.step.sync import WeightSync
from support.models import tiny_model, world
from support.sleeper import Sleeper
from support.training import open_trainer


def context(folder: Path, **lora: Any) -> EngineContext:
    return EngineContext(ModelSettings(path=str(folder)), 64, 1, True, LoraSettings(**lora))


def test_a_slot_has_one_of_the_sizes_of_vllm_and_no_other_layers() -> None:
    assert get_args(MaxLoRARanks) == RANKS
    names = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
    found = slot_arguments(LoraSettings(rank=9, target_modules=names))
    assert (found["max_lora_rank"], found["lora_target_modules"]) == (16, ["q_proj"])


def test_what_vllm_has_no_slot_for_comes_merged_or_is_refused(tmp_path: Path) -> None:
    qwen = tiny_model(tmp_path / "qwen3")
    config = rollout.Config()
    assert wants_slot(config, context(qwen, rank=512, sync="adapter"))
    assert not wants_slot(config, context(qwen, rank=513, sync="merged"))
    with pytest.raises(UserError, match=r"rank is 513, .*at most 512") as raised:
        wants_slot(config, context(qwen, rank=513, sync="adapter"))
    assert 'lora.sync = "merged"' in raised.value.fix
    written = (qwen / "config.json").read_text().replace("Qwen3ForCausalLM", "GPT2LMHeadModel")
    (qwen / "config.json").write_text(written)
    assert not wants_slot(rollout.Config(weight_rounding="int8"), context(qwen))
    with pytest.raises(UserError, match="no slots for adapters in its GPT2LMHeadModel"):
        rollout.Engine.check(config, context(qwen, sync="adapter"))


def test_without_a_setting_the_device_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged where that samples faster; where the engine rounds, adapters must come apart."""
    qwen = context(tiny_model(tmp_path))
    assert not wants_slot(rollout.Config(), qwen)
    assert wants_slot(rollout.Config(quantization="int8"), qwen)
    assert wants_slot(rollout.Config(weight_rounding="int8"), qwen)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert wants_slot(rollout.Config(), qwen)


class Kept:
    """Stands for a slot."""

    def load(self, weights: Any) -> None:
        self.names = [name for name, _ in weights]


def test_what_adapters_are_added_to_survives_the_sleep(tmp_path: Path) -> None:
    engine, asleep, slot = rollout.Engine.__new__(rollout.Engine), Sleeper(), Kept()
    engine.llm, engine.can_sleep, engine.asleep = asleep, True, set()
    engine.slot, engine.takes_adapters = slot, True  # type: ignore[assignment]
    engine.explained = nullcontext  # type: ignore[assignment]
    with world() as here:
        trainer = open_trainer(tiny_model(tmp_path), here, lora=LoraSettings(rank=4))
        sync = WeightSync(trainer, engine, Precision("float32", "float32"))
        engine.sleep()  # there is nothing to keep
        sync.push(0)
        engine.sleep()
        sync.push(1)
    loads = [call for call in asleep.calls if not call.startswith("load")]
    assert len(asleep.calls) == len(loads) + 1
    assert loads == [
        "sleep 2",
        "wake ['weights']",
        "drop cache",
        "drop cache",
        "wake ['kv_cache']",
        "sleep 1",
        "wake ['weights']",
        "drop cache",
        "wake ['kv_cache']",
    ]
    assert slot.names == [name for name, _ in trainer.policy.named_adapters()]
