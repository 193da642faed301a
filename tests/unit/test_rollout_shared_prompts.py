"""The transformers engine computes the prompt of a group once, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings
from support.families import FAMILIES
from support.models import tiny_model
from support.seeds import sample_each

PROMPTS = [tuple(range(5, 25)), (8,), (9, 10, 11)]  # longer than windows, and padded on the left
WHOLE = {"mamba2"}  # generate cannot continue its prompts
SAMPLING = Sampling(samples=4, max_new_tokens=6, temperature=1.0, seed=0)


def opened(folder: Path, **options: Any) -> transformers.Engine:
    model = ModelSettings(path=str(folder), dtype="float32")
    return transformers.Engine(transformers.Config(**options), EngineContext(model, 64, 1))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_shared_prompt_changes_no_response(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path, kind)
    shared, alone = opened(folder), opened(folder, max_sequences=1)
    computed = []
    shared.model.get_input_embeddings().register_forward_hook(
        lambda module, given, out: computed.append(given[0].numel())
    )
    found = [rollout for *_, rollout in sample_each(shared, PROMPTS, SAMPLING)]
    once = [3 * 19, 12]  # prompts without their last token, then the last of every response's
    assert computed[:2] == (once if kind not in WHOLE else [12 * 20, 12])
    expected = [rollout for *_, rollout in sample_each(alone, PROMPTS, SAMPLING)]
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        # the bound of a family is for one text; here each prompt has four
        bound = 2 * FAMILIES[kind].rounding
        torch.testing.assert_close(
            torch.tensor(one.logps), torch.tensor(other.logps), atol=bound, rtol=0
        )


def test_prompts_that_differ_are_computed_at_once(tmp_path: Path) -> None:
    engine = opened(tiny_model(tmp_path))
    computed = []
    engine.model.register_forward_hook(
        lambda module, given, out: computed.append(out.logits.shape[0])
    )
    one_each = Sampling(samples=1, max_new_tokens=2, temperature=1.0, seed=0)
    assert len(list(sample_each(engine, PROMPTS, one_each))) == 3
    assert computed == [3, 3]
