"""The setting that gives most room: every candidate is estimated as the spec itself is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drpo_cli.errors import UserError
from drpo_cli.tools.memory.estimate import Estimate

LEAST_TOKENS = 1024  # of a micro-batch: smaller ones cost more time than they give room
LEAST_FRACTION = 0.1
COMBINED = 3  # settings tried together
WORTH = 0.01  # of a device's memory: what gives less room is not named

Estimated = Callable[[Sequence[str]], Estimate]
"""Estimates the spec with further overrides, as `--set` takes them."""


@dataclass(frozen=True)
class Advice:
    """Overrides, the estimate under them, and the room they give in the tightest phase, bytes."""

    overrides: tuple[str, ...]
    estimate: Estimate
    room: int


def advise(current: Estimate, estimated: Estimated) -> list[Advice]:
    """Each candidate by itself, most room first; then the best of them together until it fits.

    A candidate that gives no room to speak of, or that the spec's own rules refuse, is left out.
    """
    found, least = [], WORTH * current.device.bytes
    for override in _candidates(current):
        advice = _tried(current, estimated, (override,))
        if advice is not None and (advice.room > least or advice.estimate.fits):
            found.append(advice)
    found.sort(key=lambda advice: -advice.room)
    if found and not any(advice.estimate.fits for advice in found):
        for count in range(2, min(COMBINED, len(found)) + 1):
            together = tuple(o for advice in found[:count] for o in advice.overrides)
            if (advice := _tried(current, estimated, together)) is not None:
                found.append(advice)
                if advice.estimate.fits:
                    break
    return found


def _tried(current: Estimate, estimated: Estimated, overrides: tuple[str, ...]) -> Advice | None:
    try:
        changed = estimated(overrides)
    except UserError:
        return None
    return Advice(overrides, changed, changed.free - current.free)


def _candidates(current: Estimate) -> list[str]:
    spec = current.plan.spec
    train, rollout = spec.train, spec.rollout.config
    found = []
    if not train.gradient_checkpointing:
        found.append("train.gradient_checkpointing=true")
    half = current.batch_tokens // 2
    if half >= LEAST_TOKENS:
        found.append(f"train.tokens_per_microbatch={half}")
    if 1 < current.microbatches <= 4:  # one pass an update keeps no whole gradients between passes
        found.append(f"train.tokens_per_microbatch={current.batch_tokens * current.microbatches}")
    if rollout.samples_per_prompt > 1 and train.minibatches == "spread":
        found.append('train.minibatches="groups"')
    if spec.model.dtype == "float32":
        found.append('model.dtype="bfloat16"')
    return [*found, *_engine_candidates(current, rollout)]


def _engine_candidates(current: Estimate, options: Any) -> list[str]:
    found = []
    if not getattr(options, "sleep", True) and current.device.cuda:
        found.append("rollout.sleep=true")
    if hasattr(options, "gpu_memory_fraction") and current.device.cuda:
        # what the other phases leave beside the trainer while it rolls out
        over = max(0, -current.free) / current.device.bytes
        fraction = int((options.gpu_memory_fraction - over) * 100 - 1) / 100
        if over and fraction >= LEAST_FRACTION:
            found.append(f"rollout.gpu_memory_fraction={fraction}")
        if not current.at_once[0] and options.gpu_memory_fraction < 0.8:
            found.append("rollout.gpu_memory_fraction=0.8")
    if not current.device.cuda and getattr(options, "cpu_cache_gib", 1) > 1:
        found.append(f"rollout.cpu_cache_gib={options.cpu_cache_gib // 2}")
    if hasattr(options, "max_sequences") and options.max_sequences >= 32:
        found.append(f"rollout.max_sequences={options.max_sequences // 2}")
    return found
