"""Ranks with uneven work share it: no row is lost, every update keeps its own, no pass is empty."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.dist import World
from drpo_cli.experience import Experience
from drpo_cli.trainer import batches
from drpo_cli.trainer.balance import assign, balance, replay_evenly
from drpo_cli.trainer.batches import microbatches
from drpo_cli.trainer.pack import Packed
from drpo_cli.trainer.sharing import Costs
from support.models import experience, group
from support.turns import grouped, played

RANKS, UPDATES, BUDGET = 4, 2, 4096
PARTS = st.tuples(st.integers(0, 2), st.floats(0.1, 9))  # update and cost
COSTS = {"shared prompts": Costs(2000, masked=False), "masks": Costs(2000)}


class Meeting:
    """What the ranks of a group, which are threads, give each other."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values = Barrier(size), [None] * size


class Thread:
    """A rank's `World` without a process group."""

    def __init__(self, rank: int, size: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, size, meeting
        self.device = torch.device("cpu")

    def gather_objects(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        found = list(self.meeting.values)
        self.meeting.barrier.wait()
        return found

    def exchange(self, values_R: Sequence[Any]) -> list[Any]:
        return [given[self.rank] for given in self.gather_objects(values_R)]

    def max(self, values: Sequence[float]) -> list[float]:
        return [max(column) for column in zip(*self.gather_objects(values), strict=True)]


def on_ranks(job: Callable[..., Any], exps_R: Sequence[Experience]) -> list[Any]:
    """What `job(world=…, exp=…)` gives on each rank."""
    meeting = Meeting(len(exps_R))
    worlds = [cast(World, Thread(rank, len(exps_R), meeting)) for rank in range(len(exps_R))]
    with ThreadPoolExecutor(len(exps_R)) as pool:
        return list(pool.map(lambda world, exp: job(world=world, exp=exp), worlds, exps_R))


def heavy_tailed(rank: int, groups: int = 6, samples: int = 4) -> Experience:
    """Groups whose lengths differ by a factor of 60, and more on the later ranks.

    The advantage of each token names its row, over all ranks.
    """
    rng = random.Random(rank)
    batch = []
    for _ in range(groups):
        typical = min(3000, int(60 * (rank + 1) * rng.paretovariate(1.1)))
        lengths = [max(1, int(typical * rng.uniform(0.5, 1.2))) for _ in range(samples)]
        batch += group(rng.randrange(20, 400), lengths, rng.randrange(2**30))
    exp = experience(batch)
    row_S = rank * len(exp) + torch.arange(len(exp))
    return replace(exp, update_S=row_S % UPDATES, advantage_T=exp.repeat(row_S).double())


def rows(exps_R: Sequence[Experience]) -> list[tuple[Any, ...]]:
    """What each row is, in the order of their names."""
    found = []
    for exp in exps_R:
        tokens, named = exp.split(exp.token_T), exp.split(exp.advantage_T)
        for place, update in enumerate(exp.update_S.tolist()):
            (name,) = set(named[place].tolist())
            found.append((name, update, exp.prompt_ids_S[place], tokens[place].tolist()))
    return sorted(found)


def work(world: World, exp: Experience, costs: Costs) -> list[tuple[int, int, float]]:
    """Of each update: the passes, the empty ones, and this rank's cost."""
    found = []
    for update in range(UPDATES):
        own = exp.take(torch.where(exp.update_S == update)[0].tolist())
        parts = microbatches(own, BUDGET, world, costs)
        cost = sum(_cost(own.take(rows), costs) for rows in parts)
        found.append((len(parts), sum(not rows for rows in parts), cost))
    return found


def _cost(exp: Experience, costs: Costs) -> float:
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for prompt_ids, length in zip(exp.prompt_ids_S, exp.lengths_S.tolist(), strict=True):
        by_prompt.setdefault(prompt_ids, []).append(length - 1)
    return sum(costs.of(len(ids), responses) for ids, responses in by_prompt.items())


@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())
def test_uneven_work_is_shared(costs: Costs) -> None:
    before_R = [heavy_tailed(rank) for rank in range(RANKS)]
    after_R = on_ranks(partial(balance, budget=BUDGET, costs=costs), before_R)
    assert rows(after_R) == rows(before_R)
    uneven, even = (on_ranks(partial(work, costs=costs), exps) for exps in (before_R, after_R))
    for update in range(UPDATES):
        costs_R = [rank[update][2] for rank in even]
        assert max(costs_R) < 1.1 * sum(costs_R) / RANKS
        assert even[0][update][0] < 0.7 * uneven[0][update][0]


def test_a_group_is_cut_rather_than_ranks_without_work() -> None:
    costs = COSTS["shared prompts"]
    long, short = group(100, [900] * 8), group(10, [5], seed=1)
    before_R = [experience(long), *[experience(short)] * 3]
    after_R = on_ranks(partial(balance, budget=BUDGET, costs=costs), before_R)
    (before, *idle), after = (
        [rank[0] for rank in on_ranks(partial(work, costs=costs), exps)]
        for exps in (before_R, after_R)
    )
    assert before[0] == 2 and all(rank[:2] == (2, 1) for rank in idle)
    assert all(rank[:2] == (1, 0) for rank in after)
    assert sorted(len(exp) for exp in after_R) == [2, 3, 3, 3]


@given(costs_R=st.lists(st.lists(PARTS, max_size=12), min_size=2, max_size=5))
def test_no_rank_has_more_than_its_share_and_one_part(
    costs_R: list[list[tuple[int, float]]],
) -> None:
    targets_R = assign(costs_R)
    assert [len(own) for own in targets_R] == [len(own) for own in costs_R]
    for update in range(3):
        loads, largest = [0.0] * len(costs_R), 0.0
        for own, targets in zip(costs_R, targets_R, strict=True):
            for (of, cost), rank in zip(own, targets, strict=True):
                if of == update:
                    loads[rank] += cost
                    largest = max(largest, cost)
        assert max(loads) <= sum(loads) / len(loads) + largest + 1e-9


def test_even_ranks_keep_their_rows_and_one_rank_does_nothing() -> None:
    assert assign([[(0, 2.0), (0, 1.0)], [(0, 1.5), (0, 1.5)]]) == [[0, 0], [1, 1]]
    (exp,) = [heavy_tailed(0, groups=1)]
    assert on_ranks(partial(balance, budget=BUDGET, costs=COSTS["masks"]), [exp]) == [exp]


class Places:
    """A model whose output at each response token is its place in its row; counts its passes."""

    costs = COSTS["masks"]

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, packed: Packed) -> torch.Tensor:
        self.passes += 1
        return packed.position_ids_I[packed.predict_T] + 1.0


