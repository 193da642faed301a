"""Samples responses, has the rewards score them, and chooses the groups that a step learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import is_right
from drpo_cli.rewards.grading.grader import Batch, Graded, Usage
from drpo_cli.rollout.engine.protocol import Sampling, derive_seed
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec
from drpo_cli.step.checkpoint import save_last_step
from drpo_cli.step.play import sample_or_play
from drpo_cli.trainer.remote_teacher import RemoteTeacher
from drpo_cli.types import Group, Rollout, Scores

if TYPE_CHECKING:
    from drpo_cli.step.run import Run

PROBE_PROMPTS = 8  # prompts sampled, one response each, to measure a gap outside a step
PROBE_TOKENS = 32

Scored = tuple[Group, Scores]


def sample(r: Run, step: int, round_: int) -> tuple[list[Group], Batch]:
    """Samples a group of responses to each of this rank's next prompts, with log μ per token.

    Every response goes to the rewards as soon as it ends; the batch collects their scores. A
    teacher behind an endpoint is asked at the same time.
    `round_` counts the batches of one step from 0 (dynamic sampling). What is sampled depends on
    (run seed, step, round, prompt), not on the rank that samples it.
    """
    sampling = train_sampling(r.spec, step, round_)
    try:
        prompts_P = r.data.stream.next()
    except UserError:  # on every rank: they read the same rows
        save_last_step(r)
        raise
    batch = r.grader.begin(prompts_P, sampling.samples, step)
    teacher = r.trainer.teacher

    def finished(at: int, sample: int, rollout: Rollout) -> None:
        batch.add(at, sample, rollout)
        if isinstance(teacher, RemoteTeacher):
            teacher.ask_early(prompts_P[at], rollout)

    groups_P = sample_or_play(r.engine, r.player, prompts_P, sampling, finished)
    if r.player is not None:
        r.seconds["waited"] += r.player.waited_s
    return groups_P, batch


def score(batch: Batch, quarantine: Records | None, step: int) -> Graded:
    """Waits for the rewards that are still at work; failed calls go to `quarantine`, if given.

    Raises UserError if a reward failed in a way that ends the run.
    """
    graded = batch.wait()
    if graded.quarantine and quarantine is not None:
        quarantine.extend({"step": step, **record} for record in graded.quarantine)
    if graded.fatal is not None:
        raise UserError(graded.fatal)
    return graded


class Draws:
    """This rank's scored groups of a step: one batch of prompts, or more with dynamic sampling.

    Dynamic sampling of DAPO (arXiv 2503.14476, §3.2): while rounds are left, groups whose scores
    are all equal are replaced, since their advantages are 0. The filter sees the scores as the
    rewards gave them: overlong shaping would make groups look different that are not.

    drawn   every group sampled for the step, used or not, with its scores
    usage   what each reward did for it
    rounds  batches of prompts sampled so far
    """

    def __init__(self, further_rounds: int, world: World) -> None:
        self.drawn: list[Scored] = []
        self.usage: dict[str, Usage] = {}
        self.rounds = 0
        self._further_rounds = further_rounds
        self._world = world

    def add(self, groups_P: Sequence[Group], graded: Graded) -> None:
        """Adds a batch."""
        self.drawn += zip(groups_P, graded.scores_P, strict=True)
        self.rounds += 1
        for name, usage in graded.usage.items():
            self.usage.setdefault(name, Usage()).merge(usage)

    def wanted(self) -> bool:
        """Whether another batch is needed; every rank samples as many as the neediest. Collective.

        Without dynamic sampling one batch is enough, and nothing is exchanged.
        """
        if not self.rounds or not self._further_rounds:
            return not self.rounds
        if self.rounds > self._further_rounds:
            return False
        missing = self._size - sum(teaches(scores) for _, scores in self.drawn)
        return self._world.max([missing])[0] > 0

    def chosen(self) -> tuple[list[Group], list[Scores]]:
        """The groups of the step; where too few teach, the first of the others fill it up."""
        if not self._further_rounds:
            used = self.drawn
        else:
            useful = [pair for pair in self.drawn if teaches(pair[1])]
            flat = [pair for pair in self.drawn if not teaches(pair[1])]
            used = (useful + flat)[: self._size]
        return [group for group, _ in used], [scores for _, scores in used]

    def pass_rates(self, threshold: float) -> dict[str, float]:
        """The share of right responses to every prompt drawn, by its id. Collective."""
        own = {
            group.prompt.id: sum(is_right(total, threshold) for total in totals) / len(totals)
            for group, scores in self.drawn
            if (totals := scores.kept_totals)
        }
        return {id: rate for rates in self._world.gather_objects(own) for id, rate in rates.items()}

    def metrics(self) -> dict[str, float]:
        """What dynamic sampling cost and reached, over all ranks; empty without it. Collective."""
        if not self._further_rounds:
            return {}
        _, scores_P = self.chosen()
        flat = sum(not teaches(scores) for scores in scores_P)
        dropped, missing = self._world.sum([len(self.drawn) - len(scores_P), flat])
        return {
            "sampling_rounds": float(self.rounds),
            "dropped_groups": dropped,
            "missing_groups": missing,
        }

    @property
    def _size(self) -> int:
        """The groups of one batch, which is what a step uses."""
        return len(self.drawn) // self.rounds


def teaches(scores: Scores) -> bool:
    """Whether the responses of a group differ in their score, so that advantages are not all 0."""
    return len(set(scores.kept_totals)) > 1


def train_sampling(spec: Spec, *key: object) -> Sampling:
    """Training's sampling, seeded by the run's seed and `key`, such as (step, round)."""
    rollout = spec.rollout.config
    return Sampling(
        samples=rollout.samples_per_prompt,
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        seed=derive_seed(spec.run.seed, *key),
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        min_p=rollout.min_p,
    )


def probe_sampling(spec: Spec, rank: int) -> Sampling:
    """One short response per prompt, to measure the gap between engine and trainer on.

    Every rank has the same prompts and a seed of its own, so that more tokens are compared.
    """
    sampling = train_sampling(spec, "probe", rank)
    length = min(PROBE_TOKENS, sampling.max_new_tokens)
    return replace(sampling, samples=1, max_new_tokens=length)
