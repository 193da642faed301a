"""The completions that `drpo reward test` scores: of a file, of the data's answers, or sampled.

As a program (`python -m`) it samples, in a process of its own: an engine does not free everything
when it closes, prints to the screen, and must not be there when the rewards' processes are forked.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source, name_sources, open_sources
from drpo_cli.errors import UserError
from drpo_cli.plan import lone_plan
from drpo_cli.rewards.grading.contract import Reward
from drpo_cli.settings import ModelSettings, SourceSettings
from drpo_cli.spec import Spec, load
from drpo_cli.step import build
from drpo_cli.step.play import sample_or_play
from drpo_cli.step.sample import train_sampling
from drpo_cli.step.samples import episode_record
from drpo_cli.tools.own_process import answer, run_apart
from drpo_cli.tools.preview.episode_lines import EpisodeLine
from drpo_cli.types import Group, Prompt, Rollout

SEARCHED = 1000
"""Rows of each source that are searched for reference answers."""
ANY_LENGTH = 2**31

RewardsOfSources = Mapping[str, tuple[str, ...] | None]
"""The rewards of each source, by the label that its prompt ids begin with; None means all."""


class Line(BaseModel):
    """One line of a file: a completion and its prompt. Other keys are ignored.

    Lines that agree in all keys but `completion`, `truncated`, `token_ids` and `messages` form one
    group. One with `messages` is an episode, and may have all that samples.jsonl has of one.
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
    environment: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None
    _episode: EpisodeLine | None = PrivateAttr(default=None)

    @property
    def group_key(self) -> str:
        """What all lines of its group agree in."""
        own = {"completion", "truncated", "token_ids", "messages"}
        return json.dumps(self.model_dump(exclude=own), sort_keys=True)

    def rollout(self) -> Rollout:
        """The completion, or the episode, as it was sampled."""
        rollout = Rollout(self.token_ids, (), self.completion, self.truncated)
        return rollout if self._episode is None else self._episode.add_to(rollout)


def read_groups(path: Path, rewards: RewardsOfSources) -> list[Group]:
    """The groups of a JSON Lines file, such as a run's samples.jsonl, by their first lines.

    Raises UserError for a file that cannot be read, and for a bad line by its number.
    """
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"--samples {path}: {error.strerror}", "name a JSON Lines file") from error
    groups: dict[str, list[tuple[int, Line]]] = {}
    for number, text in enumerate(raw, 1):
        if text.strip():
            line = _read_line(text, f"{path}:{number}")
            groups.setdefault(line.group_key, []).append((number, line))
    if not groups:
        raise UserError(f"{path}: has no samples", "put one JSON object on each line")
    return [_make_group(path.name, lines, rewards) for lines in groups.values()]


def _read_line(text: bytes, where: str) -> Line:
    try:
        line = Line.model_validate_json(text)
        line._episode = EpisodeLine.model_validate_json(text) if line.messages else None
        return line
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where}: {f'{key}: ' if key else ''}{first['msg']}",
            'a line is {"prompt": "…", "completion": "…"}, with optional "answer", "metadata", '
            '"truncated" and "messages"',
        ) from error


def _make_group(file: str, lines: Sequence[tuple[int, Line]], rewards: RewardsOfSources) -> Group:
    number, first = lines[0]
    id = first.prompt_id or f"{file}:{number}"
    own = rewards.get(id.rpartition("/")[0])
    prompt = Prompt(id, first.prompt, (), first.answer, first.metadata, own)
    return Group(prompt, tuple(one.rollout() for _, one in lines))


def as_line(group: Group, sample: int) -> dict[str, Any]:
    """A sample as a line that `read_groups` reads."""
    prompt, rollout = group.prompt, group.rollouts_G[sample]
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.text,
        "answer": prompt.answer,
        "metadata": dict(prompt.metadata),
        "completion": rollout.text,
        "truncated": rollout.truncated,
        "token_ids": rollout.token_ids,
        **episode_record(group, rollout),
    }


