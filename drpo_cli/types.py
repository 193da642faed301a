"""The frozen values that pass between rooms, and the letters that name axes.

A tensor or list whose name ends in capital letters has these axes, in order; each letter means one
thing in the whole package, and `tests/house/test_suffixes.py` holds that no other is used:

| suffix | axis |
|---|---|
| `_P` | prompts of a step (of this rank, unless stated otherwise) |
| `_G` | samples of one prompt (its group) |
| `_E` | episodes: the samples of all prompts, a response without an environment among them |
| `_U` | turns of the policy, end to end over all episodes |
| `_S` | rows: one prompt with one response each; an episode is one row, or several |
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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Limit of |log π − log μ|: the ratio stays within e^±20; beyond it a log-prob is broken."""

Message = Mapping[str, Any]
"""One message of a chat: `{"role": "user", "content": "…"}`.

The content is text. A message of the assistant may have `tool_calls`, and `reasoning_content`; one
of a tool has `name`, and `tool_call_id` if the call had an id."""


@dataclass(frozen=True)
class Problem:
    """One row of a data source, before it is rendered and tokenized."""

    prompt: str | tuple[Message, ...]
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatTemplate:
    """How the messages of a prompt become text: a Jinja template and its variables."""

    text: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it; `rewards` are the names of its rewards, None means all.

    epoch        how often the data was served before: the same row comes once in each
    messages     the same as a chat: plain text is one message of the user
    opening      how many of the messages, at the start, are not the row's own: system message and
                 examples
    template     renders further messages; None for plain text
    environment  the name of the environment that its episodes take place in, None without any
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    answer: str | None
    metadata: Mapping[str, Any]
    rewards: tuple[str, ...] | None = None
    epoch: int = 0
    messages: tuple[Message, ...] = ()
    opening: int = 0
    template: ChatTemplate | None = None
    environment: str | None = None


@dataclass(frozen=True)
class Row:
    """What an environment gets of the row that an episode starts from.

    prompt    its text, after the source's `template`; for a row with a chat, its last message
    messages  its prompt as a chat, without system message and examples
    """

    id: str
    prompt: str
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ToolCall(NamedTuple):
    """A call of a tool that the model wrote; `id` is empty where its format has none."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class Action:
    """What the policy did in a turn.

    text       what it wrote, without thinking, tool calls and the token that ended it
    calls      the tools that it calls, in order
    problem    why its call of a tool is not valid, in words for the model; None if it is
    truncated  whether it ran out of tokens
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Step:
    """What an environment answers to an action.

    observation  what the policy sees next: text of the user, or messages; may be empty when done
    reward       for this action; an episode's reward is their sum
    done         whether the episode ends here
    info         plain values that are kept with the episode
    """

    observation: str | Message | Sequence[Message] = ""
    reward: float = 0.0
    done: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One action of an episode, and the answer to it.

    row, first, end  where its sampled tokens are: `rows[row].token_ids[first:end]` of the rollout
    reward           the environment's, 0 where it gave none
    calls            the tools that were called
    problem          why a call could not be parsed
    sampling_s       seconds from the request to the last token
    answer_s         seconds until environment or tools answered
    errors           what went wrong in each of `calls`, with its place; empty where nothing did
    """

    row: int
    first: int
    end: int
    reward: float = 0.0
    calls: tuple[ToolCall, ...] = ()
    problem: str | None = None
    sampling_s: float = 0.0
    answer_s: float = 0.0
    errors: tuple[str, ...] = ()


End = Literal["done", "max_turns", "max_tokens", "context", "timeout", "failed"]
"""Why an episode ended: its environment said so, a limit of the spec (a turn or the episode ran out
of tokens, the context is full, it took too long), or the environment failed."""


@dataclass(frozen=True)
class Episode:
    """What happened in an episode, beside its tokens.

    environment  its name
    messages     the whole conversation
    turns        the policy's actions, in order
    end          why it ended
    failure      kind and message, where the environment failed
    info         of the last step
    counts       what was counted in its answers: `tool_calls`, `tool_errors`, `printed_bytes`, …
    """

    environment: str
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]
    end: End
    failure: tuple[str, str] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        """The sum of the environment's rewards."""
        return math.fsum(turn.reward for turn in self.turns)


@dataclass(frozen=True)
class Rollout:
    """One sampled response: the token ids of the engine, with log μ of each.

    Of an episode, `token_ids` has what follows its first prompt: the policy's tokens of all turns
    and, between them, those of the observations.

    experts     what the engine's routers chose for each input token, the prompt's and the
                response's but the last: [tokens, blocks, experts of a token], small integers; None
                if not asked
    prompt_ids  the tokens in front; None: those of its `Prompt`
    sampled     for each token whether the policy sampled it; None: all. `logps` is 0 elsewhere
    earlier     rows of the same episode before this one: where the chat template rewrites what the
                model has seen, a new row begins
    episode     what happened in it; None for a response without an environment
    """

    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    text: str
    truncated: bool
    experts: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    prompt_ids: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None
    earlier: tuple[Rollout, ...] = ()
    episode: Episode | None = None

    @property
    def rows(self) -> tuple[Rollout, ...]:
        """The rows that training sees, in order; the last is the rollout itself."""
        return (*self.earlier, self)

    @property
    def sampled_tokens(self) -> int:
        """The tokens that the policy sampled, over all rows."""
        return sum(len(r.token_ids) if r.sampled is None else sum(r.sampled) for r in self.rows)


@dataclass(frozen=True)
class Group:
    """All rollouts of one prompt."""

    prompt: Prompt
    rollouts_G: tuple[Rollout, ...]


@dataclass(frozen=True)
class Scores:
    """The scores of one group.

    total_G         the weighted total of each sample, always finite; 0 for a skipped sample
    by_reward       the scores of each reward, by its name; None where it failed on a sample
    skipped         samples without a total, because a reward that counts failed on them;
                    advantages, losses and means leave them out
    turn_rewards_G  what of each sample's total its environment gave for each turn: its weight and
                    all gates multiplied in. What the total has besides counts for the last turn.
                    None without an environment
    """

    total_G: tuple[float, ...]
    by_reward: Mapping[str, tuple[float | None, ...]]
    skipped: frozenset[int] = frozenset()
    turn_rewards_G: tuple[tuple[float, ...], ...] | None = None

    @property
    def kept_totals(self) -> list[float]:
        """The totals of the samples that are not skipped, in order."""
        return [total for i, total in enumerate(self.total_G) if i not in self.skipped]


class TurnView(NamedTuple):
    """What an advantage sees of a turn.

    reward       the turn's part of the total; the last one's has what no turn was rewarded with
    tokens       the tokens that the policy sampled, at least 1
    observation  the text that the policy was shown since its last turn: for the first one, the
                 whole prompt; empty for a response without an environment
    """

    reward: float
    tokens: int
    observation: str = ""


class Tokens(NamedTuple):
    """The input of an objective: tensors of shape [T], float32 or float64, sampled tokens only.

    logp_T      log π of the sampled token under the weights being trained (carries the gradient)
    old_logp_T  log μ, as the rollout engine reported it (or, with `train.anchor = "trainer"`, as
                the trainer recomputed it at the start of the step)
    adv_T       the advantage of the token, or of its whole response or episode
    response_T  the response that each token belongs to: int64, 0 … S − 1, without gaps; None means
                a single response. A response is never split: all its tokens with a loss are here,
                next to each other, in the order they were sampled. Of an episode with several
                turns, each is a response
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
