"""Scores the held-out problems with the weights that the engine holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from drpo_cli.evaluate.metrics import Estimate, estimate, right_samples
from drpo_cli.evaluate.results import HeldOut, held_out_id, problem_results, split_by_source
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import Sampler, Sampling, derive_seed
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec
from drpo_cli.step.play import Player, sample_or_play
from drpo_cli.step.sample import score
from drpo_cli.types import Group, Prompt, Scores

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


@dataclass(frozen=True)
class Measured:
    """avg@k on some problems, over all ranks.

    unscored   responses that count as wrong because a reward failed on them
    truncated  share of responses that ran out of tokens
    rates_P    share of right responses of each problem
    """

    score: Estimate
    unscored: int
    truncated: float
    rates_P: tuple[float, ...]


def evaluate(r: Run, step: int) -> HeldOut:
    """The held-out avg@k. Collective."""
    problems, sampling = r.data.held_out, eval_sampling(r.spec)
    found = measure(r, problems, sampling, r.spec.eval.threshold, r.grader, r.player, step)
    sources = split_by_source([prompt.id for prompt in problems], found.rates_P)
    means = {name: sum(rates) / len(rates) for name, rates in sources.items()}
    by_source = means if len(means) > 1 else {}
    return HeldOut(found.score, found.unscored, found.rates_P, by_source)


def measure(
    r: Run,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    threshold: float,
    grader: Grader,
    player: Player | None,
    step: int,
) -> Measured:
    """Scores problems: every rank its share of them. Collective."""
    mine = prompts_P[r.world.rank :: r.world.size]
    groups_P, scores_P = score_held_out(
        r.engine, player, grader, mine, sampling, r.quarantine, step=step
    )
    results_P = problem_results(groups_P, scores_P)
    right_PG = [right_samples(result, threshold) for result in results_P]
    parts = r.world.gather_objects([sum(right_G) / len(right_G) for right_G in right_PG])
    rates_P = [0.0] * len(prompts_P)
    for rank, part in enumerate(parts):
        rates_P[rank :: r.world.size] = part
    cut = sum(result.truncated for result in results_P)
    unscored, truncated = r.world.sum([count_unscored(scores_P), cut])
    return Measured(
        estimate(rates_P, [prompt.text for prompt in prompts_P]),
        int(unscored),
        truncated / (len(prompts_P) * sampling.samples),
        tuple(rates_P),
    )


def score_held_out(
    engine: Sampler,
    player: Player | None,
    grader: Grader,
    prompts_P: Sequence[Prompt],
    sampling: Sampling,
    quarantine: Records | None,
    step: int,
) -> tuple[list[Group], list[Scores]]:
    """The responses to each problem, and their scores.

    Only the rewards that the total depends on are called; failed calls go to `quarantine`, if
    given. Raises UserError if a reward failed in a way that ends the run.
    """
    batch = grader.begin_totals(prompts_P, sampling.samples)
    groups_P = sample_or_play(engine, player, prompts_P, sampling, batch.add)
    return groups_P, score(batch, quarantine, step).scores_P


def count_unscored(scores_P: Sequence[Scores]) -> int:
    """The responses that count as wrong because a reward failed on them."""
    return sum(len(scores.skipped) for scores in scores_P)


def is_due(spec: Spec, step: int) -> bool:
    """Whether the held-out problems are scored after this step: if asked, and after the last."""
    return step == spec.run.steps or (spec.eval.every > 0 and step % spec.eval.every == 0)


def problems_id(spec: Spec, held_out: Sequence[Prompt]) -> str:
    """What held-out scores are measured on: the problems, the sampling, the threshold."""
    rollout, sampling = spec.rollout.config, astuple(eval_sampling(spec))
    conditions = [(*sampling[:4], rollout.stop, *sampling[4:]), spec.eval.threshold]
    if rollout.stop_token_ids:  # a spec without any has the hash of versions that had no such key
        conditions.append(rollout.stop_token_ids)
    return held_out_id(held_out, conditions)


def eval_sampling(spec: Spec, samples: int | None = None) -> Sampling:
    """Evaluation's sampling; its seed depends neither on run nor step, so that scores compare."""
    rollout = spec.rollout.config
    return Sampling(
        samples=samples or spec.eval.samples_per_prompt,
        max_new_tokens=spec.eval.max_new_tokens or rollout.max_new_tokens,
        temperature=spec.eval.temperature or rollout.temperature,
        seed=derive_seed("eval"),
        top_p=spec.eval.top_p,
        top_k=spec.eval.top_k,
    )
