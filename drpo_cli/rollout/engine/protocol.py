"""The interface of rollout engines, and how prompts become groups of rollouts with any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from drpo_cli import progress
from drpo_cli.rollout.engine.requests import AllAtOnce, Key, Request, Requests
from drpo_cli.settings import LoraSettings, ModelSettings
from drpo_cli.types import Group, Prompt, Rollout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How one batch is sampled.

    samples, max_new_tokens, seed  of a group of responses to each prompt: a request has its own
                                   length and seed (`derive_seeds`)
    """

    samples: int
    max_new_tokens: int
    temperature: float
    seed: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class EngineContext:
    """What an engine needs to start, besides its own options.

    awaits_weights  a trainer pushes weights before the first sample: the engine need not read any
    lora            the adapters that it pushes; once it is loaded, with the names of all layers
                    that have one
    experts         every rollout must have `Rollout.experts`
    """

    model: ModelSettings
    context_length: int
    ranks: int
    awaits_weights: bool = False
    lora: LoraSettings | None = None
    experts: bool = False


class Sampler(Protocol):
    """What samples responses."""

    def generate(
        self, requests: Requests, sampling: Sampling
    ) -> Generator[tuple[Key, Rollout], None, None]:
        """Samples a response to each request of a feed, with the engine's own log μ.

        Consumes: this rank's requests, of which there may be none, as they come: an engine that can
            adds them to those that it is sampling (`Requests`). `sampling` holds for all; seed and
            length are those of each request. Other ranks sample theirs on their own.
        Waits for: the requests of this rank, and of those that share this engine, if any.
        Produces: (key of the request, rollout) as soon as a rollout is finished, in any order,
            until the feed has ended. μ is taken at the sampling temperature. A rollout is a
            function of its seed, its prompt and the weights: what else is sampled with it changes
            no more than rounding. If the generator is closed early, what is not finished is
            dropped, and the next call starts as if it had not been asked for; only an engine that
            no other rank shares can be used again then.
        """


class EngineProtocol(Sampler, Protocol):
    """The class `Engine(config, context)` that each file in `rollout/` defines.

    Each rank has an engine of its own with a copy of the whole model, or neighbouring ranks share
    one. Starting it may be a collective: all ranks start theirs at the same time.
    """

    checkpoint_names: bool
    """Whether `load_weights` takes names as in checkpoints; else names as in the trainer."""
    takes_adapters: bool
    """Whether `load_adapter` can be called. If not, or if an engine does not say, adapters of
    `[lora]` come merged into the weights."""

    returns_experts: bool
    """Whether rollouts can have `experts`; an engine that does not say so cannot."""

    @staticmethod
    def check(config: Any, context: EngineContext) -> None:
        """Raises UserError if it shows, without starting the engine, that it could not start.

        Called before the trainer loads the model. Not a collective.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces every weight of the model and clears caches that the old weights filled.

        Consumes: (name, whole tensor) of every weight, to the end. Reading the next one may be a
            collective, so every rank must load at the same time.
        Waits for: whatever the iterator waits for.
        Produces: an engine that samples from the new weights.
        """

    def load_adapter(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replaces the adapter beside the weights, and clears caches that the old one filled.

        Consumes: (name in peft's files, whole tensor) of every A and B, as `load_weights` does.
            The weights without adapters were loaded before; the engine keeps them in its sleep.
        Waits for: whatever the iterator waits for.
        Produces: an engine that samples from the weights with the new adapter.
        """

    def sleep(self) -> None:
        """Frees device memory while the trainer works, where the platform can. Not a collective."""

    def wake(self, what: str) -> None:
        """Takes memory back: `"weights"` before a sync, `"kv_cache"` before sampling.

        Consumes: the part to wake, whose memory the trainer must have freed before. Waking a part
            that is awake does nothing.
        Waits for: no other rank.
        Produces: memory without contents: weights need a sync, and the cache is empty. An engine
            that takes adapters has kept the weights that they belong to.
        """

    def close(self) -> None:
        """Stops the engine. Every rank must call it before the process group is destroyed."""


def derive_seed(*parts: object) -> int:
    """Derives a 32-bit seed from parts such as (run seed, step, rank); any change changes it."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def derive_seeds(sampling: Sampling, keys_P: Iterable[object]) -> list[list[int]]:
    """A seed for each rollout of a batch, from the batch's, a key of the prompt, and its number."""
    return [[derive_seed(sampling.seed, key, i) for i in range(sampling.samples)] for key in keys_P]


def sample_groups(
    engine: Sampler,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    finished: Callable[[int, int, Rollout], None] = lambda at, sample, rollout: None,
) -> list[Group]:
    """Samples a group of rollouts for each prompt; calls `finished` on each rollout at once.

    Consumes: this rank's prompts, of which there may be none: few held-out problems do not reach
        every rank, which may share its engine with one that has some.
    Waits for: this rank's engine, and the ranks that share it.
    Produces: the groups in the order of the prompts. A prompt's are the same whatever is sampled
        beside it, and on whichever rank.
    """
    rollouts_PG: list[dict[int, Rollout]] = [{} for _ in prompts_P]
    seeds_PG = derive_seeds(sampling, ((prompt.id, prompt.epoch) for prompt in prompts_P))
    requests = AllAtOnce(
        Request((at, sample), prompt.token_ids, seed, sampling.max_new_tokens)
        for at, (prompt, seeds_G) in enumerate(zip(prompts_P, seeds_PG, strict=True))
        for sample, seed in enumerate(seeds_G)
    )
    with closing(engine.generate(requests, sampling)) as sampled:
        for (at, sample), rollout in sampled:
            progress.tick()
            rollouts_PG[at][sample] = rollout
            finished(at, sample, rollout)
    return [
        Group(prompt, tuple(by_sample[i] for i in range(sampling.samples)))
        for prompt, by_sample in zip(prompts_P, rollouts_PG, strict=True)
    ]
