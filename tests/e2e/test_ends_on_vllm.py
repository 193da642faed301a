"""The ends of responses on a real vLLM: those of the transformers engine, and texts besides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.rollout.engine.protocol import Sampling
from support.damaged import as_bin
from support.ends import PROMPTS, odd_model, open_engine, the_spec_alone_says_how_to_sample
from support.models import CHARACTERS, SPECIAL, VOCABULARY
from support.paths import NASTY
from support.seeds import rollouts_belong_to_their_prompts, sample_each

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("environment")]

SEVEN = len(SPECIAL) + CHARACTERS.index("7")


def test_vllm_samples_by_the_spec_alone(tmp_path: Path) -> None:
    """The folder's name holds patterns, which vLLM would expand when it looks for weights.

    Its weights are in two `.bin` files, and its embedding has more rows than there are tokens.
    """
    model = odd_model(tmp_path / NASTY / "model", rows=VOCABULARY + 32)
    as_bin(model, 2)
    engine = open_engine("vllm", model)
    the_spec_alone_says_how_to_sample(engine, model)
    rollouts_belong_to_their_prompts(engine)
    stops_at_texts(engine)
    engine.close()


def stops_at_texts(engine: Any) -> None:
    engine.ends = replace(engine.ends, texts=("ab", "7"))
    sampling, found = Sampling(samples=200, max_new_tokens=12, temperature=1.0, seed=1), 0
    for _, _, rollout in sample_each(engine, PROMPTS, sampling):
        assert "7" not in rollout.text
        if rollout.token_ids[-1] == SEVEN:
            found += 1
            assert not rollout.truncated
    assert found > 10
