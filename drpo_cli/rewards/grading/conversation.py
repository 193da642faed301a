"""What rewards get of a response or an episode: its messages, and the tokens of the policy."""

from __future__ import annotations

from typing import Any

from drpo_cli.types import Message, Prompt, Rollout


def conversation(prompt: Prompt, rollout: Rollout) -> list[dict[str, Any]]:
    """All messages of an episode; of a plain response, those of the prompt and the response."""
    if rollout.episode is not None:
        return [dict(message) for message in rollout.episode.messages]
    asked: tuple[Message, ...] = prompt.messages or ({"role": "user", "content": prompt.text},)
    said = {"role": "assistant", "content": rollout.text}
    return [*(dict(message) for message in asked), said]


def sampled_ids(rollout: Rollout) -> tuple[int, ...]:
    """The token ids that the policy sampled, over all turns."""
    if rollout.sampled is None and not rollout.earlier:
        return rollout.token_ids
    return tuple(
        id
        for row in rollout.rows
        for id, own in zip(row.token_ids, row.sampled or (True,) * len(row.token_ids), strict=True)
        if own
    )
