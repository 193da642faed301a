"""The frozen values that pass between rooms, and the letters that name axes.

A tensor or list whose name ends in capital letters has these axes, in order; each letter means one
thing in the whole package, and `tests/house/test_suffixes.py` holds that no other is used:

| suffix | axis |
|---|---|
| `_P` | prompts of a step (of this rank, unless stated otherwise) |
| `_G` | samples of one prompt (its group) |
| `_S` | rows: one prompt with one response each |
| `_T` | response tokens, end to end over all rows |
| `_I` | input tokens of a packed micro-batch |
| `_V` | vocabulary |
| `_D` | hidden size |
| `_R` | ranks |
| `_B` | spans of an attention bucket |
| `_L` | queries of a span |
| `_K` | keys of a span |
| `_H` | attention heads |
| `_N` | entries of an index |
| `_M` | entries of an index of keys |
| `_F` | features of a row that is gathered |
| `_C` | response tokens of a block of logits |
| `_W` | vocabulary entries of a block of logits |

A digit stands for an axis of that length: `_B1` is a column.

Symbols: π is the policy being trained, μ the behaviour policy: the probability that the rollout
engine gave a token when it sampled it. Both are taken at the sampling temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Limit of |log π − log μ|: the ratio stays within e^±20; beyond it a log-prob is broken."""

Message = Mapping[str, str]
"""One chat turn: `{"role": "user", "content": "…"}`."""


@dataclass(frozen=True)
class Problem:
    """One row of a data source, before it is rendered and tokenized."""

    prompt: str | tuple[Message, ...]
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it; `rewards` are the names of its rewards, None means all.

    `epoch` counts how often the data was served before: the same row comes once in each.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    answer: str | None
    metadata: Mapping[str, Any]
    rewards: tuple[str, ...] | None = None
    epoch: int = 0


@dataclass(frozen=True)
class Rollout:
    """One sampled response: the token ids of the engine, with log μ of each.

    experts  what the engine's routers chose for each input token, the prompt's and the response's
             but the last: [tokens, blocks, experts of a token], small integers; None if not asked
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    truncated: bool
    experts: NDArray[Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Group:
    """All rollouts of one prompt."""

    prompt: Prompt
    rollouts_G: tuple[Rollout, ...]


@dataclass(frozen=True)
class Scores:
    """The scores of one group.

    total_G    the weighted total of each sample, always finite; 0 for a skipped sample
    by_reward  the scores of each reward, by its name; None where it failed on a sample
    skipped    samples without a total, because a reward that counts failed on them; advantages,
               losses and means leave them out
    """

    total_G: tuple[float, ...]
    by_reward: Mapping[str, tuple[float | None, ...]]
    skipped: frozenset[int] = frozenset()

    @property
    def kept_totals(self) -> list[float]:
        """The totals of the samples that are not skipped, in order."""
        return [total for i, total in enumerate(self.total_G) if i not in self.skipped]


class Tokens(NamedTuple):
    """The input of an objective: tensors of shape [T], float32 or float64, response tokens only.

    logp_T      log π of the sampled token under the weights being trained (carries the gradient)
    old_logp_T  log μ, as the rollout engine reported it (or, with `train.anchor = "trainer"`, as
                the trainer recomputed it at the start of the step)
    adv_T       the advantage of the token, or of its whole response
    response_T  the response that each token belongs to: int64, 0 … S − 1, without gaps; None means
                a single response. A response is never split: all its tokens are here.
    """

    logp_T: Tensor
    old_logp_T: Tensor
    adv_T: Tensor
    response_T: Tensor | None = None


@dataclass(frozen=True)
class TokenLoss:
    """The output of an objective.

    per_token_T  loss of each token; the trainer applies masks, weights and means
    metrics      detached per-token tensors of shape [T]; `weight` is the gradient weight w with
                 ∂loss/∂log π = −A r w
    """

    per_token_T: Tensor
    metrics: dict[str, Tensor]
