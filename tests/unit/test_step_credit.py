"""Credit of turns: their returns, what they are compared with, what an advantage sees of them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.experience import Experience
from drpo_cli.plugins import Selected
from drpo_cli.settings import CriticSettings
from drpo_cli.step.advantage import with_advantages
from drpo_cli.step.credit import Turns, observations
from drpo_cli.types import Episode, Group, Prompt, Rollout, Scores, Turn, TurnView
from support.models import tiny_model, world
from support.training import groups_of, open_trainer
from support.turns import grouped, played, split, turn_rewards

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
# the table of docs/advantages.md: rewards of turns of 2, 1 and 3 tokens; of 1 and 2; of 3 and 1
THREE = [
    played([2, 2, 1, 1, 3], [1.0, 0.0, 2.0], 1),
    played([1, 3, 2], [0.0, 0.0], 2),
    played([3, 1, 1], [2.0, 0.5], 3),
]
SHARES = ["episode", "turn"]
apart = pytest.mark.parametrize("apart", [False, True], ids=["one row", "a row per turn"])


def selected(name: str, **options: Any) -> Selected[Any]:
    return Selected("advantages", name, plugins.load("advantages", name).Config(**options))


def scored(
    groups: Sequence[Group], more: float = 0.0, skipped: frozenset[int] = frozenset()
) -> Experience:
    """The groups with the environment's rewards, and `more` from other rewards."""
    scores = [
        Scores(
            tuple(sum(turns) + more for turns in turn_rewards(group)),
            {},
            skipped,
            turn_rewards(group),
        )
        for group in groups
    ]
    return Experience.of(groups, scores)


def by_turn(exp: Experience, column_T: torch.Tensor | None) -> list[list[list[float]]]:
    """A column's sampled tokens: of each episode, its turns."""
    assert column_T is not None
    sizes = [view.tokens for views in Turns.of(exp).views(len(exp.first_E)) for view in views]
    parts = iter(torch.split(column_T[exp.sampled_T], sizes))
    return [
        [next(parts).tolist() for _ in views] for views in Turns.of(exp).views(len(exp.first_E))
    ]


def advantages(exp: Experience, chosen: Selected[Any], groups: Sequence[Group] = ()) -> Experience:
    with world() as here:
        return with_advantages(exp, chosen, None, here, groups)


def per_turn(exp: Experience) -> list[list[float]]:
    """The advantage of each turn, which all its tokens share; nothing else has one."""
    assert not bool(exp.advantage_T[~exp.sampled_T].any())
    found = by_turn(exp, exp.advantage_T)
    assert all(len(set(tokens)) == 1 for turns in found for tokens in turns)
    return [[tokens[0] for tokens in turns] for turns in found]


@apart
def test_turns_are_those_of_the_episodes_with_what_the_total_has_besides(apart: bool) -> None:
    exp = scored(grouped([THREE], apart=apart), more=0.25)
    turns = Turns.of(exp)
    assert turns.episode_U.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert turns.index_U.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert turns.tokens_U.tolist() == [2, 1, 3, 1, 2, 3, 1]
    assert turns.reward_U.tolist() == [1, 0, 2.25, 0, 0.25, 2, 0.75]
    assert turns.returns(0.5).tolist() == [1.5625, 1.125, 2.25, 0.125, 0.25, 2.375, 0.75]
    assert turns.returns(1.0).tolist() == [3.25, 2.25, 2.25, 0.25, 0.25, 2.75, 0.75]


ANY_TURNS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.floats(-2, 2)), max_size=4)
"""Of each turn: its tokens, those of the observation after it, and its reward."""


@given(turns_PGU=st.lists(st.lists(ANY_TURNS, max_size=3), max_size=3), cut=st.randoms())
def test_turns_of_any_episodes_are_found_again(turns_PGU: Any, cut: random.Random) -> None:
    """However an episode is cut into rows, and with episodes in which nothing was sampled."""
    groups, expected = [], []
    for place, turns_GU in enumerate(turns_PGU):
        rollouts = []
        for turns in turns_GU:
            whole = played([n for own in turns for n in own[:2]], [own[2] for own in turns])
            rollouts.append(split(whole, (5,)) if turns and cut.random() < 0.5 else whole)
            expected.append(turns)
        groups.append(Group(Prompt(str(place), "", (5,), None, {}), tuple(rollouts)))
    exp = scored(groups, more=1.0)
    turns = Turns.of(exp)
    views = turns.views(len(expected))
    assert [[view.tokens for view in own] for own in views] == [
        [tokens for tokens, _, _ in own] for own in expected
    ]
    for own, want in zip(views, expected, strict=True):
        besides = [0.0] * (len(want) - 1) + [1.0] * bool(want)
        rewards = [reward + more for (_, _, reward), more in zip(want, besides, strict=True)]
        assert [turn.reward for turn in own] == pytest.approx(rewards)
    index_U = [i for own in expected for i in range(len(own))]
    assert turns.index_U.tolist() == index_U
    spread = turns.spread(torch.arange(len(index_U)))[exp.sampled_T].tolist()
    tokens = [n for own in expected for n, _, _ in own]
    assert spread == [place for place, count in enumerate(tokens) for _ in range(count)]


