"""From scores to an advantage for every token, with and without a critic."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from drpo_cli import plugins
from drpo_cli.advantages import gae
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import CriticSettings
from drpo_cli.step.advantage import with_advantages
from drpo_cli.types import Group, Scores
from support.jobs import Totals, scored_groups
from support.models import tiny_model, world
from support.training import groups_of, open_trainer

SCORES = [[1.0, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 1.0, 1.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def selected(name: str, **options: Any) -> Selected[Any]:
    return Selected("advantages", name, plugins.load("advantages", name).Config(**options))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_gae_is_its_definition(seed: int, gae_lambda: float, discount: float) -> None:
    """Σ_l (γ λ)^l δ_{t+l}, summed anew for each token, on random values of random length."""
    rng = random.Random(seed)
    lengths = [1, 2, rng.randint(3, 40)]
    values_G = [[rng.uniform(-2, 2) for _ in range(length)] for length in lengths]
    scores_G = [rng.uniform(-2, 2) for _ in lengths]
    config = gae.Config(gae_lambda=gae_lambda, discount=discount)
    (found_G,) = gae.advantages(config, [scores_G], [values_G])
    for score, values, found in zip(scores_G, values_G, found_G, strict=True):
        after = [*values[1:], 0.0]
        surprises = [discount * b - a for a, b in zip(values, after, strict=True)]
        surprises[-1] += score
        expected = [
            sum((discount * gae_lambda) ** far * surprise for far, surprise in enumerate(rest))
            for rest in (surprises[t:] for t in range(len(surprises)))
        ]
        assert found == pytest.approx(expected, abs=1e-9)
        if gae_lambda == 1 and discount == 1:
            assert found == pytest.approx([score - value for value in values])
        if gae_lambda == 0:
            assert found == pytest.approx(surprises)


def rows(exp: Experience, column: torch.Tensor | None) -> list[list[float]]:
    assert column is not None
    return [part.tolist() for part in exp.split(column)]


def test_an_advantage_of_the_response_is_that_of_each_of_its_tokens() -> None:
    exp = Experience.of(*groups_of(SCORES))
    with world() as here:
        found = with_advantages(exp, selected("group_mean"), None, here)
    expected = [score - sum(row) / len(row) for row in SCORES for score in row]
    for adv_T, length, adv in zip(
        rows(found, found.advantage_T), exp.lengths_S.tolist(), expected, strict=True
    ):
        assert adv_T == pytest.approx([adv] * length)
    assert found.value_T is None and found.return_T is None


def test_without_a_critic_there_are_no_token_advantages() -> None:
    exp = Experience.of(*groups_of(SCORES))
    with world() as here, pytest.raises(ValueError, match="'gae' needs a critic"):
        with_advantages(exp, selected("gae"), None, here)


def test_no_group_gives_no_row() -> None:
    with world() as here:
        found = with_advantages(Experience.of([], []), selected("group_mean"), None, here)
    assert len(found) == len(found.advantage_T) == 0


@pytest.mark.parametrize("whiten", [False, True])
def test_a_critic_gives_every_token_values_returns_and_an_advantage(
    folder: Path, whiten: bool
) -> None:
    exp = Experience.of(*groups_of(SCORES))
    options: dict[str, Any] = {"gae_lambda": 0.9, "discount": 0.95}
    with world() as here:
        settings = CriticSettings(learning_rate=1e-2, whiten=whiten)
        trainer = open_trainer(folder, here, critic=settings)
        assert trainer.critic is not None
        trainer.step(with_advantages(exp, selected("gae"), trainer.critic, here))
        found = with_advantages(exp, selected("gae", **options), trainer.critic, here)
        value_T = trainer.critic.values(exp)
    assert len(set(value_T.tolist())) > 5
    assert rows(found, found.value_T) == rows(exp, value_T)
    raw: list[float] = []
    returns: list[float] = []
    flat = [score for row in SCORES for score in row]
    for values, score in zip(rows(exp, value_T), flat, strict=True):
        ((adv,),) = gae.advantages(gae.Config(**options), [[score]], [[values]])
        raw.extend(adv)
        returns.extend(a + v for a, v in zip(adv, values, strict=True))
    assert found.return_T is not None
    assert found.return_T.tolist() == pytest.approx(returns)
    raw_T = torch.tensor(raw, dtype=torch.float64)
    expected_T = (raw_T - raw_T.mean()) / raw_T.std(correction=0) if whiten else raw_T
    torch.testing.assert_close(found.advantage_T, expected_T, atol=1e-6, rtol=0)


def test_a_critic_that_knows_the_return_leaves_no_advantage(folder: Path) -> None:
    """All responses are worth 0, which is what a new critic says."""
    exp = Experience.of(*groups_of([[0.0, 0.0], [0.0, 0.0]]))
    with world() as here:
        trainer = open_trainer(folder, here, critic=CriticSettings())
        found = with_advantages(exp, selected("gae"), trainer.critic, here)
        metrics = trainer.step(found)
    assert set(found.advantage_T.tolist()) == {0.0}
    assert metrics["value_loss"] == 0 and metrics["skipped_updates"] == 0


HOLES: Totals = [[1.0, None, 0.0, 0.5], [None, 0.5, 1.0, None], [None] * 4, [0.0, None, None, None]]


def without_holes(
    groups_P: list[Group], scores_P: list[Scores]
) -> tuple[list[Group], list[Scores]]:
    """The same groups as if the skipped samples had never been drawn."""
    shorter = [
        Group(group.prompt, tuple(r for i, r in enumerate(group.rollouts_G) if i not in s.skipped))
        for group, s in zip(groups_P, scores_P, strict=True)
    ]
    return shorter, [Scores(tuple(scores.kept_totals), {}) for scores in scores_P]


def scored_rows(exp: Experience) -> Experience:
    return exp.take([row for row, scored in enumerate(exp.scored_S.tolist()) if scored])


@pytest.mark.parametrize("name", ["group_mean", "group_norm", "rloo", "batch_norm"])
def test_advantages_are_those_of_the_group_without_what_is_skipped(name: str) -> None:
    groups_P, scores_P = scored_groups(HOLES[:2], 0)
    with world() as here:
        found = with_advantages(Experience.of(groups_P, scores_P), selected(name), None, here)
        smaller = Experience.of(*without_holes(groups_P, scores_P))
        expected = with_advantages(smaller, selected(name), None, here)
    assert scored_rows(found).advantage_T.tolist() == expected.advantage_T.tolist()
    assert bool(expected.advantage_T.any()) and bool(expected.loss_mask_T.all())
    skipped_T = ~found.repeat(found.scored_S)
    assert set(found.advantage_T[skipped_T].tolist()) == {0.0}
    assert not bool(found.loss_mask_T[skipped_T].any())


@pytest.mark.parametrize("name", ["group_mean", "group_norm", "rloo"])
def test_a_group_with_too_few_left_has_no_advantage(name: str) -> None:
    exp = Experience.of(*scored_groups(HOLES[2:], 0))
    with world() as here:
        found = with_advantages(exp, selected(name), None, here)
    assert found.scored_S.tolist() == [False] * 4 + [True] + [False] * 3
    assert set(found.advantage_T.tolist()) == {0.0}


@pytest.mark.parametrize("baseline", ["batch", "group"])
def test_a_step_of_skipped_samples_alone_is_survived(baseline: str) -> None:
    exp = Experience.of(*scored_groups([[None, None], [None, None]], 0))
    with world() as here:
        found = with_advantages(exp, selected("batch_norm", baseline=baseline), None, here)
    assert set(found.advantage_T.tolist()) == {0.0} and not bool(found.loss_mask_T.any())


def test_a_critic_does_not_see_what_is_skipped(folder: Path) -> None:
    """Whitening, losses and explained variance are those of the other samples."""
    groups_P, scores_P = scored_groups(HOLES, 0)
    wild = [
        replace(s, total_G=tuple(9.0 if i in s.skipped else t for i, t in enumerate(s.total_G)))
        for s in scores_P
    ]
    found, metrics = [], []
    with world() as here:
        for groups, scores in ((groups_P, wild), without_holes(groups_P, scores_P)):
            trainer = open_trainer(folder, here, critic=CriticSettings(learning_rate=1e-2))
            exp = Experience.of(groups, scores)
            for _ in range(2):
                valued = with_advantages(exp, selected("gae"), trainer.critic, here)
                metrics.append(trainer.step(valued))
            found.append(valued)
    one, other = scored_rows(found[0]), found[1]
    assert len(one) == len(other) == sum(total is not None for row in HOLES for total in row)
    torch.testing.assert_close(one.advantage_T, other.advantage_T, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.return_T, other.return_T, atol=1e-4, rtol=0)
    for key in ("value_loss", "explained_variance", "loss", "trained_tokens"):
        assert metrics[1][key] == pytest.approx(metrics[3][key], abs=1e-4), key
    assert metrics[1]["explained_variance"] < 0.999
