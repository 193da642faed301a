"""The rewards of a run, set up to grade batches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.batch import Batch, Graded, Usage
from drpo_cli.rewards.grading.contract import Call, Reward, prepared
from drpo_cli.rewards.grading.pool import Pool
from drpo_cli.rewards.grading.score import Outcome, ReadyReward
from drpo_cli.types import Group, Prompt

__all__ = ["Batch", "Graded", "Grader", "Usage"]


class Grader:
    """All rewards, set up; `close` ends their processes.

    `forgiving` is for trying rewards out: no failure is fatal, its samples are skipped.
    Raises UserError for a reward that cannot be called, and for two rewards with one name.
    """

    def __init__(self, selected: Sequence[Selected], forgiving: bool = False) -> None:
        self.rewards = prepared(selected)
        self.forgiving = forgiving
        self._worked: set[str] = set()
        self._inline = {r.name: ReadyReward(r) for r in self.rewards if r.inline}
        pooled = [reward for reward in self.rewards if not reward.inline]
        self._index = {reward.name: index for index, reward in enumerate(pooled)}
        self._pool = Pool(pooled) if pooled else None

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the rewards' processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def begin(self, prompts_P: Sequence[Prompt], samples: int, step: int) -> Batch:
        """Begins a batch of `samples` rollouts per prompt, graded while others are sampled.

        A metric with `every` is computed in the steps that are multiples of it.
        """
        due = [reward for reward in self.rewards if step % reward.config.every == 0]
        return self._batch(due, prompts_P, [samples] * len(prompts_P))

    def begin_totals(self, prompts_P: Sequence[Prompt], samples: int) -> Batch:
        """The same, by only those rewards that the total depends on."""
        due = [reward for reward in self.rewards if reward.counts]
        return self._batch(due, prompts_P, [samples] * len(prompts_P))

    def score(self, groups_P: Sequence[Group]) -> Graded:
        """Grades whole groups by all rewards; groups may differ in size."""
        prompts_P = [group.prompt for group in groups_P]
        batch = self._batch(self.rewards, prompts_P, [len(g.rollouts_G) for g in groups_P])
        for at, group in enumerate(groups_P):
            for sample, rollout in enumerate(group.rollouts_G):
                batch.finished(at, sample, rollout)
        return batch.graded()

    def _batch(
        self, due: Sequence[Reward], prompts_P: Sequence[Prompt], sizes_P: Sequence[int]
    ) -> Batch:
        return Batch(due, self._call, prompts_P, sizes_P, self._worked, self.forgiving)

    def _call(self, reward: Reward, call: Call) -> Future[Outcome]:
        if self._pool is not None and reward.name in self._index:
            return self._pool.submit(self._index[reward.name], call)
        done: Future[Outcome] = Future()
        done.set_result(self._inline[reward.name].outcome(call))
        return done
