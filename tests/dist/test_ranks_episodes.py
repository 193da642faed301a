"""Episodes of several rows on two ranks: rows move one by one, and every episode counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.settings import CriticSettings, ReferenceSettings
from drpo_cli.types import Group
from support.turns import grouped, learn, played
from support.models import world
from support.ranks import Ranks
from support.training import STEADY, furthest

# the second group is the longer one, so that its rank gives rows away
LENGTHS = [[[2, 1, 1], [1]], [[9, 2, 12, 3, 8], [5, 1, 7, 1, 11, 2, 6]]]
KINDS: list[dict[str, Any]] = [
    {"reduction": "token_mean"},
    {"reduction": "sequence_mean"},
    {"reduction": "fixed_horizon", "horizon": 16},
]


def groups(apart: bool) -> list[Group]:
    return grouped(
        [
            [played(one, [float(i)] * (len(one) // 2 + 1), 7 * i) for i, one in enumerate(lengths_G)]
            for lengths_G in LENGTHS
        ],
        apart=apart,
    )


def chosen(name: str, **options: Any) -> Selected[Any]:
    return Selected("advantages", name, plugins.load("advantages", name).Config(**options))


@pytest.mark.parametrize("kind", KINDS, ids=[kind["reduction"] for kind in KINDS])
def test_two_ranks_learn_from_rows_what_one_learns_from_episodes(
    two: Ranks, model: Path, kind: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {
        "advantage": chosen("group_mean", credit="turn", turn_discount=0.5),
        "reference": ReferenceSettings(coefficient=0.5),
        "updates_per_rollout": 2,
        "tokens_per_microbatch": 24,
        "epsilon": STEADY,
        **kind,
    }
    with world() as here:
        expected, metrics, _ = learn(here, model, [groups(apart=False)], **settings)
    found = two.run(learn, model=model, groups_R=[[one] for one in groups(apart=True)], **settings)
    for gradients, again, _ in found:
        assert len(gradients) == len(expected) == 2
        for one, other in zip(gradients, expected, strict=True):
            assert furthest(one, other) < 1e-5
        assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)


def test_two_ranks_have_the_critic_that_one_has(two: Ranks, model: Path) -> None:
    settings: dict[str, Any] = {
        "advantage": chosen("gae", level="turn", discount=0.9),
        "critic": CriticSettings(learning_rate=1e-2),
        "epsilon": STEADY,
    }
    with world() as here:
        _, metrics, expected = learn(here, model, [groups(apart=False)], **settings)
    found = two.run(learn, model=model, groups_R=[[one] for one in groups(apart=True)], **settings)
    for _, again, critic in found:
        assert furthest(critic, expected) < 1e-5
        assert again == pytest.approx(metrics, rel=1e-4, abs=1e-5)
