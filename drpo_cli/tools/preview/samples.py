"""Completions to try rewards on, from a file of JSON lines; a run's samples.jsonl is one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from drpo_cli.errors import UserError
from drpo_cli.types import Group, Prompt, Rollout


class Line(BaseModel):
    """One line: a completion and what it answers. Other keys are passed over.

    Lines alike in all but the completion's own keys (`completion`, `truncated`, `token_ids`) are
    samples of one group. Without `token_ids` a completion is tokenized where a reward asks.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: str
    completion: str
    answer: str | None = None
    metadata: dict[str, Any] = {}
    truncated: bool = False
    token_ids: tuple[int, ...] = ()
    prompt_id: str | None = None
    step: int | None = None
    group: int | None = None

    @property
    def shared(self) -> str:
        """What all lines of its group have alike."""
        own = {"completion", "truncated", "token_ids"}
        return json.dumps(self.model_dump(exclude=own), sort_keys=True)

    @property
    def rollout(self) -> Rollout:
        """The completion; nobody has asked for its log-probs."""
        return Rollout(self.token_ids, (), self.completion, self.truncated)


def read_groups(path: Path, scorers: Mapping[str, tuple[str, ...] | None]) -> list[Group]:
    """The groups of a file, in the order of their first lines.

    `scorers` are the rewards of each source, by the label that its prompt ids begin with. Raises
    UserError for a file that cannot be read, and for a bad line by its number.
    """
    groups: dict[str, list[Line]] = {}
    begins: dict[str, int] = {}
    for number, line in _lines(path):
        groups.setdefault(line.shared, []).append(line)
        begins.setdefault(line.shared, number)
    if not groups:
        raise UserError(f"{path}: has no samples; put one JSON object on each line")
    return [_group(f"{path.name}:{begins[key]}", lines, scorers) for key, lines in groups.items()]


def as_line(group: Group, sample: int) -> dict[str, Any]:
    """What `read_groups` makes the sample of again, in JSON's own types but for the metadata."""
    prompt, rollout = group.prompt, group.rollouts_G[sample]
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "answer": prompt.answer,
        "metadata": dict(prompt.metadata),
        "completion": rollout.text,
        "truncated": rollout.truncated,
        "token_ids": rollout.token_ids,
    }


def _lines(path: Path) -> list[tuple[int, Line]]:
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"--samples {path}: {error.strerror}; name a JSON Lines file") from error
    return [(n, _line(text, f"{path}:{n}")) for n, text in enumerate(raw, 1) if text.strip()]


def _line(text: bytes, where: str) -> Line:
    try:
        return Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where}: {f'{key}: ' if key else ''}{first['msg']}; a line is "
            '{"prompt": "…", "completion": "…"}, and "answer", "metadata", "truncated" if you like'
        ) from error


def _group(
    name: str, lines: Sequence[Line], scorers: Mapping[str, tuple[str, ...] | None]
) -> Group:
    first = lines[0]
    id = first.prompt_id or name
    own = scorers.get(id.rpartition("/")[0])
    prompt = Prompt(id, first.prompt, (), first.answer, first.metadata, own)
    return Group(prompt, tuple(line.rollout for line in lines))
