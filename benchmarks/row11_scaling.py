"""How the training phase's time grows with response length, and with group size: exponents.

The phase is `Trainer.step` (one update) of a Qwen3 of 3.0 M parameters in float32, with the
defaults of `[train]`. All points have the same number of input tokens, or of samples, so that they
are measured equally well. If the time per token is ∝ Lᵃ, the time of a fixed number of responses
grows as Lᵃ⁺¹, and a + 1 is the reported exponent (1: in proportion); the same for the time per
sample and groups. Each figure is one fit (`scipy.stats.linregress` of the logarithms) to one round
over all points.

Lengths 64 … 4,096: 8,192 input tokens in responses of L, prompts of 16 tokens. Attention is
quadratic, so its own share is subtracted: at every point, right after the phase, causal
`scaled_dot_product_attention` is timed alone, forward and backward, with as many sequences of that
length and as many layers. The other work for attention (gathering, padding, repeating heads) stays
in. The notes have the exponent with attention.

Groups 2 … 64: 64 samples with responses of 64 tokens, in 32 … 1 groups that share prompts of 64
tokens: a larger group has fewer input tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._bench import Goal, Measured, Size, seconds
from benchmarks._ranks import alone
from benchmarks._trainers import (
    Shape,
    input_lengths,
    make_model,
    on_policy,
    open_trainer,
    random_rows,
    step,
)

if TYPE_CHECKING:
    from drpo_cli.experience import Experience
    from drpo_cli.trainer.trainer import Trainer

GOALS = (
    Goal("time against response length, exponent beyond attention's share", 1.15, at_most=True),
    Goal("time against group size, exponent", 1.0, at_most=True),
)
SHAPE = Shape(320, 256, 704, layers=4, heads=4, kv_heads=2, head_dim=64)
LENGTHS: dict[Size, tuple[int, ...]] = {
    "full": (64, 128, 256, 512, 1024, 2048, 4096),
    "smoke": (64, 128),
}
GROUPS: dict[Size, tuple[int, ...]] = {"full": (2, 4, 8, 16, 32, 64), "smoke": (2, 8)}
LENGTH_TOKENS: dict[Size, int] = {"full": 8192, "smoke": 512}
LENGTH_PROMPT = 16
SAMPLES: dict[Size, int] = {"full": 64, "smoke": 8}
GROUP_PROMPT, GROUP_RESPONSE = 64, 64
ROUNDS: dict[Size, int] = {"full": 3, "smoke": 1}


@dataclass(frozen=True)
class Point:
    """Seconds of a phase at one length or group size, and of attention alone."""

    at: int
    units: int  # input tokens, or samples
    phase: float
    attention: float = 0.0


def measure(size: Size) -> Measured:
    """Measures as the module's docstring says."""
    with tempfile.TemporaryDirectory() as folder, alone() as world:
        trainer = open_trainer(make_model(Path(folder) / "model", SHAPE), world)
        batches = {length: _of_length(trainer, length, size) for length in LENGTHS[size]}
        groups = {group: _of_group(trainer, group, size) for group in GROUPS[size]}
        step(trainer, batches[LENGTHS[size][0]])
        taken = [_rounds(trainer, batches, groups) for _ in range(ROUNDS[size])]
    lengths, sizes = [by_length for by_length, _ in taken], [by_group for _, by_group in taken]
    notes = {
        "length": [[vars(point) for point in points] for points in lengths],
        "group": [[vars(point) for point in points] for points in sizes],
        "exponent_with_attention": [exponent(points, beyond=False) for points in lengths],
    }
    return Measured((tuple(map(exponent, lengths)), tuple(map(exponent, sizes))), notes)


def _rounds(
    trainer: Trainer, batches: dict[int, Experience], groups: dict[int, Experience]
) -> tuple[list[Point], list[Point]]:
    by_length = [
        Point(length, sum(input_lengths(batch)), _phase(trainer, batch), attention(batch))
        for length, batch in batches.items()
    ]
    by_group = [Point(at, len(batch), _phase(trainer, batch)) for at, batch in groups.items()]
    return by_length, by_group


def exponent(points: Sequence[Point], beyond: bool = True) -> float:
    """1 + the slope of log(time per unit) over log(length or group size)."""
    import numpy as np
    from scipy.stats import linregress

    times = [(p.phase - p.attention * beyond) / p.units for p in points]
    return 1 + float(linregress(np.log([p.at for p in points]), np.log(times)).slope)


def attention(batch: Experience) -> float:
    """Seconds of attention alone, forward and backward in all layers, over sequences like these.

    All have one length.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    size = (len(batch), SHAPE.heads, input_lengths(batch)[0], SHAPE.head_dim)
    query, key, value = (torch.randn(size, requires_grad=True) for _ in range(3))

    def all_layers() -> None:
        for _ in range(SHAPE.layers):
            out = scaled_dot_product_attention(query, key, value, is_causal=True)
            out.backward(value.detach())

    return seconds(all_layers)


def _phase(trainer: Trainer, batch: Experience) -> float:
    return seconds(lambda: step(trainer, batch))


def _of_length(trainer: Trainer, length: int, size: Size) -> Experience:
    count = max(1, LENGTH_TOKENS[size] // (LENGTH_PROMPT + length - 1))
    samples = random_rows([(LENGTH_PROMPT, 1)] * count, length, SHAPE.vocabulary)
    return on_policy(trainer, samples)


def _of_group(trainer: Trainer, group: int, size: Size) -> Experience:
    prompts = [(GROUP_PROMPT, group)] * (SAMPLES[size] // group)
    return on_policy(trainer, random_rows(prompts, GROUP_RESPONSE, SHAPE.vocabulary))
