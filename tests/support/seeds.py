"""What every engine holds about seeds, on a tiny model in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from drpo_cli.rollout.engine.protocol import (
    EngineProtocol,
    Sampling,
    derive_seeds,
    sample_groups,
)
from drpo_cli.rollout.engine.requests import AllAtOnce, Request
from drpo_cli.types import Prompt, Rollout

PROMPTS = [Prompt(f"own/{i}", "", tuple(range(4, 6 + i)), None, {}, epoch=i % 2) for i in range(6)]
SAMPLING = Sampling(samples=4, max_new_tokens=12, temperature=1.0, seed=3)


def rollouts_belong_to_their_prompts(engine: EngineProtocol) -> None:
    """The same prompts in another order, cut as ranks cut them, or alone: the same rollouts."""
    whole = sampled(engine, PROMPTS, SAMPLING)
    assert len({rollout for rollouts_G in whole.values() for rollout in rollouts_G}) == 24
    assert sampled(engine, PROMPTS[::-1], SAMPLING) == whole
    assert sampled(engine, PROMPTS[::2], SAMPLING) | sampled(engine, PROMPTS[1::2], SAMPLING) == (
        whole
    )
    alone = sampled(engine, PROMPTS[2:3], SAMPLING)
    assert alone == {PROMPTS[2].id: whole[PROMPTS[2].id]}
    other = sampled(engine, PROMPTS, replace(SAMPLING, seed=4))
    assert not any(other[id] == whole[id] for id in whole)


def sampled(
    engine: EngineProtocol, prompts: list[Prompt], sampling: Sampling
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The tokens of each prompt's rollouts."""
    groups = sample_groups(engine, prompts, sampling)
    return {g.prompt.id: tuple(rollout.token_ids for rollout in g.rollouts_G) for g in groups}


def sample_each(
    engine: EngineProtocol, prompts: Sequence[tuple[int, ...]], sampling: Sampling
) -> Iterator[tuple[int, int, Rollout]]:
    """Prompt, sample and rollout as each is finished; the prompt's tokens give its seeds."""
    requests = AllAtOnce(
        Request((at, sample), prompts[at], seed, sampling.max_new_tokens)
        for at, seeds_G in enumerate(derive_seeds(sampling, prompts))
        for sample, seed in enumerate(seeds_G)
    )
    for (at, sample), rollout in engine.generate(requests, sampling):
        yield at, sample, rollout
