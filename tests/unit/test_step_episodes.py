"""The metrics of episodes: added up over ranks, and absent where there are none."""

from __future__ import annotations

import pytest

from drpo_cli.step.episodes import episode_metrics
from support import reports
from support.episodes import calculation, failed, group, guesses, uneven_episodes
from support.models import world
from support.ranks import open_ranks


def test_what_happened_in_an_environment() -> None:
    with world() as here:
        found = episode_metrics([group(calculation())], 1.0, 4.0, here)
    assert found["turns"] == 3 and found["idle_share"] == 0.25
    assert found["environments"] == {
        "agent": {
            "episodes": 1,
            "turns": 3,
            "turns_max": 3,
            "ends": {"done": 1.0},
            "failures": {},
            "tool_calls": 1,
            "unparsed_share": 0.5,
            "tool_errors": 1.0,
            "answers": 2,
            "answer_s": 0.5625,
            "slowest_s": 1.0,
            "seconds": 1.125,
            "sampled_tokens": 7,
            "observed_tokens": 2,
            "split_share": 1,
            "counts": {"tool_errors": 1, "tool_errors/calculator": 1},
        }
    }


def test_an_environment_without_tools_has_no_share_of_calls() -> None:
    groups_P = [group(guesses(["1", "2"]), failed()), group(guesses(["1"], "max_turns"))]
    with world() as here:
        found = episode_metrics(groups_P, 0.0, 0.0, here)
    own = found["environments"]["guess"]
    assert (own["unparsed_share"], own["tool_errors"], found["idle_share"]) == (None, None, None)
    assert own["ends"] == {
        "done": pytest.approx(1 / 3),
        "failed": pytest.approx(1 / 3),
        "max_turns": pytest.approx(1 / 3),
    }
    assert own["failures"] == {"timeout": 1} and own["turns_max"] == 2
    assert own["observed_tokens"] == 2 and own["sampled_tokens"] == pytest.approx(10 / 3)


def test_responses_without_an_environment_have_no_such_metrics() -> None:
    with world() as here:
        assert episode_metrics([reports.group(("a", "b"))], 0.0, 1.0, here) == {}


def test_ranks_agree_though_one_has_an_environment_that_the_other_has_not() -> None:
    with open_ranks(2) as ranks:
        first, second = ranks.run(uneven_episodes)
    assert first == second
    assert first["idle_share"] == 2.0 / 8.0
    assert first["turns"] == 9 / 4
    assert first["environments"]["guess"]["episodes"] == 3
    assert first["environments"]["agent"]["episodes"] == 1
