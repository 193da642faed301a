"""Puts a step on record: metrics.jsonl, samples.jsonl, held_out.jsonl, and alerts in the log."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from drpo_cli import dist
from drpo_cli.evaluate.results import HeldOut
from drpo_cli.experience import Experience
from drpo_cli.runs.records import Records
from drpo_cli.step.episodes import episode_metrics
from drpo_cli.step.evaluate import Measured, problems_id
from drpo_cli.step.metrics import generated_tokens, grading_metrics, rollout_metrics
from drpo_cli.step.sample import Draws
from drpo_cli.step.samples import sample_records
from drpo_cli.types import Group, Scores

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


def record(
    r: Run,
    step: int,
    draws: Draws,
    exp: Experience,
    trained: Mapping[str, float],
    held_out: HeldOut | None,
    suites: Mapping[str, Measured],
) -> None:
    """Records a step's metrics and samples. Collective.

    Phases that end after this count for the next step.
    """
    seconds = dict(r.seconds)
    r.seconds.clear()
    waited_s = seconds.pop("waited", 0.0)  # a part of the rollout, not a phase of its own
    groups_P, scores_P = draws.chosen()
    drawn_P = [group for group, _ in draws.drawn]
    tokens = generated_tokens(drawn_P, r.world)
    metrics = {
        "step": step,
        **rollout_metrics(exp, scores_P, r.world),
        **(
            episode_metrics(drawn_P, waited_s, seconds["rollout"], r.world)
            if r.spec.environment
            else {}
        ),
        "grading": grading_metrics(draws.usage, r.world),
        **draws.metrics(),
        **r.data.stream.metrics(),
        **trained,
        "gap": r.gap,
        "gap_floor": r.proof.floor,
        **({} if r.proof.noise is None else {"gap_noise": r.proof.noise}),
        **(held_out.metrics() if held_out else {}),
        **suite_metrics(suites),
        "tokens_per_second": {
            "rollout": tokens / seconds["rollout"],
            "train": trained["trained_tokens"] / seconds["train"],
        },
        "seconds": {**seconds, "step": sum(seconds.values())},
        "peak_memory_gib": r.world.max([dist.peak_memory_gib(r.world.device)])[0],
    }
    if held_out:
        _record_rates(r, step, held_out)
    _record_metrics(r, metrics)
    _record_samples(r, step, groups_P, scores_P, exp)


def record_base(r: Run, held_out: HeldOut, suites: Mapping[str, Measured]) -> None:
    """Records the scores of the untrained model, as step 0."""
    _record_rates(r, 0, held_out)
    problems = problems_id(r.spec, r.data.held_out)
    scores = {**held_out.metrics(), **suite_metrics(suites)}
    _record_metrics(r, {"step": 0, "held_out_set": problems, **scores})


def suite_metrics(suites: Mapping[str, Measured]) -> dict[str, Any]:
    """A step's metrics of the suites that were scored after it: `suites`, if there are any."""
    scores = {
        name: {
            "score": found.score.value,
            "low": found.score.low,
            "high": found.score.high,
            "truncated_share": found.truncated,
            **({"unscored": found.unscored} if found.unscored else {}),
        }
        for name, found in suites.items()
    }
    return {"suites": scores} if scores else {}


def _record_metrics(r: Run, metrics: Mapping[str, Any]) -> None:
    if r.world.rank == 0:
        Records(r.folder.metrics).append(metrics)
        sys.stderr.writelines(f"{alert}\n" for alert in r.alerts.add(metrics))


def _record_rates(r: Run, step: int, held_out: HeldOut) -> None:
    if r.world.rank == 0:
        Records(r.folder.held_out).append({"step": step, "rates": held_out.rates_P})


def _record_samples(
    r: Run, step: int, groups_P: Sequence[Group], scores_P: Sequence[Scores], exp: Experience
) -> None:
    wanted = r.spec.run.recorded_prompts
    count = None if wanted is None else -(-wanted // r.world.size)
    decode = partial(r.tokenizer.decode, clean_up_tokenization_spaces=False)
    lines = sample_records(step, groups_P, scores_P, exp, count, decode)
    parts = r.world.gather_objects(lines)
    if r.world.rank == 0:
        Records(r.folder.samples).extend(line for part in parts for line in part)
