"""Episodes as an environment's feed makes them: a guessing game, a tool, one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.step.episodes import episode_metrics
from drpo_cli.step.samples import sample_records
from drpo_cli.types import (
    End,
    Episode,
    Group,
    Message,
    Prompt,
    Rollout,
    Scores,
    ToolCall,
    Turn,
)

OPENING: tuple[Message, ...] = (
    {"role": "system", "content": "Play well."},
    {"role": "user", "content": "Guess a number."},
)
PROMPT = Prompt("numbers/3", "Guess a number.", (1, 2, 3), "42", {"limit": 100})


def guesses(texts: Sequence[str], end: End = "done", reward: float = 1.0) -> Rollout:
    """An episode of these guesses: each of 2 tokens, with an answer of 3 tokens in between."""
    messages = list(OPENING)
    ids: list[int] = []
    sampled: list[bool] = []
    turns = []
    for i, text in enumerate(texts):
        last = i == len(texts) - 1
        first = len(ids)
        ids += [10 + i, 9]
        sampled += [True, True]
        turns.append(
            Turn(0, first, len(ids), reward if last else 0.0, sampling_s=0.5, answer_s=0.25)
        )
        messages.append({"role": "assistant", "content": text})
        if not last:
            ids += [20 + i, 21, 22]
            sampled += [False] * 3
            messages.append({"role": "user", "content": f"{text} is too low"})
    return Rollout(
        tuple(ids),
        tuple(-0.5 if own else 0.0 for own in sampled),
        " ".join(texts),
        end in ("max_tokens", "context"),
        prompt_ids=(1, 2, 3, 4),
        sampled=tuple(sampled),
        episode=Episode("guess", tuple(messages), tuple(turns), end, info={"secret": 42}),
    )


def calculation() -> Rollout:
    """An episode with tools, of three turns: a call, one that cannot be parsed, and the answer.

    The template drops the thinking of the first turn, so that there are two rows.
    """
    call = ToolCall("calculator", {"expression": "6*7"}, "call_1")
    messages: tuple[Message, ...] = (
        {"role": "user", "content": "6*7?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Better to compute it.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": call.name, "arguments": dict(call.arguments)},
                }
            ],
        },
        {"role": "tool", "name": "calculator", "tool_call_id": "call_1", "content": "42"},
        {"role": "assistant", "content": "<tool_call>{"},
        {"role": "tool", "content": "not a call: JSON ends too early"},
        {"role": "assistant", "content": "42"},
    )
    turns = (
        Turn(0, 0, 4, 0.0, (call,), None, 0.5, 0.125, ("ZeroDivisionError: x (tools.py:7 in f)",)),
        Turn(1, 0, 2, -0.5, (), "JSON ends too early", 0.25, 0.0),
        Turn(1, 4, 5, 1.0, (), None, 0.25, 1.0),
    )
    first = Rollout((5, 6, 7, 8), (-1.0,) * 4, "", False, prompt_ids=(1, 2, 3), sampled=(True,) * 4)
    return Rollout(
        (11, 12, 20, 21, 13),
        (-1.0, -1.0, 0.0, 0.0, -1.0),
        "42",
        False,
        prompt_ids=(1, 2, 3, 7, 8, 30),
        sampled=(True, True, False, False, True),
        earlier=(first,),
        episode=Episode(
            "agent", messages, turns, "done", counts={"tool_errors": 1, "tool_errors/calculator": 1}
        ),
    )


def failed() -> Rollout:
    """An episode whose environment was killed in its second turn."""
    rollout = guesses(["1", "2"], "failed", 0.0)
    assert rollout.episode is not None
    why = ("timeout", "no answer within 30 s")
    return replace(rollout, episode=replace(rollout.episode, failure=why, info={}))


def group(*rollouts: Rollout) -> Group:
    """A group of these."""
    return Group(PROMPT, rollouts)


def uneven_episodes(world: World) -> dict[str, Any]:
    """Metrics where one rank has an environment that the other does not."""
    if world.rank == 0:
        found = [group(guesses(["1", "2", "3"]), failed()), group(calculation())]
    else:
        found = [group(guesses(["1"], "max_turns", 0.0))]
    return episode_metrics(found, 0.5 + world.rank, 4.0, world)


def spell(ids: Sequence[int]) -> str:
    """Token ids as text, as a tokenizer decodes them."""
    return "".join(f"«{token}»" for token in ids)


def lines_of(step: int, *rollouts: Rollout) -> list[dict[str, Any]]:
    """The lines of samples.jsonl of these episodes, which score their environments' rewards."""
    totals = tuple(rollout.episode.reward for rollout in rollouts if rollout.episode)
    groups_P, scores_P = [group(*rollouts)], [Scores(totals, {"guess": totals})]
    exp = Experience.of(groups_P, scores_P)
    return sample_records(step, groups_P, scores_P, exp, None, spell)
