"""What the writers of logs get: what a target scored on some problems, with every response."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from drpo_cli.evaluate.metrics import Evaluation, right_samples
from drpo_cli.rollout.engine.protocol import Sampling
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec
from drpo_cli.step.evaluate import eval_sampling
from drpo_cli.step.samples import group_records, to_json
from drpo_cli.types import Group, Scores

LONGEST_COLUMN = 10_000
"""Characters of a column of a problem that logs have."""


@dataclass(frozen=True)
class Response:
    """One response: its line in the file of `write_lines`, and whether it is right."""

    line: Mapping[str, Any]
    right: bool

    @property
    def rewards(self) -> dict[str, float]:
        """The score of each reward, by its name; without those that failed."""
        return {name: value for name, value in self.line["rewards"].items() if value is not None}

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompt; 0 for an episode, whose prompt grows from turn to turn."""
        return 0 if "messages" in self.line else int(self.line["prompt_tokens"])


class Totals(NamedTuple):
    """Sums and means over the responses of a result.

    rewards  of each reward, the mean over problems of the mean score of a problem's responses, and
             the number of these problems: a reward may be for some of them only, and may fail
    """

    rewards: Mapping[str, tuple[float, int]]
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Result:
    """What a target scored on the problems of a spec.

    task    the name of the problems: that of their suite, or `held-out`
    target  as the user named it
    whole   how many problems there are; fewer are scored where a copy of a suite lacks some
    lines   the file of its responses
    began   when it began, in seconds since 1970
    """

    task: str
    target: str
    spec: Spec
    evaluation: Evaluation
    whole: int
    lines: Path
    began: float
    seconds: float

    @property
    def sampling(self) -> Sampling:
        """How the responses were sampled."""
        return eval_sampling(self.spec, self.evaluation.k)

    @property
    def dtype(self) -> str:
        """The dtype that the engine computed with."""
        return str(self.spec.rollout.config.dtype or self.spec.model.dtype)

    @property
    def start(self) -> datetime:
        """When it began."""
        return datetime.fromtimestamp(self.began, UTC)

    @property
    def end(self) -> datetime:
        """When the last response was scored."""
        return datetime.fromtimestamp(self.began + self.seconds, UTC)

    @property
    def source(self) -> str:
        """Where the problems come from: data sets, files, or types of sources."""
        sources = self.spec.eval_data or self.spec.data
        return ", ".join(str(getattr(one.config, "path", one.type)) for one in sources)

    def groups(self) -> Iterator[list[Response]]:
        """The responses to each problem, problem by problem; read as they are needed."""
        with self.lines.open(encoding="utf-8") as file:
            for problem in self.evaluation.problems:
                rights = right_samples(problem, self.evaluation.threshold)
                yield [Response(json.loads(file.readline()), right) for right in rights]

    @cached_property
    def totals(self) -> Totals:
        """Sums and means over all responses."""
        found, prompt_tokens, tokens = dict[str, list[float]](), 0, 0
        for group in self.groups():
            scores: dict[str, list[float]] = {}
            for response in group:
                tokens += response.line["tokens"]
                prompt_tokens += response.prompt_tokens
                for name, value in response.rewards.items():
                    scores.setdefault(name, []).append(value)
            for name, values in scores.items():
                found.setdefault(name, []).append(sum(values) / len(values))
        means = {name: (sum(each) / len(each), len(each)) for name, each in found.items()}
        return Totals(means, prompt_tokens, tokens)


def write_lines(path: Path, groups_P: Sequence[Group], scores_P: Sequence[Scores]) -> None:
    """Writes each response as a line: that of samples.jsonl, with the prompt as the model got it.

    `chat` has the messages of the prompt, None for plain text; `prompt_tokens` is their number.
    Of long columns, such as LiveCodeBench's hidden tests, only the beginning is there.
    """
    records = Records(path)
    for group, scores in zip(groups_P, scores_P, strict=True):
        prompt = group.prompt
        more = {
            "chat": None if prompt.template is None else to_json(prompt.messages),
            "prompt_tokens": len(prompt.token_ids),
        }
        records.extend(
            line
            | more
            | {"metadata": {key: _shorten(one) for key, one in line["metadata"].items()}}
            for line in group_records(0, group, scores)
        )


def _shorten(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= LONGEST_COLUMN:
        return value
    return f"{value[:LONGEST_COLUMN]}… ({len(value):,} characters)"
