"""The lines of samples.jsonl: what was sampled in a step, and what it scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from typing import TYPE_CHECKING, Any

from drpo_cli.types import Episode, Group, Rollout, Scores, Turn

if TYPE_CHECKING:
    from drpo_cli.experience import Experience

Decode = Callable[[Sequence[int]], str]
"""The text of token ids, special tokens included."""

CONTEXT = 16  # tokens in front of a part of a text that are decoded together with it

DEEPEST = 30
"""Levels of tables and lists in a value that a user's code made; deeper ones are kept as text."""


def sample_records(
    step: int,
    groups_P: Sequence[Group],
    scores_P: Sequence[Scores],
    exp: Experience,
    count: int | None,
    decode: Decode | None = None,
) -> list[dict[str, Any]]:
    """A step's groups as lines of samples.jsonl, one per rollout: the first `count`, or all.

    `reward` is the total that training saw; None for a sample that was skipped. The line of an
    episode also has its conversation and its rows: see `episode_record`.
    """
    first_E = exp.first_E
    totals = zip(exp.score_S[first_E].tolist(), exp.scored_S[first_E].tolist(), strict=True)
    reward_E = iter([total if scored else None for total, scored in totals])
    return [
        sample_record(step, group, scores, i, next(reward_E), decode)
        for group, scores in list(zip(groups_P, scores_P, strict=True))[:count]
        for i in range(len(group.rollouts_G))
    ]


def group_records(step: int, group: Group, scores: Scores) -> list[dict[str, Any]]:
    """The lines of a group that is not trained on: `reward` is the total that it scored."""
    totals = [None if i in scores.skipped else total for i, total in enumerate(scores.total_G)]
    return [sample_record(step, group, scores, i, total) for i, total in enumerate(totals)]


def sample_record(
    step: int,
    group: Group,
    scores: Scores,
    sample: int,
    reward: float | None,
    decode: Decode | None = None,
) -> dict[str, Any]:
    """One line of samples.jsonl. `reward` is None for a response that was skipped."""
    rollout = group.rollouts_G[sample]
    return {
        "step": step,
        "prompt_id": group.prompt.id,
        "sample": sample,
        "prompt": group.prompt.text,
        "answer": group.prompt.answer,
        "metadata": to_json(group.prompt.metadata),
        "completion": rollout.text,
        "truncated": rollout.truncated,
        "tokens": rollout.sampled_tokens,
        "reward": reward,
        "rewards": {name: values[sample] for name, values in scores.by_reward.items()},
        **episode_record(group, rollout, decode),
    }


def episode_record(group: Group, rollout: Rollout, decode: Decode | None = None) -> dict[str, Any]:
    """What a line of samples.jsonl says of an episode; empty for a response without one.

    With `decode`, each row has its text in `parts` too: its prompt, and then in turn what the
    policy sampled and what it did not.
    """
    episode = rollout.episode
    if episode is None:
        return {}
    return {
        "environment": episode.environment,
        "messages": [to_json(message) for message in episode.messages],
        "turns": [_turn(turn) for turn in episode.turns],
        "end": episode.end,
        "failure": _failure(episode),
        "info": to_json(episode.info),
        "counts": dict(episode.counts),
        "rows": [_row(group, row, decode) for row in rollout.rows],
    }


def to_json(value: Any, levels: int = DEEPEST) -> Any:
    """The value as JSON can hold it; what it cannot hold, or holds too deep, is kept as text."""
    if levels and isinstance(value, Mapping):
        return {str(key): to_json(inner, levels - 1) for key, inner in value.items()}
    if levels and isinstance(value, list | tuple):
        return [to_json(inner, levels - 1) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "row": turn.row,
        "first": turn.first,
        "end": turn.end,
        "reward": turn.reward,
        "calls": [
            {"name": call.name, "arguments": to_json(call.arguments), "id": call.id}
            | ({"error": error} if error else {})
            for call, error in zip(turn.calls, turn.errors or repeat(""), strict=False)
        ],
        "problem": turn.problem,
        "sampling_s": round(turn.sampling_s, 6),
        "answer_s": round(turn.answer_s, 6),
    }


def _failure(episode: Episode) -> dict[str, str] | None:
    if episode.failure is None:
        return None
    kind, message = episode.failure
    return {"kind": kind, "message": message}


def _row(group: Group, row: Rollout, decode: Decode | None) -> dict[str, Any]:
    prompt_ids = group.prompt.token_ids if row.prompt_ids is None else row.prompt_ids
    sampled = (True,) * len(row.token_ids) if row.sampled is None else row.sampled
    found: dict[str, Any] = {
        "prompt_ids": list(prompt_ids),
        "token_ids": list(row.token_ids),
        "sampled": [int(own) for own in sampled],
    }
    if decode is not None:
        found["parts"] = list(_parts(prompt_ids, row.token_ids, sampled, decode))
    return found


def _parts(
    prompt_ids: Sequence[int], token_ids: Sequence[int], sampled: Sequence[bool], decode: Decode
) -> Iterator[dict[str, Any]]:
    yield {"sampled": 0, "text": decode(prompt_ids)}
    ids, first = [*prompt_ids, *token_ids], len(prompt_ids)
    for own, tokens in groupby(sampled):
        end = first + sum(1 for _ in tokens)
        yield {"sampled": int(own), "text": _decode_after(ids, first, end, decode)}
        first = end


def _decode_after(ids: Sequence[int], first: int, end: int, decode: Decode) -> str:
    # Some tokenizers drop the space in front of the first token of a text
    context = ids[max(0, first - CONTEXT) : first]
    before, whole = decode(context), decode([*context, *ids[first:end]])
    return whole[len(before) :] if whole.startswith(before) else decode(ids[first:end])
