"""From prompts to groups of rollouts, whatever the engine; and what an engine is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from drpo_cli.settings import ModelSettings
from drpo_cli.types import Group, Prompt, Rollout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How one batch of requests is sampled."""

    samples: int
    max_new_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class EngineContext:
    """What an engine starts from, besides its own options."""

    model: ModelSettings
    context_length: int
    ranks: int


class EngineProtocol(Protocol):
    """What a file in this folder offers as `Engine(config, context)`."""

    checkpoint_names: bool
    """Whether `load_weights` takes names as in checkpoints (else as in the trainer)."""

    def generate(
        self, prompt_ids: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> Iterable[tuple[int, int, Rollout]]:
        """`sampling.samples` rollouts of each prompt, with the engine's own log μ.

        Each comes as (index of its prompt, index among the prompt's samples, rollout), as soon as
        it is finished, in any order. μ is taken at the sampling temperature. The same seed, prompts
        and weights give the same rollouts.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes every weight of the model, and forgets whatever the old ones left in caches."""

    def sleep(self) -> None:
        """Gives its device memory up while the trainer works, where the platform can."""

    def wake(self, what: str) -> None:
        """Takes memory back: `"weights"` before a sync, `"kv_cache"` before sampling."""

    def close(self) -> None:
        """Stops the engine; must come before the process group is destroyed."""


def seed_of(*parts: object) -> int:
    """A 32-bit seed that any change of the parts, such as (run seed, step, rank), changes."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def sample_groups(
    engine: EngineProtocol,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    finished: Callable[[int, int, Rollout], None] = lambda at, sample, rollout: None,
) -> list[Group]:
    """Samples a group of rollouts for each prompt; `finished` is told of each one at once."""
    if not prompts_P:  # a rank without a share of few held-out problems
        return []
    rollouts_PG: list[dict[int, Rollout]] = [{} for _ in prompts_P]
    for at, sample, rollout in engine.generate([p.token_ids for p in prompts_P], sampling):
        rollouts_PG[at][sample] = rollout
        finished(at, sample, rollout)
    return [
        Group(prompt, tuple(by_sample[i] for i in range(sampling.samples)))
        for prompt, by_sample in zip(prompts_P, rollouts_PG, strict=True)
    ]
