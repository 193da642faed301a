"""The transformers engine pads prompts of unequal lengths with a token that the model has."""

from __future__ import annotations

from pathlib import Path

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from support.models import VOCABULARY, tiny_model, tokenizer
from support.seeds import sample_each

PROMPTS = [(5, 6, 7), (8,)]


def sampled(folder: Path) -> list[tuple[int, ...]]:
    model = ModelSettings(path=str(folder), dtype="float32")
    engine = transformers.Engine(transformers.Config(), EngineContext(model, 64, 1))
    sampling = Sampling(samples=2, max_new_tokens=4, temperature=1.0, seed=0)
    return [rollout.token_ids for _, _, rollout in sample_each(engine, PROMPTS, sampling)]


def test_a_padding_token_that_the_embedding_has_no_row_for(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    expected = sampled(folder)
    larger = tokenizer()
    larger.add_special_tokens({"pad_token": "<padding>"})
    assert larger.pad_token_id == VOCABULARY
    larger.save_pretrained(folder)
    assert sampled(folder) == expected
