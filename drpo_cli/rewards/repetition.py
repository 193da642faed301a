"""Penalty on repetition: 0 where no n-gram occurs twice, down to −1 where all are the same.

With N the number of n-grams of the completion, D how many of them are distinct, and the share of
repeats s = 1 − D / N:

    R(y) = −max(0, s − t) / (1 − t),   t = `tolerated`

With t = 0 this is −(1 − D / N), the n-gram repetition penalty that Open-R1 takes from "Demystifying
Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373), over a whole response. A completion
shorter than one n-gram gets 0. Long texts repeat more n-grams than short ones by chance, so a small
`n` penalises length too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from drpo_cli.settings import Decay, RewardSettings

INLINE = True


class Config(RewardSettings):
    """Options of the penalty."""

    n: Annotated[int, Field(ge=1, le=64)] = 4
    """Units in one n-gram."""
    unit: Literal["words", "tokens"] = "words"
    """Count words (split at white space, ignoring case) or the model's own tokens. Text without
    spaces (Chinese, a long formula) is one word: count tokens there."""
    tolerated: Decay = 0.0
    """Share of repeats t without a penalty: good prose and algebra repeat some n-grams."""


def reward(completion: str, tokens: tuple[int, ...], config: Config) -> float:
    """Between −1 and 0."""
    units: Sequence[object] = completion.lower().split() if config.unit == "words" else tokens
    total = len(units) - config.n + 1
    if total <= 0:
        return 0.0
    distinct = len(set(zip(*(units[i:] for i in range(config.n)), strict=False)))
    excess = (total - distinct) / total - config.tolerated
    return -excess / (1 - config.tolerated) if excess > 0 else 0.0


_PAIRS = Config(n=2)
EXAMPLES = [
    ({"completion": "one two three four", "tokens": (), "config": _PAIRS}, 0.0),
    ({"completion": "Yes no yes no yes", "tokens": (), "config": _PAIRS}, -0.5),
    ({"completion": "so so so so so", "tokens": (), "config": _PAIRS}, -0.75),
    ({"completion": "so so so so so", "tokens": (), "config": Config(n=2, tolerated=0.5)}, -0.5),
    ({"completion": "so so", "tokens": (), "config": Config(n=4)}, 0.0),
    ({"completion": "", "tokens": (5, 6, 5, 6, 5), "config": Config(n=2, unit="tokens")}, -0.5),
]
