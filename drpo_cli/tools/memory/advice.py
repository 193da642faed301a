"""Which settings save the most memory: each candidate is put into the spec and estimated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.capacity import GIB
from drpo_cli.settings import TrainSettings
from drpo_cli.tools.memory.estimate import Estimate

LEAST_TOKENS = 1024
"""Tokens of the smallest micro-batch to advise: smaller ones cost more time than they save room."""
LEAST_FRACTION = 0.1
MOST_COMBINED = 3
"""Settings to try together."""
WORTH = 0.01
"""The part of a device's memory that a setting must save to be advised."""

EstimateWith = Callable[[Sequence[str]], Estimate]
"""Estimates the spec with more overrides, written as for `--set`."""


@dataclass(frozen=True)
class Advice:
    """Overrides, the estimate with them, and the bytes that they save in the tightest phase."""

    overrides: tuple[str, ...]
    estimate: Estimate
    room: int


def advise(current: Estimate, estimate_with: EstimateWith) -> list[Advice]:
    """Each useful candidate alone, the best first; then the best ones together until it fits.

    Leaves out a candidate that saves almost nothing, or that the rules of the spec refuse.
    """
    found, least = [], WORTH * current.device.bytes
    for override in _candidates(current):
        advice = _try(current, estimate_with, (override,))
        if advice is not None and (advice.room > least or advice.estimate.fits):
            found.append(advice)
    found.sort(key=lambda advice: -advice.room)
    if found and not any(advice.estimate.fits for advice in found):
        for count in range(2, min(MOST_COMBINED, len(found)) + 1):
            together = tuple(one for advice in found[:count] for one in advice.overrides)
            if (advice := _try(current, estimate_with, together)) is not None:
                found.append(advice)
                if advice.estimate.fits:
                    break
    return found


def _try(
    current: Estimate, estimate_with: EstimateWith, overrides: tuple[str, ...]
) -> Advice | None:
    try:
        changed = estimate_with(overrides)
    except UserError:
        return None
    return Advice(overrides, changed, changed.free - current.free)


def _candidates(current: Estimate) -> Iterator[str]:
    spec = current.plan.spec
    train, rollout = spec.train, spec.rollout.config
    if not train.gradient_checkpointing:
        yield "train.gradient_checkpointing=true"
    half = current.batch_tokens // 2
    if half >= LEAST_TOKENS:
        yield f"train.tokens_per_microbatch={half}"
    if train.checkpointing_keeps == "products":
        yield 'train.checkpointing_keeps="inputs"'
    if train.reduce_gradients == "per_update":
        yield 'train.reduce_gradients="per_microbatch"'
    if current.device.cuda:
        yield from _offloading_candidates(train)
    if rollout.samples_per_prompt > 1 and train.minibatches == "spread":
        yield 'train.minibatches="groups"'
    if spec.model.dtype == "float32":
        yield 'model.dtype="bfloat16"'
    yield from _engine_candidates(current)


def _offloading_candidates(train: TrainSettings) -> Iterator[str]:
    if train.gradient_checkpointing and train.checkpointing_keeps == "inputs":
        yield 'train.checkpointing_keeps="offloaded_inputs"'
    if train.offload == "none":
        yield 'train.offload="optimizer"'


def _engine_candidates(current: Estimate) -> Iterator[str]:
    options = current.plan.spec.rollout.config
    if not getattr(options, "sleep", True) and current.device.cuda:
        yield "rollout.sleep=true"
    fraction = getattr(options, "gpu_memory_fraction", None)
    if fraction is not None and current.device.cuda:
        # the fraction that leaves enough for the trainer in the tightest phase
        over = max(0, -current.free) / current.device.bytes
        smaller = int((fraction - over) * 100 - 1) / 100
        if over and smaller >= LEAST_FRACTION:
            yield f"rollout.gpu_memory_fraction={smaller}"
        if not current.at_once[0] and fraction < 0.8:
            yield "rollout.gpu_memory_fraction=0.8"
    too_small = not current.at_once[0]
    if too_small and current.sequence <= current.engine.cache:  # what the run samples does fit
        yield f"rollout.context_length={current.lengths.total}"
    cache = getattr(options, "cpu_cache_gib", 1)
    if too_small and not current.device.cuda:
        yield f"rollout.cpu_cache_gib={math.ceil(current.longest / GIB)}"
    elif not current.device.cuda and cache > 1:
        yield f"rollout.cpu_cache_gib={cache // 2}"
    sequences = getattr(options, "max_sequences", 0)
    if sequences >= 32:
        yield f"rollout.max_sequences={sequences // 2}"
