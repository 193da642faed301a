"""A rollout is a function of its seed, its prompt and the weights, with the transformers engine."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling, derive_seeds, sample_groups
from drpo_cli.rollout.transformers import _Draw, find_drawn
from drpo_cli.settings import ModelSettings
from drpo_cli.types import Group, Prompt
from support.models import tiny_model
from support.seeds import PROMPTS, SAMPLING, rollouts_belong_to_their_prompts


def test_rollouts_belong_to_their_prompts(tmp_path: Path) -> None:
    model = ModelSettings(path=str(tiny_model(tmp_path / "model")), dtype="float32")
    engine = transformers.Engine(transformers.Config(), EngineContext(model, 64, 1))
    few = transformers.Engine(transformers.Config(max_sequences=3), EngineContext(model, 64, 1))
    rollouts_belong_to_their_prompts(engine)

    def tokens(groups: list[Group]) -> list[tuple[int, ...]]:
        return [rollout.token_ids for group in groups for rollout in group.rollouts_G]

    sampled = [sample_groups(one, PROMPTS, SAMPLING) for one in (engine, few)]
    assert tokens(sampled[0]) == tokens(sampled[1])


def test_every_seed_is_its_own() -> None:
    keys = [(prompt.id, prompt.epoch) for prompt in PROMPTS]
    seeds = [
        seed
        for batch in range(3)
        for seeds_G in derive_seeds(replace(SAMPLING, seed=batch), keys)
        for seed in seeds_G
    ]
    assert len(set(seeds)) == 3 * len(PROMPTS) * SAMPLING.samples


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3, "temperature": 2.0}],
)
def test_tokens_are_drawn_with_the_probability_that_is_reported(options: dict[str, float]) -> None:
    rows = 4000
    logits_V = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0, -30.0])
    sampling = replace(Sampling(1, 1, 1.0, 0), **options)  # type: ignore[arg-type]
    draw = _Draw(sampling, range(rows), torch.device("cpu"))
    drawn_S = draw(None, logits_V.expand(rows, -1)).argmax(-1)
    mu_S = draw.logps[0].exp()
    found = {int(token): float(mu_S[drawn_S == token][0]) for token in drawn_S.unique()}
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)  # all that is left was drawn
    for token, mu in found.items():
        share = float((drawn_S == token).double().mean())
        assert abs(share - mu) < 5 * math.sqrt(mu * (1 - mu) / rows), (token, share, mu)
    assert len(found) == {(): 6, ("top_k",): 3}.get(tuple(options), len(found)) and 6 not in found


def test_the_ends_of_the_numbers_draw_tokens_that_have_probability() -> None:
    """0 and the largest number below 1, with tokens of no probability first, between and last."""
    largest = 1 - 2.0**-53
    for total in (1.0, 1 + 2.0**-30, 1 - 2.0**-30, 0.75):
        below_SV = (torch.tensor([0, 0.5, 0, 0.5, 0], dtype=torch.float64) * total).cumsum(-1)
        found = [
            int(find_drawn(below_SV[None], torch.tensor([number], dtype=torch.float64)))
            for number in (0.0, 0.5 - 2.0**-40, 0.5 + 2.0**-40, largest)
        ]
        assert found == [1, 1, 3, 3]


def test_a_rare_token_of_a_large_vocabulary_is_drawn() -> None:
    """At the end of 262,144 others, a float32 sum would have lost its probability of 1e-8."""
    prob_V = torch.full((2**18,), 1 / 2**18, dtype=torch.float64)
    prob_V[-1] = 1e-8
    below_SV = prob_V.cumsum(-1)[None]
    inside = (below_SV[0, -2] + 0.5e-8) / below_SV[0, -1]
    assert int(find_drawn(below_SV, inside[None])) == 2**18 - 1
    assert int(find_drawn(below_SV, (inside - 1e-8)[None])) == 2**18 - 2


def test_a_prompt_that_is_served_twice_is_answered_twice(tmp_path: Path) -> None:
    model = ModelSettings(path=str(tiny_model(tmp_path / "model")), dtype="float32")
    engine = transformers.Engine(transformers.Config(), EngineContext(model, 64, 1))
    again = Prompt(PROMPTS[0].id, "", PROMPTS[0].token_ids, None, {}, epoch=1)
    first, second = sample_groups(engine, [PROMPTS[0], again], SAMPLING)
    assert first.rollouts_G != second.rollouts_G
