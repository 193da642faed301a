"""An episode that the model plays, in a process of its own, with every token and its mask.

As a program (`python -m`) it plays: an engine does not free everything when it closes, and prints.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.errors import UserError
from drpo_cli.plan import Plan, lone_plan
from drpo_cli.spec import Spec, load
from drpo_cli.spec.lengths import room_for_responses
from drpo_cli.step import build
from drpo_cli.step.sample import train_sampling
from drpo_cli.step.samples import CONTEXT, Decode, episode_record
from drpo_cli.tools.own_process import answer, run_apart
from drpo_cli.tools.preview.environment_rows import find_row
from drpo_cli.types import Prompt

SHADES = ("bold cyan", "bold green")
"""Of neighbouring sampled tokens, so that each can be told from the next."""
SEEN = "bright_black"
OPEN, CLOSE = "[[", "]]"
"""Around what was sampled, where there are no colours."""
LONGEST_CHARACTER = 4  # tokens


def play_in_process(
    spec: Spec, overrides: Sequence[str], environment: str, row: str, seed: int, model: Path | None
) -> dict[str, Any]:
    """Has the model play an episode, in a process of its own; returns its record.

    The record is as in samples.jsonl. Parts of its rows that were sampled have their `tokens` too,
    as texts. Raises UserError for a user's mistake that this process finds.
    """
    module = "drpo_cli.tools.preview.environment_model"
    found: dict[str, Any] = json.loads(
        run_apart(module, spec.path, environment, row, seed, model or "", *overrides)
    )
    return found


def play(
    spec_path: Path, overrides: Sequence[str], environment: str, row: str, seed: int, model: str
) -> dict[str, Any]:
    """Plays an episode with the spec's engine and sampling, and the weights in `model`, if any."""
    spec = load(spec_path, overrides)
    if model:
        spec = replace(spec, model=spec.model.model_copy(update={"path": model}))
    plan = lone_plan(spec)
    tokenizer = build.tokenizer(spec.model)
    prompt = _make_prompt(plan, tokenizer, environment, row)
    sampling = replace(train_sampling(spec), samples=1, seed=seed)
    player = build.player(plan, tokenizer)
    assert player is not None, "find_row has refused a spec without environments"
    with player:
        engine = build.lone_engine(plan)
        (group,) = player.play(engine, [prompt], sampling)
        engine.close()
    rollout = group.rollouts_G[0]
    assert rollout.episode is not None
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    record = {
        "prompt_id": prompt.id,
        "seed": seed,
        "reward": rollout.episode.reward,
        **episode_record(group, rollout, decode),
    }
    for of_row in record["rows"]:
        _add_tokens(of_row, decode)
    return record


def _make_prompt(plan: Plan, tokenizer: Any, environment: str, row: str) -> Prompt:
    """The prompt of a row, as training makes it."""
    spec = plan.spec
    _, found = find_row(spec, environment, row)
    room = build.context_length(plan) - room_for_responses(spec)
    names = [str(one.config.name) for one in spec.environment]
    prompt = Prompts(tokenizer, room, environments=names).make(found)
    if not isinstance(prompt, Prompt):
        raise UserError(
            f"--row {row}: training skips this row, by {prompt} of its source", "name another row"
        )
    return prompt


def _add_tokens(row: dict[str, Any], decode: Decode) -> None:
    """Adds the texts of the tokens to each sampled part of a row."""
    ids, first = [*row["prompt_ids"], *row["token_ids"]], len(row["prompt_ids"])
    spans = [len(list(same)) for _, same in groupby(row["sampled"])]
    for part, length in zip(row["parts"][1:], spans, strict=True):
        if part["sampled"]:
            part["tokens"] = list(spell_tokens(ids, first, first + length, decode))
        first += length


def spell_tokens(ids: Sequence[int], first: int, end: int, decode: Decode) -> Iterator[str]:
    """The text of each token from `first` up to `end`; tokens of one character come together."""
    done = first
    for i in range(first + 1, end + 1):
        context = ids[max(0, done - CONTEXT) : done]
        before, whole = decode(context), decode([*context, *ids[done:i]])
        text = whole[len(before) :] if whole.startswith(before) else decode(ids[done:i])
        if text.endswith("\ufffd") and i < end and i - done < LONGEST_CHARACTER:
            continue  # the rest of a character follows
        yield text
        done = i


def print_rows(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Prints every token: sampled ones in two shades or in brackets, the others in grey."""
    coloured = console.color_system is not None
    for number, row in enumerate(rows, 1):
        if rows[1:]:
            why = ": the chat template rewrote what came before" if number > 1 else ""
            console.print(Text(f"row {number} of {len(rows)}{why}", "bold"))
        text = Text()
        for part in row["parts"]:
            if not part["sampled"]:
                text.append(part["text"], SEEN)
            elif not coloured:
                text.append(f"{OPEN}{part['text']}{CLOSE}")
            else:
                for i, token in enumerate(part["tokens"]):
                    text.append(token, SHADES[i % 2])
        console.print(text, soft_wrap=True)


def _main(
    spec_path: str, environment: str, row: str, seed: str, model: str, *overrides: str
) -> str:
    return json.dumps(play(Path(spec_path), overrides, environment, row, int(seed), model))


if __name__ == "__main__":
    sys.exit(answer(_main))
