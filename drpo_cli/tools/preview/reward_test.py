"""`drpo reward test`: scores completions as training would, and says what every reward did.

A failure never ends it: finding them is what it is for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.rewards.grading.contract import Reward, prepared
from drpo_cli.rewards.grading.grader import Graded, Grader
from drpo_cli.spec import Spec, load
from drpo_cli.tools.preview import reward_tables, summary
from drpo_cli.tools.preview.model import tokenizer
from drpo_cli.tools.preview.references import reference_groups, scorers
from drpo_cli.tools.preview.reward_tables import count
from drpo_cli.tools.preview.samples import read_groups
from drpo_cli.types import Group

REFERENCES = 8
"""Problems whose reference answers are tried when there are no completions."""


def try_rewards(
    spec_path: Path,
    overrides: Sequence[str],
    samples: Path | None,
    prompts: int | None,
    json_out: Path | None,
) -> int:
    """Scores a file's samples, or those of `prompts` prompts; returns the exit code.

    1 when a call failed. Without either, the reference answers are scored. Raises UserError for
    a wrong spec, samples that cannot be read, and rewards that nobody can call.
    """
    if samples is not None and prompts is not None:
        raise UserError("--samples and --generate are two sources of completions; give one")
    spec = load(spec_path, overrides)
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    rewards = prepared(spec.reward)  # a reward nobody can call is said before anything is sampled
    console = Console(markup=False, highlight=False)
    if samples is not None:
        origin, groups_P = str(samples), read_groups(samples, scorers(spec))
    elif prompts is not None:
        origin = f"{spec.model.path}, sampled by {spec.rollout.type}"
        groups_P = _generated(spec, overrides, prompts, console)
    else:
        origin = f"the reference answers of the first {REFERENCES} problems, as completions"
        groups_P = reference_groups(spec, rewards, REFERENCES)
    with Grader(spec.reward, forgiving=True) as grader, console.status("scoring …"):
        graded = grader.score(_with_tokens(spec, rewards, groups_P))
    _show(console, spec, groups_P, graded, origin)
    if json_out is not None:
        tried = summary.samples(groups_P, graded)
        found = summary.as_dict(tried, graded, spec.eval.threshold)
        json_out.write_text(json.dumps({"completions": origin, **found}, indent=1, default=str))
        console.print(f"wrote {json_out}")
    return EXIT_RUN_FAILED if graded.quarantine else 0


def _generated(spec: Spec, overrides: Sequence[str], prompts: int, console: Console) -> list[Group]:
    from drpo_cli.launch.launcher import prepare_model
    from drpo_cli.runs.versions import require_engine
    from drpo_cli.tools.preview.generate import generate_apart

    require_engine(spec.rollout.type)
    prepare_model(spec.model)
    with tempfile.TemporaryDirectory(prefix="drpo-generate-") as scratch:
        out = Path(scratch) / "samples.jsonl"
        with console.status(f"sampling {prompts} groups with {spec.rollout.type} …"):
            generate_apart(spec.path, overrides, prompts, out)
        return read_groups(out, scorers(spec))


def _with_tokens(spec: Spec, rewards: Sequence[Reward], groups_P: list[Group]) -> list[Group]:
    """The groups with token ids where a reward asks for them: by the model's own tokenizer."""
    missing = any(not r.token_ids and r.text for group in groups_P for r in group.rollouts_G)
    if not missing or not any("tokens" in reward.asks for reward in rewards):
        return groups_P
    encoder = tokenizer(spec.model)

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


def _show(
    console: Console, spec: Spec, groups_P: Sequence[Group], graded: Graded, origin: str
) -> None:
    tried = summary.samples(groups_P, graded)
    size = f"{count(len(tried), 'sample')} of {count(len(groups_P), 'prompt')}"
    console.print(f"{size}: {origin}\n", soft_wrap=True)
    reward_tables.print_samples(console, tried, list(graded.usage))
    reward_tables.print_distributions(console, tried, graded.usage)
    reward_tables.print_failures(console, graded.quarantine)
    reward_tables.print_agreement(console, summary.agreement(tried, spec.eval.threshold))
