"""Every family on two ranks: the gradients of one rank, and a resumed run bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import jobs
from support.families import FAMILIES
from support.models import Row, samples, tiny_model, world
from support.ranks import Ranks, open_ranks
from support.training import furthest

SHARES = [[(3, 9), (6, 2), (1, 5)], [(4, 4)]]  # the ranks have different numbers of tokens


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with open_ranks(2) as ranks:
        yield ranks


def shares(seed: int) -> list[list[Row]]:
    return [samples(lengths, seed + rank) for rank, lengths in enumerate(SHARES)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_two_ranks_train_and_resume_as_one_does(two: Ranks, tmp_path: Path, kind: str) -> None:
    model, saved = tiny_model(tmp_path / "model", kind), tmp_path / "step-000001"
    first, second = shares(1), shares(5)
    with world() as here:
        alone = jobs.train(here, model, [[[*batch[0], *batch[1]]] for batch in (first, second)])
    both = two.run(jobs.train, model=model, shares=[first, second])[0]
    for expected, found in zip(alone.gradients, both.gradients, strict=True):
        assert furthest(expected, found) < 100 * FAMILIES[kind].rounding
    assert furthest(*alone.gradients) > 1e-3
    two.run(jobs.train, model=model, shares=[first], save=saved)
    resumed = two.run(jobs.train, model=model, shares=[second], load=saved)[0]
    assert furthest(both.weights, resumed.weights) == 0
    never = resumed.moments.keys() - both.moments.keys()  # of weights without a gradient
    assert not any(resumed.moments.pop(name).any() for name in never)
    assert furthest(both.moments, resumed.moments) == 0
