"""Grades batches of rollouts: calls the rewards on them and adds the scores up.

With w the weights and s the scores of a sample, its total is

    (w_e s_e + Σ_{r not a gate} w_r s_r) · Π_{r a gate} s_r

where s_e is the own reward of its environment: the sum over the turns of its episode.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from drpo_cli import progress
from drpo_cli.calls.failures import LARGEST, Failure, is_usable, short
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import Call, Reward, prepare_all
from drpo_cli.rewards.grading.episodes import GIVE_UP, Episodes, Own
from drpo_cli.rewards.grading.pool import Pool
from drpo_cli.rewards.grading.score import Outcome, ReadyReward
from drpo_cli.settings import EnvironmentSettings, RewardSettings
from drpo_cli.types import Group, Prompt, Rollout, Scores


@dataclass
class Usage:
    """What one reward did in one batch on this rank; seconds are measured in its processes."""

    calls: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Counts a call."""
        self.calls += 1
        self.seconds += outcome.seconds
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.counts:
            self.counts.update(outcome.counts)
        if outcome.failure:
            self.failures[outcome.failure.kind] += 1

    def merge(self, other: Usage) -> None:
        """Adds what the reward did in another batch."""
        self.calls += other.calls
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.failures.update(other.failures)
        self.counts.update(other.counts)


@dataclass(frozen=True)
class Graded:
    """A graded batch.

    seconds_P   for each group, by reward: seconds of each sample (a group's call in equal parts)
    quarantine  a record of each failed call and each failed episode, for quarantine.jsonl
    fatal       why the run must end, if it must
    """

    scores_P: list[Scores]
    seconds_P: list[dict[str, tuple[float, ...]]]
    usage: dict[str, Usage]
    quarantine: list[dict[str, Any]]
    fatal: str | None = None


class _Asked(NamedTuple):
    """A call, its reward, and the index of its group in the batch."""

    reward: Reward
    at: int
    call: Call


class _Sum(NamedTuple):
    """The total of a sample, and what each turn of its episode has in it."""

    total: float
    turns: tuple[float, ...]
    skipped: bool


class Grader:
    """All rewards, set up; `close` ends their processes.

    Adds the own rewards of `environments` to those that it calls. `forgiving` is for trying rewards
    out: no failure is fatal, its samples are skipped. Raises UserError for a reward that cannot be
    called, and for two rewards with one name.
    """

    def __init__(
        self,
        selected: Sequence[Selected[RewardSettings]],
        environments: Sequence[Selected[EnvironmentSettings]] = (),
        forgiving: bool = False,
    ) -> None:
        self._environments = {str(one.config.name): one.config for one in environments}
        self.rewards = prepare_all(selected)
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
                batch.add(at, sample, rollout)
        return batch.wait()

    def _batch(
        self, due: Sequence[Reward], prompts_P: Sequence[Prompt], sizes_P: Sequence[int]
    ) -> Batch:
        episodes = Episodes(self._environments, self._worked, self.forgiving)
        return Batch(due, self._call, prompts_P, sizes_P, self._worked, self.forgiving, episodes)

    def _call(self, reward: Reward, call: Call) -> Future[Outcome]:
        if self._pool is not None and reward.name in self._index:
            return self._pool.submit(self._index[reward.name], call)
        done: Future[Outcome] = Future()
        done.set_result(self._inline[reward.name].outcome(call))
        return done


