"""Environments of the real package `verifiers`, one for each way in which they answer."""

from __future__ import annotations

from typing import Any

import verifiers as vf
from datasets import Dataset

ROWS = [
    {"question": "Guess from 1 to 9.", "answer": "7", "info": {"hint": "odd"}},
    {"question": "Guess from 1 to 5.", "answer": "2", "info": {"hint": "even"}},
    {"question": "Guess from 1 to 3.", "answer": "1", "info": {"hint": "odd"}},
    {"question": "Guess from 1 to 2.", "answer": "2", "info": {"hint": "even"}},
]


class Guess(vf.MultiTurnEnv):  # type: ignore[misc]
    """Says higher or lower, and ends when the guess is right."""

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        guess = messages[-1]["content"]
        if guess == "crash":
            raise vf.ToolError("the game broke") from OSError("its server is gone")
        if guess == "rewrite":
            messages[0]["content"] = "other"
            return [{"role": "user", "content": "go on"}]
        if guess == state["answer"]:
            state["final_env_response"] = [{"role": "user", "content": "right"}]
            return state["final_env_response"]
        hint = "higher" if int(guess) < int(state["answer"]) else "lower"
        return [{"role": "user", "content": f"{hint} ({state['info']['hint']})"}]


async def solved(completion: Any, answer: str) -> float:
    """Whether a guess was right; breaks on a cheat."""
    said = [one["content"] for one in completion if one["role"] == "assistant"]
    if "0" in said:
        raise ZeroDivisionError("a guess of 0")
    return float(answer in said)


async def ranks(completions: Any) -> list[float]:
    """Compares samples."""
    return [0.0 for _ in completions]


def _options(rubric: vf.Rubric) -> dict[str, Any]:
    return {"dataset": Dataset.from_list(ROWS), "rubric": rubric, "system_prompt": "Play."}


def guess(max_turns: int = 3) -> vf.Environment:
    """The game."""
    rubric = vf.Rubric(funcs=[solved], weights=[2.0])
    return Guess(max_turns=max_turns, **_options(rubric))


def once() -> vf.Environment:
    """One turn."""
    return vf.SingleTurnEnv(**_options(vf.Rubric(funcs=[solved])))


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def tools() -> vf.Environment:
    """A tool."""
    return vf.ToolEnv(tools=[add], **_options(vf.Rubric(funcs=[solved])))


def compared() -> vf.Environment:
    """A rubric that is not for one sample."""
    return vf.SingleTurnEnv(**_options(vf.Rubric(funcs=[ranks])))


def nothing() -> None:
    """Not an environment."""
