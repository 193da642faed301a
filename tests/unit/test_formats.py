"""Whatever a sound checkpoint looks like, trainer and engine hold the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drpo_cli.dist import World
from drpo_cli.rollout import transformers as engine
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from drpo_cli.step.sync import WeightSync
from support.damaged import as_bin, set_config, shard
from support.models import VOCABULARY, Row, experience, tiny_model, world
from support.seeds import sample_each
from support.training import open_trainer, weights

PROMPTS = ((20, 21, 22), (30, 31, 32, 33))
PADDED = VOCABULARY + 32


def no_pad(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    set_config(folder, pad_token_id=None)


def half(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)


FORMATS: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "sharded": (shard, {}),
    "bin": (lambda folder: as_bin(folder, 1), {}),
    "sharded bin": (lambda folder: as_bin(folder, 2), {}),
    "float16": (half, {}),
    "padded vocabulary": (lambda folder: None, {"vocab_size": PADDED}),
    "untied": (lambda folder: None, {"tie_word_embeddings": False}),
    "no pad": (no_pad, {}),
    "several ends": (lambda folder: set_config(folder, eos_token_id=[2, 5, 9]), {}),
}


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.mark.parametrize("name", FORMATS)
def test_trainer_and_engine_hold_the_checkpoint(tmp_path: Path, here: World, name: str) -> None:
    new, own = FORMATS[name]
    folder = tiny_model(tmp_path / "model", **own)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    new(folder)
    if name == "float16":
        plain = plain.half().float()
    trainer = open_trainer(folder, here)
    held = weights(trainer.policy)
    wanted = dict(plain.named_parameters())
    assert held.keys() == wanted.keys()
    assert all(torch.equal(held[key], weight) for key, weight in wanted.items())
    for pushed in (True, False):
        context = EngineContext(
            ModelSettings(path=str(folder), dtype="float32"), 64, 1, awaits_weights=pushed
        )
        sampler = engine.Engine(engine.Config(), context)
        if pushed:
            WeightSync(trainer, sampler, Precision("float32", "float32")).push(0)
        exp = experience(sampled(sampler))
        assert (trainer.replay(exp) - exp.logp_mu_T).abs().max() < 1e-5
        ids = set(exp.token_T.tolist())
        assert (max(ids) >= VOCABULARY) == (name == "padded vocabulary")
        assert sampler.ends.ids == ({2, 5, 9} if name == "several ends" else {2})


def sampled(sampler: engine.Engine) -> list[Row]:
    sampling = Sampling(samples=16, max_new_tokens=12, temperature=1.0, seed=1)
    return [
        Row(PROMPTS[at], rollout.token_ids, rollout.logps, (0.0,) * len(rollout.token_ids))
        for at, _, rollout in sample_each(sampler, PROMPTS, sampling)
    ]