def rewards_of_sources(spec: Spec) -> RewardsOfSources:
    """The rewards that each source of the spec names."""
    found = {}
    for prefix, sources in (("", spec.data), ("eval:", spec.eval_data)):
        for source, label in zip(sources, name_sources(sources), strict=True):
            assert isinstance(source.config, SourceSettings)
            found[prefix + label] = source.config.rewards
    return found


def load_tokenizer(model: ModelSettings) -> Any:
    """The model's tokenizer; runs `model.prepare` first when the model folder does not exist."""
    from drpo_cli.launch.launcher import prepare_model  # imports torch, which is slow

    prepare_model(model)
    return build.tokenizer(model)


def reference_groups(spec: Spec, rewards: Sequence[Reward], count: int) -> list[Group]:
    """The reference answers of the first `count` problems, a group of one each.

    They come evenly from all sources. Needs no model, and a tokenizer only if a reward asks for the
    prompt. Raises UserError when no problem has an answer.
    """
    rendered = any("prompt" in reward.asks for reward in rewards)
    prompts = Prompts(load_tokenizer(spec.model), ANY_LENGTH) if rendered else None
    sources = open_sources(spec.data)
    each = math.ceil(count / len(sources))
    groups_P = [group for rows in sources for group in islice(_answers(rows, prompts), each)]
    if not groups_P:
        raise UserError(
            f"none of the first {SEARCHED:,} rows has an answer to score as a completion",
            "give --samples FILE or --generate N",
        )
    return groups_P[:count]


def _answers(rows: Source, prompts: Prompts | None) -> Iterator[Group]:
    for row in islice(rows, SEARCHED):
        if row.problem.answer is not None:
            prompt = _without_template(row) if prompts is None else prompts.make(row)
            if isinstance(prompt, Prompt):  # else its length excludes it from the run
                yield Group(prompt, (Rollout((), (), row.problem.answer, truncated=False),))


def _without_template(row: Row) -> Prompt:
    problem = row.problem
    asked = problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]
    return Prompt(row.id, asked, (), problem.answer, problem.metadata, row.config.rewards)


def sample_in_process(spec: Spec, overrides: Sequence[str], prompts: int) -> list[Group]:
    """Samples a group for each of the first prompts of the run, in a process of its own.

    Raises UserError for a user's mistake that this process finds.
    """
    lines = run_apart("drpo_cli.tools.preview.completions", spec.path, prompts, *overrides)
    with tempfile.TemporaryDirectory(prefix="drpo-generate-") as scratch:
        out = Path(scratch) / "samples.jsonl"
        out.write_text(lines, encoding="utf-8")
        return read_groups(out, rewards_of_sources(spec))


def sample(spec_path: Path, overrides: Sequence[str], prompts: int) -> list[Group]:
    """A group for each of the first prompts that a run of this spec trains on.

    They are sampled as in the first step of the run, from the model that it starts from; in a run
    with environments, as episodes.
    """
    spec = load(spec_path, overrides)
    plan = lone_plan(spec)
    tokenizer = build.tokenizer(spec.model)
    stream = build.data(plan, tokenizer, rank=0).stream
    prompts_P = stream.next()
    while len(prompts_P) < prompts:
        prompts_P += stream.next()
    player = build.player(plan, tokenizer)
    with player or nullcontext():
        engine = build.lone_engine(plan)
        sampling = train_sampling(spec, 1, 0)
        groups_P = sample_or_play(engine, player, prompts_P[:prompts], sampling)
        engine.close()
    return groups_P


def _main(spec_path: str, prompts: str, *overrides: str) -> str:
    groups_P = sample(Path(spec_path), overrides, int(prompts))
    lines = [
        {"group": index, **as_line(group, i)}  # a short source serves a prompt more than once
        for index, group in enumerate(groups_P)
        for i in range(len(group.rollouts_G))
    ]
    return "".join(json.dumps(line, default=str) + "\n" for line in lines)


if __name__ == "__main__":
    sys.exit(answer(_main))