def test_a_response_without_an_environment_is_a_turn() -> None:
    exp = Experience.of(*groups_of([[1.0, 0.5], [0.25]]))
    turns = Turns.of(exp)
    assert turns.tokens_U.tolist() == exp.lengths_S.tolist()
    assert turns.reward_U.tolist() == turns.returns(0.5).tolist() == [1.0, 0.5, 0.25]
    empty = Turns.of(Experience.of([], []))
    assert len(empty.reward_U) == len(empty.returns(1.0)) == 0


@apart
def test_by_default_every_sampled_token_has_the_advantage_of_its_episode(apart: bool) -> None:
    found = per_turn(advantages(scored(grouped([THREE], apart=apart)), selected("group_mean")))
    mean = 5.5 / 3
    assert found == [
        pytest.approx([3 - mean] * 3),
        pytest.approx([0 - mean] * 2),
        pytest.approx([2.5 - mean] * 2),
    ]


@apart
def test_turns_are_compared_with_the_same_turn_of_their_group(apart: bool) -> None:
    """The table of docs/advantages.md: the third turn has nothing to be compared with."""
    chosen = selected("group_mean", credit="turn", turn_discount=0.5)
    found = per_turn(advantages(scored(grouped([THREE], apart=apart)), chosen))
    assert found == [
        pytest.approx([0.25, 0.5, 3 - 5.5 / 3]),
        pytest.approx([-1.25, -0.5]),
        pytest.approx([1.0, 0.0]),
    ]


def test_the_advantage_decides_how_turns_are_compared() -> None:
    """rloo: less the mean of the others; the returns are 1.5, 0, 2.25 and 1, 0, 0.5."""
    chosen = selected("rloo", credit="turn", turn_discount=0.5)
    found = per_turn(advantages(scored(grouped([THREE])), chosen))
    assert found == [
        pytest.approx([1.5 - 1.125, 1 - 0.25, 3 - 1.25]),
        pytest.approx([0 - 1.875, 0 - 0.75]),
        pytest.approx([2.25 - 0.75, 0.5 - 0.5]),
    ]


def test_without_a_smallest_group_every_turn_is_compared() -> None:
    """batch_norm over the returns of all turns of the step: 1.5, 1, 2, 0, 0, 2.25, 0.5."""
    chosen = selected("batch_norm", credit="turn", turn_discount=0.5, epsilon=1e-9)
    found = per_turn(advantages(scored(grouped([THREE])), chosen))
    returns = torch.tensor([1.5, 1, 2, 0, 0, 2.25, 0.5], dtype=torch.float64)
    expected = ((returns - returns.mean()) / returns.std()).tolist()
    assert [adv for turns in found for adv in turns] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["group_mean", "group_norm", "rloo", "batch_norm"])
def test_of_one_turn_each_both_kinds_of_credit_are_the_same(name: str) -> None:
    exp = Experience.of(*groups_of([[1.0, 0.0, 0.3], [0.5, 1.0, 0.5]]))
    found = [advantages(exp, selected(name, credit=credit)).advantage_T for credit in SHARES]
    assert torch.equal(*found) and bool(found[0].any())


def test_a_skipped_episode_is_compared_with_nothing() -> None:
    groups = grouped([THREE])
    chosen = selected("group_mean", credit="turn", turn_discount=0.5)
    found = per_turn(advantages(scored(groups, skipped=frozenset({1})), chosen))
    assert found == [[-0.375, 0.25, 0.25], [0.0, 0.0], [0.375, -0.25]]


