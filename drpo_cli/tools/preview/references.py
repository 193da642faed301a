"""Training problems with their own answers as completions: what every reward should like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source, name_sources, open_sources
from drpo_cli.errors import UserError
from drpo_cli.rewards.grading.contract import Reward
from drpo_cli.spec import Spec
from drpo_cli.tools.preview.model import tokenizer
from drpo_cli.types import Group, Prompt, Rollout

LOOKED_AT = 1000
"""Rows of each source among which answers must be found."""
ANY_LENGTH = 2**31


def reference_groups(spec: Spec, rewards: Sequence[Reward], count: int) -> list[Group]:
    """A group of one, the answer, for each of the first `count` problems, from all sources alike.

    Needs no model, and no tokenizer unless a reward asks for the prompt. Raises UserError where
    no problem has an answer.
    """
    wanted = [reward for reward in rewards if "prompt" in reward.asks]
    prompts = Prompts(tokenizer(spec.model), ANY_LENGTH) if wanted else None
    sources = open_sources(spec.data)
    each = math.ceil(count / len(sources))
    groups_P = [group for rows in sources for group in islice(_groups(rows, prompts), each)]
    if not groups_P:
        raise UserError(
            f"none of the first {LOOKED_AT:,} rows has an answer to score as a completion; "
            "give --samples FILE or --generate N"
        )
    return groups_P[:count]


def scorers(spec: Spec) -> dict[str, tuple[str, ...] | None]:
    """The rewards of each source by its name, None where it shares the run's."""
    found = {}
    for prefix, sources in (("", spec.data), ("eval:", spec.eval_data)):
        for source, label in zip(sources, name_sources(sources), strict=True):
            found[prefix + label] = source.config.rewards
    return found


def _groups(rows: Source, prompts: Prompts | None) -> Iterator[Group]:
    for row in islice(rows, LOOKED_AT):
        if row.problem.answer is not None:
            prompt = _unrendered(row) if prompts is None else prompts.make(row)
            if isinstance(prompt, Prompt):  # else it is too short or too long, and never served
                yield Group(prompt, (Rollout((), (), row.problem.answer, truncated=False),))


def _unrendered(row: Row) -> Prompt:
    problem = row.problem
    asked = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return Prompt(row.id, asked, (), problem.answer, problem.metadata, row.config.rewards)
