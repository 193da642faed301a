"""A model folder whose files ask for every kind of sampling and disagree about its ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from drpo_cli import plugins
from drpo_cli.rollout.engine.protocol import EngineContext, EngineProtocol, Sampling
from drpo_cli.settings import ModelSettings
from support.damaged import set_config
from support.models import VOCABULARY, tiny_model
from support.seeds import sample_each

GENERATION: dict[str, Any] = {
    "eos_token_id": [2, 5],
    "do_sample": False,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.3,
    "eta_cutoff": 0.3,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[7]],
    "suppress_tokens": [8, 9],
    "begin_suppress_tokens": [10],
    "forced_bos_token_id": 11,
    "forced_eos_token_id": 12,
    "sequence_bias": [[[13], -100.0]],
    "min_length": 30,
    "min_new_tokens": 20,
    "max_length": 12,
    "max_new_tokens": 2,
    "exponential_decay_length_penalty": [1, 3.0],
    "guidance_scale": 3.0,
    "stop_strings": ["1"],
    "watermarking_config": "odd",
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "a_field_of_a_later_version": {"x": [1]},
}
"""What `generation_config.json` may ask for; transformers itself would refuse to save it."""
LEGACY: dict[str, Any] = {
    "repetition_penalty": 1.3,
    "temperature": 0.01,
    "do_sample": True,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": [8, 9],
    "bad_words_ids": [[7]],
    "forced_eos_token_id": 12,
    "min_length": 30,
}
"""What the config.json of an older model may ask for; transformers refuses to save it."""
SUPPRESSED = {7, 8, 9, 10, 13}
OPTIONS: dict[str, Any] = {"stop": ("<unk>",), "stop_token_ids": (6,)}
ENDS = {2, 3, 4, 5, 6}
"""Tokenizer and generation (2), `<unk>` (3), configuration (4), generation (5), the spec (6)."""
PROMPTS = ((20, 21, 22), (30, 31, 32, 33))


def odd_model(folder: Path, rows: int = VOCABULARY, **generation: object) -> Path:
    """A model folder with this `generation_config.json`, and another end in its configuration.

    `rows` of its embedding may be more than its tokenizer has tokens.
    """
    tiny_model(folder, eos_token_id=4, vocab_size=rows)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION | generation))
    set_config(folder, **LEGACY)
    return folder


def open_engine(name: str, model: Path, **options: Any) -> EngineProtocol:
    """An engine of a model folder, with options of `[rollout]`."""
    plugin = plugins.load("rollout", name)
    context = EngineContext(ModelSettings(path=str(model), dtype="float32"), 64, 1)
    engine: EngineProtocol = plugin.entry(plugin.Config(**OPTIONS | options), context)
    return engine


def the_spec_alone_says_how_to_sample(engine: EngineProtocol, model: Path) -> None:
    """Every response follows the model's own distribution to one of its ends, or to the limit."""
    lm = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, generation_config=GenerationConfig()
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    last, sampled = set(), set()
    for length in (1, 40):
        sampling = Sampling(samples=48, max_new_tokens=length, temperature=1.0, seed=1)
        for at, _, rollout in sample_each(engine, PROMPTS, sampling):
            ids = rollout.token_ids
            ends = ids[-1] in ENDS
            assert not ENDS & set(ids[:-1])
            assert rollout.truncated == (not ends)
            assert ends or len(ids) == length
            text = tokenizer.decode(ids[:-1] if ends else ids, skip_special_tokens=True)
            assert rollout.text == text, ids
            row = torch.tensor([PROMPTS[at] + ids])
            with torch.no_grad():
                logp_TV = lm(row).logits[0, len(PROMPTS[at]) - 1 : -1].log_softmax(-1)
            logp_T = logp_TV.gather(-1, torch.tensor(ids)[:, None])[:, 0]
            assert torch.allclose(logp_T, torch.tensor(rollout.logps), atol=1e-5)
            last |= {ids[-1]} if ends else set()
            sampled |= set(ids)
    assert last == ENDS
    assert sampled >= SUPPRESSED
