"""Named suites that a run is scored on, besides its held-out problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drpo_cli import suites
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.plan import Plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.step import build
from drpo_cli.step.evaluate import Measured, eval_sampling, measure
from drpo_cli.suites import Suite
from drpo_cli.types import Prompt

if TYPE_CHECKING:
    from drpo_cli.step.run import Run


@dataclass(frozen=True)
class OpenSuite:
    """A suite of a run, with its problems as prompts and its rewards ready.

    every  steps between evaluations; 0 for the first and the last alone
    """

    suite: Suite
    every: int
    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    grader: Grader

    def is_due(self, step: int, last: int) -> bool:
        """Whether it is scored after a step."""
        return step in (0, last) or (self.every > 0 and step % self.every == 0)


@contextmanager
def open_suites(plan: Plan, tokenizer: Any) -> Iterator[tuple[OpenSuite, ...]]:
    """Opens the suites of a run; closes their rewards.

    Raises UserError for one that cannot be used.
    """
    spec, opened = plan.spec, []
    named = suites.of_run(spec)
    rows_by_name = build.suite_rows(named)
    with ExitStack() as parts:
        for one, suite in zip(spec.eval_suites, named, strict=True):
            rows = rows_by_name[suite.name]
            prompts = build.suite_prompts(plan, suite, rows, tokenizer)
            grader = parts.enter_context(Grader(suite.spec.reward))
            every = spec.eval.every if one.every is None else one.every
            opened.append(OpenSuite(suite, every, rows, prompts, grader))
        yield tuple(opened)


def rows_of(opened: Sequence[OpenSuite]) -> dict[str, Sequence[Row]]:
    """The rows of suites by name, which are not trained on."""
    return {one.suite.name: one.rows for one in opened}


def score_suites(r: Run, step: int) -> Mapping[str, Measured]:
    """The score of every suite that is due after a step, by name. Collective."""
    due = [one for one in r.suites if one.is_due(step, r.spec.run.steps)]
    return {
        one.suite.name: measure(
            r,
            one.prompts,
            eval_sampling(one.suite.spec),
            one.suite.spec.eval.threshold,
            one.grader,
            player=None,
            step=step,
        )
        for one in due
    }
