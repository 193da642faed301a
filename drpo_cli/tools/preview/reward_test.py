"""`drpo reward test`: scores completions as training would, and shows what every reward did.

A failed call does not end it: it is there to find failures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.rewards.grading.contract import Reward, prepare_all
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.runs.folder import write_whole
from drpo_cli.spec import Spec, load
from drpo_cli.tools.preview import completions, reward_tables, scores
from drpo_cli.tools.tables import make_console
from drpo_cli.types import Group

REFERENCES = 8
"""Problems whose reference answers are scored when no completions are given."""


def try_rewards(
    spec_path: Path,
    overrides: Sequence[str],
    samples: Path | None,
    prompts: int | None,
    json_out: Path | None,
) -> int:
    """Scores the samples of a file, or of `prompts` prompts, or else the reference answers.

    Returns 1 when a call failed, else 0. Raises UserError for a wrong spec, samples that cannot be
    read, and rewards that cannot be called.
    """
    if samples is not None and prompts is not None:
        raise UserError("--samples and --generate both give completions", "give one of them")
    spec = load(spec_path, overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if not spec.reward:
        raise UserError(
            f"{spec_path} has no [[reward]], and the own reward of an environment needs an episode",
            "try it with: drpo environment try",
        )
    rewards = prepare_all(spec.reward)  # reports a reward that cannot be called before sampling
    console = make_console()
    if samples is not None:
        origin = str(samples)
        groups_P = completions.read_groups(samples, completions.rewards_of_sources(spec))
    elif prompts is not None:
        origin = f"{spec.model.path}, sampled by {spec.rollout.type}"
        groups_P = _sample(spec, overrides, prompts, console)
    else:
        origin = f"the reference answers of the first {REFERENCES} problems, as completions"
        groups_P = completions.reference_groups(spec, rewards, REFERENCES)
    with Grader(spec.reward, forgiving=True) as grader, console.status("scoring …"):
        graded = grader.score(_add_tokens(spec, rewards, groups_P))
    tried = scores.collect_samples(groups_P, graded)
    agreement = scores.compare_with_answers(tried, spec.eval.threshold)
    reward_tables.show(console, tried, graded, agreement, origin)
    if json_out is not None:
        found = {"completions": origin, **scores.as_dict(tried, graded, agreement)}
        write_whole(json_out, json.dumps(found, indent=1, default=str))
        console.print(f"wrote {json_out}")
    return EXIT_RUN_FAILED if graded.quarantine else 0


def _sample(spec: Spec, overrides: Sequence[str], prompts: int, console: Console) -> list[Group]:
    from drpo_cli.launch.launcher import prepare_model
    from drpo_cli.runs.versions import require_engine

    require_engine(spec.rollout.type)
    prepare_model(spec.model)
    with console.status(f"sampling {prompts} groups with {spec.rollout.type} …"):
        return completions.sample_in_process(spec, overrides, prompts)


def _add_tokens(spec: Spec, rewards: Sequence[Reward], groups_P: list[Group]) -> list[Group]:
    """The groups with token ids where a reward asks for them, from the model's tokenizer."""
    missing = any(not r.token_ids and r.text for group in groups_P for r in group.rollouts_G)
    if not missing or not any("tokens" in reward.asks for reward in rewards):
        return groups_P
    encoder = completions.load_tokenizer(spec.model)

    def ids(text: str, truncated: bool) -> tuple[int, ...]:
        end = () if truncated or encoder.eos_token_id is None else (encoder.eos_token_id,)
        return (*encoder(text, add_special_tokens=False).input_ids, *end)

    return [
        replace(
            group,
            rollouts_G=tuple(
                replace(r, token_ids=r.token_ids or ids(r.text, r.truncated))
                for r in group.rollouts_G
            ),
        )
        for group in groups_P
    ]
