"""The columns of a step: what `of` puts in them, and that rows stay whole when chosen."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.experience import Experience
from drpo_cli.types import Episode, Group, Prompt, Rollout, Scores, Turn
from support.dialogues import FAMILIES, Played, begin
from support.turns import grouped, played, turn_rewards


def rollout(*token_ids: int, truncated: bool = False) -> Rollout:
    experts = np.array(token_ids, dtype=np.uint8)[:, None, None]
    return Rollout(token_ids, tuple(-float(i) for i in token_ids), "", truncated, experts)


GROUPS = [
    Group(Prompt("a", "", (1, 2), None, {}), (rollout(5, 6, 7), rollout(8), rollout(9, 10))),
    Group(Prompt("b", "", (3,), None, {}), (rollout(11, truncated=True), rollout(12, 13))),
]
SCORES = [Scores((1.0, 0.0, 0.5), {}, frozenset({1})), Scores((0.25, 2.0), {})]


def full() -> Experience:
    """An experience whose optional columns are all there, each with numbers of its own."""
    exp = Experience.of(GROUPS, SCORES)
    count_T = torch.arange(len(exp.token_T)).double()
    names = [f.name for f in fields(exp) if getattr(exp, f.name) is None]
    assert len(names) == 7
    columns: dict[str, Any] = {name: count_T + 100 * i for i, name in enumerate(names, 1)}
    return replace(exp, **columns)


def test_every_rollout_is_a_row() -> None:
    exp = Experience.of(GROUPS, SCORES)
    assert len(exp) == 5
    assert exp.prompt_ids_S == ((1, 2),) * 3 + ((3,),) * 2
    assert exp.group_S.tolist() == [0, 0, 0, 1, 1]
    assert exp.offsets.tolist() == [0, 3, 4, 6, 7, 9] and exp.lengths_S.tolist() == [3, 1, 2, 1, 2]
    assert exp.token_T.tolist() == list(range(5, 14))
    assert exp.logp_mu_T.tolist() == [-float(i) for i in range(5, 14)]
    assert exp.truncated_S.tolist() == [False, False, False, True, False]
    assert exp.score_S.tolist() == [1.0, 0.0, 0.5, 0.25, 2.0]
    assert exp.scored_S.tolist() == [True, False, True, True, True]
    assert exp.loss_mask_T.tolist() == [True] * 3 + [False] + [True] * 5
    assert exp.loss_tokens_S.tolist() == [3, 0, 2, 1, 2]
    assert exp.advantage_T.tolist() == [0.0] * 9


def test_without_scores_every_sampled_token_has_a_loss() -> None:
    exp = Experience.of(GROUPS)
    assert bool(exp.loss_mask_T.all()) and bool(exp.scored_S.all())
    assert exp.score_S.tolist() == [0.0] * 5


def test_without_groups_there_is_nothing() -> None:
    exp = Experience.of([], [])
    assert len(exp) == 0 and exp.offsets.tolist() == [0]
    assert len(exp.take([])) == 0 and exp.loss_tokens_S.tolist() == []


@given(rows=st.lists(st.integers(0, 4), max_size=8))
def test_chosen_rows_keep_every_column(rows: list[int]) -> None:
    exp, found = full(), full().take(rows)
    assert found.prompt_ids_S == tuple(exp.prompt_ids_S[row] for row in rows)
    for name in (field.name for field in fields(exp)):
        before, after = getattr(exp, name), getattr(found, name)
        if name.endswith("_T"):
            parts = [exp.split(before)[row].tolist() for row in rows]
            assert [part.tolist() for part in found.split(after)][: len(rows)] == parts, name
            assert len(after) == sum(map(len, parts))
        elif name == "experts_S":
            assert [of_row.flatten().tolist() for of_row in after] == [
                of_row.tolist() for of_row in found.split(found.token_T)
            ]
        elif name.endswith("_S") and name != "prompt_ids_S":
            assert after.tolist() == [before[row].item() for row in rows], name


def test_the_anchor_takes_the_place_of_mu() -> None:
    exp = full()
    assert exp.old_logp_T is exp.anchor_logp_T
    assert replace(exp, anchor_logp_T=None).old_logp_T is exp.logp_mu_T


def test_joined_rows_are_those_of_the_parts_with_groups_apart() -> None:
    exp = full()
    parts = [exp.take([2]), exp.take([]), exp.take([0, 4]), exp.take([1])]
    joined = Experience.join(parts)
    expected = exp.take([2, 0, 4, 1])
    for field in fields(exp):
        mine, right = getattr(joined, field.name), getattr(expected, field.name)
        if field.name in ("group_S", "episode_S"):
            assert mine.tolist() == [0, 1, 2, 3]  # what came from several ranks is never one
        else:
            if field.name == "experts_S":
                mine, right = torch.cat(mine), torch.cat(right)
            assert torch.equal(mine, right) if isinstance(mine, torch.Tensor) else mine == right
    nothing = Experience.join([exp.take([]), exp.take([])])
    assert len(nothing) == 0 and nothing.group_S.tolist() == []


def test_an_episode_is_a_row_or_several_neighbours() -> None:
    """Turns of 2, 1 and 2 tokens, with observations of 3 and 1 between them; then two of 1."""
    long, short = played([2, 3, 1, 1, 2], [0.5, 0.0, 2.0]), played([1, 2, 1], [1.0, 3.0], 1, True)
    for apart in (False, True):
        (group,) = grouped([[long, short]], apart=apart)
        scores = Scores((2.75, 0.0), {}, frozenset({1}), turn_rewards(group))
        exp = Experience.of([*GROUPS[1:], group], [SCORES[1], scores])
        exp = exp.take(range(2, len(exp)))
        rows = [3, 2] if apart else [1, 1]
        assert exp.group_S.tolist() == [1] * sum(rows)
        assert exp.episode_S.tolist() == [2] * rows[0] + [3] * rows[1]
        assert exp.first_E.tolist() == [0, rows[0]]
        assert exp.place_in_episodes.tolist() == [0] * rows[0] + [1] * rows[1]
        assert exp.sampled_E.tolist() == [5, 2]
        assert exp.score_S.tolist() == [2.75] * rows[0] + [0.0] * rows[1]
        assert exp.truncated_S.tolist() == [False] * rows[0] + [True] * rows[1]
        assert exp.scored_S.tolist() == [True] * rows[0] + [False] * rows[1]
        assert exp.sum_by_episode(exp.loss_tokens_S).tolist() == [5, 0]
        assert exp.loss_mask_T.tolist() == (exp.sampled_T & exp.repeat(exp.scored_S)).tolist()
        assert exp.turn_T[exp.sampled_T].tolist() == [0, 0, 1, 2, 2, 0, 1]
        assert set(exp.turn_T[~exp.sampled_T].tolist()) == (set() if apart else {-1})
        assert exp.reward_T[exp.sampled_T].tolist() == [0, 0.5, 0, 0, 2, 1, 3]
        assert not bool(exp.reward_T[~exp.sampled_T].any())
        whole = [group.prompt.token_ids + one.token_ids for one in (long, short)]
        for row, place in enumerate(exp.place_in_episodes.tolist()):
            ids = exp.prompt_ids_S[row] + tuple(exp.split(exp.token_T)[row].tolist())
            assert ids == whole[place][: len(ids)]


def test_without_rewards_of_turns_none_is_given_to_any() -> None:
    groups = grouped([[played([2, 1, 1], [1.0, 2.0])]])
    for scores in (None, [Scores((3.0,), {})]):
        assert set(Experience.of(groups, scores).reward_T.tolist()) == {0.0}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([Turn(0, 0, 2), Turn(0, 4, 5)], r"turn 1: not all of Turn\(row=0, first=4"),
        ([Turn(0, 0, 2), Turn(0, 5, 8)], r"turn 1: not all of Turn\(row=0, first=5, end=8"),
        ([Turn(0, 0, 0), Turn(0, 5, 6)], r"turn 0: not all of Turn\(row=0, first=0, end=0"),
        ([Turn(0, 0, 2)], "1 sampled tokens are in none of 1 turns"),
    ],
)
def test_turns_that_do_not_fit_the_tokens_are_refused(turns: list[Turn], message: str) -> None:
    whole = played([2, 3, 1])
    assert whole.episode is not None
    wrong = replace(whole, episode=replace(whole.episode, turns=tuple(turns)))
    with pytest.raises(ValueError, match=message):
        Experience.of(grouped([[wrong, played([2])]]))


def test_rewards_of_another_number_of_turns_are_refused() -> None:
    scores = Scores((1.0,), {}, turn_rewards_G=((0.5,),))
    with pytest.raises(ValueError, match=r"zip\(\)"):
        Experience.of(grouped([[played([2, 3, 1])]]), [scores])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_turn_follows_in_training_what_the_engine_saw(name: str) -> None:
    """In each family of chat templates: two make something else of an earlier turn."""
    played = Played(name, begin(name))
    end = FAMILIES[name].special[1]
    for place, text in enumerate(["one", "<think>\nso two\n</think>\n\ntwo", "three"]):
        played.act(text + end)
        if place < 2:
            played.observe("and then?")
    *earlier, last = played.check()
    turns = tuple(Turn(*span, float(place)) for place, span in enumerate(played.dialogue.spans))
    episode = Episode("env", tuple(played.dialogue.messages), turns, "done")
    rollout = replace(last, earlier=tuple(earlier), episode=episode)
    exp = Experience.of(
        [Group(Prompt("p", "", (1,), None, {}), (rollout,))],
        [Scores((3.0,), {}, turn_rewards_G=((0.0, 1.0, 2.0),))],
    )
    assert (len(exp) > 1) == (name in ("qwen3", "gpt_oss"))
    token_S, turn_S = exp.split(exp.token_T), exp.split(exp.turn_T)
    for turn, (prompt_ids, ids) in enumerate(played.saw):
        (row,) = [place for place, own_T in enumerate(turn_S) if bool((own_T == turn).any())]
        first, *_, end_at = torch.where(turn_S[row] == turn)[0].tolist()
        tokens = token_S[row].tolist()
        assert (*exp.prompt_ids_S[row], *tokens[:first]) == prompt_ids
        assert tuple(tokens[first : end_at + 1]) == ids
        assert exp.split(exp.reward_T)[row][end_at] == float(turn)
    assert exp.sampled_E.tolist() == [sum(len(ids) for _, ids in played.saw)]
