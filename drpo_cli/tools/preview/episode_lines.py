"""Episodes in lines of a file, as samples.jsonl has them, back as rollouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from drpo_cli.types import End, Episode, Rollout, ToolCall, Turn


class CallLine(BaseModel):
    """A call of a tool."""

    name: str
    arguments: dict[str, Any] = {}
    id: str = ""
    error: str = ""


class TurnLine(BaseModel):
    """An action, and the answer to it."""

    row: int = 0
    first: int = 0
    end: int = 0
    reward: float = 0.0
    calls: tuple[CallLine, ...] = ()
    problem: str | None = None
    sampling_s: float = 0.0
    answer_s: float = 0.0

    def turn(self) -> Turn:
        """The same as a turn."""
        calls = tuple(ToolCall(call.name, call.arguments, call.id) for call in self.calls)
        return Turn(
            self.row,
            self.first,
            self.end,
            self.reward,
            calls,
            self.problem,
            self.sampling_s,
            self.answer_s,
            errors=tuple(call.error for call in self.calls),
        )


class FailureLine(BaseModel):
    """Why an environment failed."""

    kind: str
    message: str


class RowLine(BaseModel):
    """A training row."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    sampled: tuple[bool, ...]


class EpisodeLine(BaseModel):
    """What a line has of an episode."""

    environment: str = ""
    messages: tuple[dict[str, Any], ...]
    turns: tuple[TurnLine, ...] = ()
    end: End = "done"
    failure: FailureLine | None = None
    info: dict[str, Any] = {}
    counts: dict[str, float] = {}
    rows: tuple[RowLine, ...] = ()

    @property
    def episode(self) -> Episode:
        """What happened, beside the tokens."""
        failure = None if self.failure is None else (self.failure.kind, self.failure.message)
        return Episode(
            self.environment,
            self.messages,
            tuple(turn.turn() for turn in self.turns),
            self.end,
            failure,
            self.info,
            self.counts,
        )

    def add_to(self, rollout: Rollout) -> Rollout:
        """The rollout with what happened in it, and with its rows where the line has them."""
        rows = [
            replace(
                rollout,
                token_ids=row.token_ids,
                prompt_ids=row.prompt_ids,
                sampled=row.sampled,
            )
            for row in self.rows
        ]
        *earlier, last = rows or [rollout]
        return replace(last, earlier=tuple(earlier), episode=self.episode)
