"""Samples responses and has the rewards grade them meanwhile, on this rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import right_samples
from drpo_cli.evaluate.results import problem_results
from drpo_cli.rewards.grading.grader import Batch, Graded, Grader
from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampling, sample_groups
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec
from drpo_cli.step import build as assemble
from drpo_cli.step.overlong import shaped
from drpo_cli.types import Group, Prompt

PROBE_TOKENS = 32

Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Sampler:
    """An engine and the rewards that grade what comes out of it; failed calls go on record."""

    spec: Spec
    engine: EngineProtocol
    grader: Grader
    rank: int
    quarantine: Records

    def draw(
        self, step: int, prompts: Callable[[], list[Prompt]], phase: Phase, round_: int
    ) -> tuple[list[Group], Graded]:
        """Training rollouts of the next prompts; the phase `reward` is what sampling did not hide.

        Raises UserError when a reward fails in a way that ends the run.
        """
        key = (step, self.rank, *([round_] if round_ else []))
        sampling, prompts_P = assemble.train_sampling(self.spec, *key), prompts()
        batch = self.grader.begin(prompts_P, sampling.samples, step)
        with phase("rollout"):
            groups_P = sample_groups(self.engine, prompts_P, sampling, batch.finished)
        with phase("reward"):
            graded = self._graded(batch, step)
        train, longest = self.spec.train, sampling.max_new_tokens
        scores_P = [
            shaped(group, scores, train.overlong, longest, train.overlong_buffer)
            for group, scores in zip(groups_P, graded.scores_P, strict=True)
        ]
        return groups_P, replace(graded, scores_P=scores_P)

    def held_out(self, prompts_P: Sequence[Prompt], step: int) -> tuple[list[list[bool]], int]:
        """Which responses to each held-out problem are right; how many are wrong unscored."""
        sampling = assemble.eval_sampling(self.spec, self.rank)
        batch = self.grader.begin_totals(prompts_P, sampling.samples)
        groups_P = sample_groups(self.engine, prompts_P, sampling, batch.finished)
        scores_P = self._graded(batch, step).scores_P
        results, threshold = problem_results(groups_P, scores_P), self.spec.eval.threshold
        unscored = sum(len(scores.skipped) for scores in scores_P)
        return [right_samples(result, threshold) for result in results], unscored

    def probe(self, prompts_P: Sequence[Prompt]) -> list[Group]:
        """One short response to each prompt, to measure a gap on; nobody grades it."""
        return sample_groups(self.engine, prompts_P, self.probe_sampling())

    def probe_sampling(self) -> Sampling:
        """How a probe samples."""
        sampling = assemble.train_sampling(self.spec, "probe", self.rank)
        length = min(PROBE_TOKENS, sampling.max_new_tokens)
        return replace(sampling, samples=1, max_new_tokens=length)

    def _graded(self, batch: Batch, step: int) -> Graded:
        """Waits for the rewards; what failed is on record before it ends the run."""
        graded = batch.graded()
        if graded.quarantine:
            self.quarantine.extend({"step": step, **record} for record in graded.quarantine)
        if graded.fatal is not None:
            raise UserError(graded.fatal)
        return graded
