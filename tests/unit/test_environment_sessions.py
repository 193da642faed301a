"""Episodes in worker processes: what they answer, where they live, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drpo_cli.types import Action
from support.environments import Own, Shared, play, result, row, texts

COUNT = """
import os
class Env:
    {prefix}def start(self, row, rng):
        self.said = [row.prompt, str(rng.randint(0, 10**9))]
        return " ".join(self.said)
    {prefix}def step(self, action: str) -> Step:
        self.said.append(action)
        done = action == "end"
        return Step(" ".join(self.said), len(self.said), done, {{"pid": os.getpid()}})
"""


PREFIXES = ("", "async ")
by_prefix = pytest.mark.parametrize("prefix", PREFIXES)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    own = Own(tmp_path_factory.mktemp("own"))
    found = Shared(
        own,
        {
            f"{prefix}{workers}": (
                COUNT.format(prefix=prefix),
                {"workers": workers, "concurrency": 3},
            )
            for prefix in PREFIXES
            for workers in (2, 4)
        },
    )
    yield found
    found.pool.close()


@by_prefix
def test_an_episode_keeps_its_state_and_its_process(shared: Shared, prefix: str) -> None:
    one, two = (shared.open(f"{prefix}2", row(name), n) for n, name in enumerate(("one", "two")))
    first, *answers = play(one, "a", "end")
    assert texts(first)[0].startswith("one ") and first.reward == 0.0 and not first.done
    assert [answer.reward for answer in answers] == [3.0, 4.0]
    assert [answer.done for answer in answers] == [False, True]
    assert len({answer.info["pid"] for answer in answers}) == 1
    message = {"role": "user", "content": texts(first)[0] + " a end"}
    assert answers[1].messages == (message,)
    assert texts(play(two, "b")[1]) == [texts(result(two.first))[0] + " b"]
    assert result(one.close()).failure is result(two.close()).failure is None
    three = shared.open(f"{prefix}2", row("one"), 0)
    again = play(three, "a", "end")
    three.close()
    assert [texts(answer) for answer in again] == [texts(answer) for answer in (first, *answers)]


@by_prefix
def test_two_hundred_episodes_in_four_processes(shared: Shared, prefix: str) -> None:
    pids: set[int] = set()
    sessions = [shared.open(f"{prefix}4", row(f"row {n}"), n) for n in range(200)]
    for n, session in enumerate(sessions):
        first, *answers = play(session, "a", "b")
        assert texts(answers[-1]) == [f"{texts(first)[0]} a b"]
        assert texts(first)[0].startswith(f"row {n} ")
        pids |= {answer.info["pid"] for answer in answers}
        session.close()
    assert 1 < len(pids) <= 4


def test_one_call_at_a_time(shared: Shared) -> None:
    session = shared.open("2", row())
    result(session.first)
    session.close()
    with pytest.raises(AssertionError, match="one call at a time"):
        session.step(Action("a"))