def test_an_episode_without_a_token_counts_in_its_group_and_has_no_turn() -> None:
    """Its environment failed at once, with `on_error = "zero"`."""
    failed = Rollout((), (), "", False, sampled=(), episode=Episode("test", (), (), "failed"))
    (group,) = grouped([[THREE[0], failed]])
    scores = Scores((3.0, 0.0), {}, turn_rewards_G=((1.0, 0.0, 2.0), ()))
    for credit in SHARES:
        exp = advantages(Experience.of([group], [scores]), selected("group_mean", credit=credit))
        assert per_turn(exp) == [[1.5, 1.5, 1.5], []]


def test_what_an_advantage_sees_of_a_turn(tmp_path: Path) -> None:
    (tmp_path / "seeing.py").write_text(
        "def advantages(config, scores_PG, turns_PG):\n"
        "    assert scores_PG == [[3.25, 2.75]], scores_PG\n"
        "    print(turns_PG)\n"
        "    return [[[0.0, 1.0, 2.0], 7]]\n"
    )
    groups = grouped([[replace(one, earlier=()) for one in THREE]])
    chosen = Selected("advantages", str(tmp_path / "seeing.py"), plugins.KINDS["advantages"].base())
    assert chosen.plugin.sees_turns
    exp = scored(groups, more=0.25, skipped=frozenset({1}))
    assert per_turn(advantages(exp, chosen, groups)) == [[0, 1, 2], [0, 0], [7, 7]]


def test_the_text_before_a_turn_is_what_was_shown_since_the_last() -> None:
    assert observations(THREE[0]) == ["shown 0", "shown 1", "shown 2"]
    examples = [
        {"role": "system", "content": "Play."},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
    ]
    whole = THREE[1].episode
    assert whole is not None
    more = replace(whole, messages=(*examples, *whole.messages, {"role": "tool", "content": "end"}))
    assert observations(replace(THREE[1], episode=more)) == ["Play.\n1?\none\nshown 0", "shown 1"]
    assert observations(Rollout((5, 6), (-1.0, -1.0), "", False)) == [""]


def test_the_advantage_of_the_docs_compares_turns_that_saw_the_same(tmp_path: Path) -> None:
    section = PAGE[PAGE.index("\n### An advantage that sees turns") :]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    (tmp_path / "same_state.py").write_text(found[1])
    plugin = plugins.load("advantages", str(tmp_path / "same_state.py"))
    chosen = Selected("advantages", plugin.name, plugin.Config(turn_discount=0.5))
    one = played([2, 1, 1], [1.0, 2.0], 1, shown=["start", "left"])
    other = played([1, 1, 2, 2, 1], [0.0, 1.0, 0.0], 2, shown=["start", "right", "left"])
    groups = grouped([[one, other]])
    # returns: 2, 2 and 0.5, 1, 0
    assert per_turn(advantages(scored(groups), chosen, groups)) == [[0.75, 1.0], [-0.75, 0.0, -1.0]]