def test_values_come_back_to_the_rows_that_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "reshard", lambda model: None)
    exps_R = [heavy_tailed(rank, groups=2 * rank) for rank in range(RANKS)]  # none on the first
    passes = []
    for function in (batches.replay, replay_evenly):
        model = Places()
        values_R = on_ranks(partial(function, model, budget=BUDGET), exps_R)
        for exp, value_T in zip(exps_R, values_R, strict=True):
            lengths = zip(exp.lengths_S.tolist(), map(len, exp.prompt_ids_S), strict=True)
            expected = [prompt + at for length, prompt in lengths for at in range(length)]
            assert value_T.tolist() == expected
        passes.append(model.passes)
    assert passes[1] < 0.7 * passes[0]


def test_rows_of_an_episode_part_and_each_knows_the_tokens_of_all() -> None:
    """Its turns of 900 tokens are rows on the first rank, and the other ranks have little."""
    long = grouped([[played([900, 5] * 7 + [900])]], prompt=100, apart=True)
    short = grouped([[played([5])]], prompt=10)
    exps_R = [Experience.of(groups) for groups in (long, *[short] * 3)]
    before_R = [replace(exp, counted_S=exp.sampled_E[exp.place_in_episodes]) for exp in exps_R]
    costs = COSTS["shared prompts"]
    after_R = on_ranks(partial(balance, budget=BUDGET, costs=costs), before_R)
    counted_R = [sorted(set(exp.counted_S.tolist())) for exp in after_R]
    assert all(7200 in counted for counted in counted_R)
    shares = [float((exp.loss_tokens_S / exp.counted_S).sum()) for exp in after_R]
    assert sum(shares) == pytest.approx(4)