class Batch:
    """Takes rollouts in any order, calls the rewards on each at once, and adds the scores up.

    due        the rewards to call
    make       makes a call, here or in a worker
    worked     names of the rewards that have ever given a score; the batch adds to it
    forgiving  no failure is fatal; its samples are skipped
    episodes   collects those that failed; a reward of single samples is not called on them
    """

    def __init__(
        self,
        due: Sequence[Reward],
        make: Callable[[Reward, Call], Future[Outcome]],
        prompts_P: Sequence[Prompt],
        sizes_P: Sequence[int],
        worked: set[str],
        forgiving: bool,
        episodes: Episodes,
    ) -> None:
        self._due, self._make, self._worked, self._forgiving = due, make, worked, forgiving
        self._episodes = episodes
        self._prompts_P = prompts_P
        self._rollouts_PG: list[list[Rollout | None]] = [[None] * size for size in sizes_P]
        self._asked: dict[Future[Outcome], _Asked] = {}
        self._values = [self._blank(at, None) for at in range(len(prompts_P))]
        self._seconds = [self._blank(at, 0.0) for at in range(len(prompts_P))]
        self._usage = {reward.name: Usage() for reward in due}
        self._failed: list[tuple[_Asked, Outcome]] = []

    def add(self, at: int, sample: int, rollout: Rollout) -> None:
        """Takes a rollout of prompt `at`, and calls every reward that waits for nothing else."""
        prompt, rollouts_G = self._prompts_P[at], self._rollouts_PG[at]
        rollouts_G[sample] = rollout
        failed = self._episodes.add(at, sample, prompt, rollout)
        whole = [one for one in rollouts_G if one is not None]
        complete = len(whole) == len(rollouts_G)
        for reward in self._of(at):
            if not reward.waits_for_group:
                if not failed:
                    self._call(reward, at, reward.sample_call(prompt, sample, rollout))
            elif complete and reward.whole_group:
                self._call(reward, at, reward.group_call(prompt, whole))
            elif complete:
                for i, one in enumerate(whole):
                    own = self._episodes.find(one)
                    if not (own and own.failed):
                        self._call(reward, at, reward.sample_call(prompt, i, one, whole))

    def wait(self) -> Graded:
        """Waits for all outcomes, or for a failure that ends the run."""
        fatal = self._episodes.find_fatal()
        for future in as_completed(self._asked if fatal is None else ()):
            fatal = self._take(future)
            if fatal is not None:
                break
        scores_P = [self._scores(at) for at in range(len(self._prompts_P))]
        return Graded(
            scores_P=scores_P,
            seconds_P=[{k: tuple(v) for k, v in by.items()} for by in self._seconds],
            usage=self._usage,
            quarantine=[
                *self._episodes.records(),
                *(self._record(*failed) for failed in self._failed),
            ],
            fatal=fatal or self._none_worked() or self._too_large(scores_P),
        )

    def _blank(self, at: int, value: Any) -> dict[str, list[Any]]:
        return {r.name: [value] * len(self._rollouts_PG[at]) for r in self._of(at)}

    def _of(self, at: int) -> list[Reward]:
        return [reward for reward in self._due if reward.scores(self._prompts_P[at])]

    def _call(self, reward: Reward, at: int, call: Call) -> None:
        self._asked[self._make(reward, call)] = _Asked(reward, at, call)

    def _take(self, future: Future[Outcome]) -> str | None:
        """Takes an outcome; returns why the run must end, if it must."""
        asked = self._asked[future]
        try:
            outcome = future.result()
        except UserError as error:  # the reward could not be set up
            return str(error)
        reward, at, call = asked
        usage = self._usage[reward.name]
        usage.add(outcome)
        progress.tick()
        for i, sample in enumerate(call.samples):
            self._seconds[at][reward.name][sample] = outcome.seconds / len(call.samples)
            if outcome.failure is None:
                self._values[at][reward.name][sample] = outcome.scores[i]
        if outcome.failure is None:
            self._worked.add(reward.name)
            return None
        self._failed.append((asked, outcome))
        if self._forgiving:
            return None
        if reward.config.on_error == "stop":
            return (
                f'{self._explain(asked, outcome.failure)} (on_error = "skip_sample" would continue)'
            )
        return self._find_hopeless(reward) if usage.calls >= GIVE_UP else None

    def _none_worked(self) -> str | None:
        """Why the run must end when a reward failed in all of its calls."""
        found = (self._find_hopeless(reward) for reward in self._due if not self._forgiving)
        return next((message for message in found if message), None)

    def _too_large(self, scores_P: Sequence[Scores]) -> str | None:
        """Why the run must end when a total is beyond what training computes with."""
        for prompt, scores in zip(self._prompts_P, scores_P, strict=True):
            for i, total in enumerate(scores.total_G):
                if not is_usable(total) and not self._forgiving:
                    return (
                        f"prompt {prompt.id}, sample {i}: the total of its scores is {total:g}, "
                        f"beyond ±{LARGEST:g}; lower the weights, or the scores of gates"
                    )
        return None

    def _find_hopeless(self, reward: Reward) -> str | None:
        usage = self._usage[reward.name]
        enough = GIVE_UP if reward.name in self._worked else 2
        if usage.calls < enough or usage.failures.total() < usage.calls:
            return None
        asked, outcome = next(failed for failed in self._failed if failed[0].reward is reward)
        assert outcome.failure is not None
        what = self._explain(asked, outcome.failure)
        return f"{what} (all of its {usage.calls} calls failed, so the run ends)"

    def _explain(self, asked: _Asked, failure: Failure) -> str:
        where = f"reward {asked.reward.name!r}, prompt {self._prompts_P[asked.at].id}"
        if not asked.reward.whole_group:
            (sample,) = asked.call.samples
            where += f", sample {sample} ({short(repr(self._texts(asked)))})"
        return f"{where}: {failure.detail}"

    def _texts(self, asked: _Asked) -> str | list[str]:
        texts_G = [one.text for one in self._rollouts_PG[asked.at] if one is not None]
        if asked.reward.whole_group:
            return texts_G
        rollout = self._rollouts_PG[asked.at][asked.call.samples[0]]
        assert rollout is not None
        return rollout.text

    def _record(self, asked: _Asked, outcome: Outcome) -> dict[str, Any]:
        assert outcome.failure is not None
        prompt = self._prompts_P[asked.at]
        return {
            "reward": asked.reward.name,
            "reason": outcome.failure.kind,
            "detail": outcome.failure.detail,
            "prompt_id": prompt.id,
            "sample": None if asked.reward.whole_group else asked.call.samples[0],
            "prompt": prompt.text,
            "answer": prompt.answer,
            "completion": self._texts(asked),
            "seconds": outcome.seconds,
        }

    def _scores(self, at: int) -> Scores:
        """The scores of a group; the own reward of its environment comes first."""
        own_G = [self._episodes.find(rollout) for rollout in self._rollouts_PG[at]]
        sums_G = [self._sum(at, i, own) for i, own in enumerate(own_G)]
        by_reward = self._values[at]
        if name := next((own.settings.name for own in own_G if own), None):
            by_reward = {name: [own and own.reward for own in own_G]} | by_reward
        return Scores(
            tuple(one.total for one in sums_G),
            {name: tuple(values) for name, values in by_reward.items()},
            frozenset(i for i, one in enumerate(sums_G) if one.skipped),
            tuple(one.turns for one in sums_G) if any(own_G) else None,
        )

    def _sum(self, at: int, sample: int, own: Own | None) -> _Sum:
        """The total of a sample. That of a failed episode is 0."""
        counting = [reward for reward in self._of(at) if reward.counts]
        scores = [(reward, self._values[at][reward.name][sample]) for reward in counting]
        weight, turns = (own.settings.weight, own.turns) if own else (0.0, ())
        if own and own.failed:
            skipped = self._skips(own.settings)
        else:
            skipped = any(self._skips(r.config) for r, score in scores if score is None)
        if skipped or (own and own.failed):
            return _Sum(0.0, (0.0,) * len(turns), skipped)
        gates = math.prod(score or 0.0 for reward, score in scores if reward.config.gate)
        added = [r.config.weight * (score or 0.0) for r, score in scores if not r.config.gate]
        total = sum([weight * math.fsum(turns), *added], 0.0) * gates
        return _Sum(total, tuple(weight * reward * gates for reward in turns), skipped=False)

    def _skips(self, config: EnvironmentSettings | RewardSettings) -> bool:
        """Whether a failure leaves its sample out."""
        return self._forgiving or config.on_error == "skip_sample"