def test_an_advantage_that_returns_another_number_of_turns_is_named(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(
        "def advantages(config, scores_PG, turns_PG):\n"
        "    return [[[0.0] for _ in turns_G] for turns_G in turns_PG]\n"
    )
    chosen = Selected("advantages", str(tmp_path / "short.py"), plugins.KINDS["advantages"].base())
    with pytest.raises(UserError, match=r"short\.py' returned 1 numbers for an episode of 3 turns"):
        advantages(scored(grouped([THREE])), chosen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@apart
@pytest.mark.parametrize("level", ["token", "turn"])
def test_gae_goes_over_what_was_sampled(folder: Path, level: str, apart: bool) -> None:
    """By hand, with γ = 0.5 and λ = 1 so that A_t = Σ γ^k r_{t+k} − V_t, over tokens or turns."""
    exp = scored(grouped([THREE[:2]], apart=apart), more=0.25)
    options = {"discount": 0.5, "level": level}
    with world() as here:
        settings = CriticSettings(learning_rate=0.1, value_clip=0.0, whiten=False)
        trainer = open_trainer(folder, here, critic=settings)
        assert trainer.critic is not None
        trainer.step(with_advantages(exp, selected("gae"), trainer.critic, here))
        found = with_advantages(exp, selected("gae", **options), trainer.critic, here)
        value_T = trainer.critic.values(exp)
    values = by_turn(exp, value_T)
    assert len({value for turns in values for tokens in turns for value in tokens}) >= 8
    if level == "turn":  # rewards 1, 0, 2.25 and 0, 0.25
        returns = [[[1.5625] * 2, [1.125], [2.25] * 3], [[0.125], [0.25] * 2]]
        values = [[[tokens[0]] * len(tokens) for tokens in turns] for turns in values]
        learnt = [[[1, 0], [1], [1, 0, 0]], [[1], [1, 0]]]
    else:  # rewards 0 1, 0, 0 0 2.25 and 0, 0 0.25
        last = 2.25 / 2
        returns = [
            [[0.5 + last / 16, 1 + last / 8], [last / 4], [last / 2, last, 2 * last]],
            [[0.0625], [0.125, 0.25]],
        ]
        learnt = [[[1, 1], [1], [1, 1, 1]], [[1], [1, 1]]]
    for what, wants, value in zip(by_turn(exp, found.advantage_T), returns, values, strict=True):
        for adv, want, base in zip(what, wants, value, strict=True):
            assert adv == pytest.approx([w - b for w, b in zip(want, base, strict=True)], abs=1e-6)
    assert by_turn(exp, found.valued_T) == learnt
    columns = (by_turn(exp, found.return_T), returns, learnt)
    flat = ([x for turns in column for tokens in turns for x in tokens] for column in columns)
    for learns, wanted, is_learnt in zip(*flat, strict=True):
        assert not is_learnt or learns == pytest.approx(wanted, abs=1e-6)
    assert not bool(found.advantage_T[~exp.sampled_T].any())


@apart
@pytest.mark.parametrize(("masked", "left"), [(False, 9), (True, 6)])
def test_whitening_goes_over_the_tokens_that_are_trained(
    folder: Path, apart: bool, masked: bool, left: int
) -> None:
    exp = scored(grouped([THREE], apart=apart), skipped=frozenset({2}))
    if masked:  # the second episode, as overlong = "mask" does
        exp = replace(exp, loss_mask_T=exp.loss_mask_T & exp.repeat(exp.episode_S != 1))
    with world() as here:
        trainer = open_trainer(folder, here, critic=CriticSettings())
        found = with_advantages(exp, selected("gae"), trainer.critic, here).advantage_T
    kept = found[exp.loss_mask_T]
    assert len(kept) == left and float(kept.mean()) == pytest.approx(0, abs=1e-9)
    assert float(kept.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not bool(found[~exp.sampled_T].any())


def test_a_critic_of_turns_learns_the_value_of_first_tokens_alone(folder: Path) -> None:
    """What other tokens would return changes neither its loss nor its explained variance."""
    exp = scored(grouped([THREE]))
    with world() as here:
        found = []
        for wild in (0.0, 100.0):
            critic = open_trainer(folder, here, critic=CriticSettings(learning_rate=0.1)).critic
            assert critic is not None
            valued = with_advantages(exp, selected("gae", level="turn"), critic, here)
            assert valued.return_T is not None and valued.valued_T is not None
            return_T = torch.where(valued.valued_T, valued.return_T, valued.return_T + wild)
            valued = replace(valued, return_T=return_T)
            explained = critic.explained_variance(valued)
            found.append((explained, critic.update(valued), critic.update(valued)))
    assert found[0] == found[1]
    returns = [3.0, 2.0, 2.0, 0.0, 0.0, 2.5, 0.5]  # and the first values are all 0
    assert found[0][1] == pytest.approx(sum(r**2 for r in returns) / 2 / len(returns))


def test_views_without_groups_have_no_text() -> None:
    assert Turns.of(scored(grouped([THREE[1:2]]))).views(1) == [[TurnView(0, 1), TurnView(0, 2)]]


def test_a_turn_of_the_contract_is_a_turn_here() -> None:
    """Rows of an episode may be cut anywhere between turns: two turns in the first, one after."""
    whole = THREE[0]
    assert whole.episode is not None
    head = replace(
        whole,
        token_ids=whole.token_ids[:5],
        logps=whole.logps[:5],
        sampled=(True, True, False, False, True),
        episode=None,
    )
    tail = Rollout(
        whole.token_ids[6:],
        whole.logps[6:],
        "",
        False,
        prompt_ids=(9, 9),
        earlier=(head,),
        episode=replace(
            whole.episode, turns=(Turn(0, 0, 2, 1.0), Turn(0, 4, 5), Turn(1, 0, 3, 2.0))
        ),
    )
    exp = scored(grouped([[tail]]))
    assert exp.prompt_ids_S[1] == (9, 9) and exp.lengths_S.tolist() == [5, 3]
    assert Turns.of(exp).reward_U.tolist() == [1, 0, 2] and exp.sampled_E.tolist() == [6]
