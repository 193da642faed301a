"""What a reward may ask for and be: arguments by name, async, classes with set-up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.calls import pool
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import prepare_all
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.settings import RewardSettings
from support.rewards import HEAD, Own, graded, group, numbers_in

ASKS = """
import asyncio
from drpo_cli.settings import RewardSettings
class Config(RewardSettings):
    bonus: float = 0.0
def fn(prompt, completion, answer, metadata, truncated, tokens, group, config, *, scale=2.0):
    assert (prompt, answer, metadata) == ("2+2=", "4", {"level": "easy"})
    assert group == ["a", "bbbb"] and completion in group
    assert tokens == (7,) * len(completion) and truncated == (completion == "bbbb")
    return scale * len(completion) + config.bonus
def everything(**asked):
    return len(asked)
class Held:
    def __init__(self, config):
        self.bonus = config.bonus
    def __call__(self, completion, config):
        assert config.bonus == self.bonus
        return len(completion) + self.bonus
held = Held(Config(bonus=0.25))
class Bare:
    class Config(RewardSettings):
        factor: float = 1.0
    async def __call__(self, completion, config):
        await asyncio.sleep(0)
        return config.factor * len(completion)
class Whole:
    def __init__(self, scale=3.0, *rest, **more):
        self.scale = scale
    def __call__(self, completions) -> list[float]:
        return [self.scale * len(c) for c in completions]
class Inherits(Whole):
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def by_reward(selected: list[Selected[Any]], *texts: str) -> dict[str, Any]:
    found = graded(selected, [group(*texts)])
    assert found.fatal is None
    return dict(found.scores_P[0].by_reward)


def test_functions_classes_and_instances_get_what_they_ask_for(own: Own) -> None:
    selected = [
        own(ASKS, bonus=0.5),
        own(ASKS, "everything"),
        own(ASKS, "Held", bonus=0.5),
        own(ASKS, "Bare", factor=4.0),
        own(ASKS, "Whole"),
        own(ASKS, "Inherits"),
    ]
    assert by_reward(selected, "a", "bbbb") == {
        "fn": (2.5, 8.5),
        "everything": (9.0, 9.0),
        "Held": (1.5, 4.5),
        "Bare": (4.0, 16.0),
        "Whole": (3.0, 12.0),
        "Inherits": (3.0, 12.0),
    }


def test_an_instance_that_is_there_already_is_a_reward(own: Own) -> None:
    assert by_reward([own(ASKS, "held", bonus=0.25)], "a") == {"held": (1.25,)}


@pytest.mark.parametrize("head", [HEAD, ""])
@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_reward_of_whole_groups(own: Own, head: str, prefix: str) -> None:
    source = f"""
{prefix}def fn(completions, truncations, tokens, answer, config) -> list[float]:
    shortest = min(map(len, tokens))
    return [float(len(c) == shortest and not t) for c, t in zip(completions, truncations)]
"""
    found = graded([own(source, head=head)], [group("a", "bb"), group("bbbb", "cc", "dd")])
    assert [scores.total_G for scores in found.scores_P] == [(1.0, 0.0), (0.0, 1.0, 1.0)]
    assert found.usage["fn"].calls == 2


@pytest.mark.parametrize("whole", [True, False])
def test_async_calls_run_together(own: Own, whole: bool) -> None:
    # Every call waits for all the others: one after the other would never end.
    argument, result = ("completions", "list[float]") if whole else ("completion", "float")
    value = "[float(len(c)) for c in completions]" if whole else "float(len(completion))"
    source = f"""
import asyncio
state = dict(waiting=0, go=None)
async def fn({argument}) -> {result}:
    state["go"] = state["go"] or asyncio.Event()
    state["waiting"] += 1
    if state["waiting"] == {2 if whole else 4}:
        state["go"].set()
    await state["go"].wait()
    return {value}
"""
    found = graded([own(source)], [group("a", "bb"), group("ccc", "dddd")])
    assert [s.total_G for s in found.scores_P] == [(1.0, 2.0), (3.0, 4.0)]


def test_no_more_async_calls_at_once_than_concurrency(own: Own) -> None:
    source = """
import asyncio
now = 0
async def fn(completion):
    global now
    now += 1
    await asyncio.sleep(0.01)
    most, now = now, now - 1
    return most
"""
    found = by_reward([own(source, concurrency=3)], *"abcdefgh")
    assert max(found["fn"]) == 3


def test_what_a_class_sets_up_lives_as_long_as_its_process(own: Own, tmp_path: Path) -> None:
    source = f"""
import asyncio, collections, os
class fn:
    def __init__(self):
        self.counts = collections.Counter()
        with open({str(tmp_path / "setups")!r}, "a") as file:
            print(os.getpid(), file=file)
    async def __call__(self, completion):
        self.counts["tokens"] += len(completion)
        self.counts["cost"] += 0.25
        self.loop = getattr(self, "loop", asyncio.get_running_loop())
        return self.loop is asyncio.get_running_loop()
"""
    with Grader([own(source, workers=2)]) as grader:
        for _ in range(3):
            found = grader.score([group("a", "bb", "ccc")])
            assert found.scores_P[0].total_G == (1.0, 1.0, 1.0)
            assert found.usage["fn"].counts == {"tokens": 6, "cost": 0.75}
            assert isinstance(found.usage["fn"].counts["tokens"], int)
    assert len(set(numbers_in(tmp_path / "setups"))) <= 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('m')", r"its set-up failed: KeyError: 'm' \(.*r0.py:5 in __init__\)"),
        ("raise UserError('get a key')", "its set-up failed: get a key"),
        ("os._exit(3)", "its process died.* in its set-up"),
        ("raise KeyboardInterrupt", "its set-up failed: KeyboardInterrupt"),
        ("os.closerange(0, 4096)", "its process died.* in its set-up"),
        ("sys.exit(3)", r"its set-up failed: SystemExit: 3 \(.*r0.py:5 in __init__\)"),
    ],
)
def test_a_set_up_that_fails_is_one_message(own: Own, body: str, said: str, workers: int) -> None:
    source = f"""import os, sys; from drpo_cli.errors import UserError
class fn:
    def __init__(self, config):
        {body}
    def __call__(self, completion): return 1.0
"""
    with Grader([own(source, workers=workers, on_error="zero", tries=3)]) as grader:
        for _ in range(2):
            found = grader.score([group("a", "b")])
            assert found.fatal is not None and "\n" not in found.fatal
            assert re.match(f"reward 'fn': {said}", found.fatal)
            assert "_contract.py" not in found.fatal and "_score.py" not in found.fatal


def test_a_set_up_that_hangs_is_given_up(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SETUP_SECONDS", 1.0)
    source = """
import time
class fn:
    def __init__(self): time.sleep(1000)
    def __call__(self, completion): return 1.0
"""
    found = graded([own(source)], [group("a")])
    assert found.fatal is not None
    assert "reward 'fn': its set-up took longer than 1 seconds" in found.fatal


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def fn(reply): ...", "asks for 'reply'; rewards get: answer, completion, config, gr"),
        ("def fn(completions): ...", "asks for 'completions', which only a reward of whole gr"),
        ("def fn(completion) -> list[float]: ...", "'completion'; rewards of whole groups .*get:"),
        ("def fn(group) -> list[float]: ...", "'group'; rewards of whole groups .*get:"),
        ("def fn(completion, /): ...", "asks for 'completion'"),
        ("def fn(*args): ...", "asks for 'args'"),
        ("fn = 3", "is not a function"),
        ("class fn: ...", "is not a function"),
        ("class fn:\n  __call__ = None", "is not a function"),
        ("class fn:\n  def __call__(self, reply): ...", "asks for 'reply'"),
        (
            "class fn:\n  def __init__(self, url, config): ...\n  def __call__(self): ...",
            "its __init__ asks for url, config; write `def __init__",
        ),
        ("def fn(completion: int): ...", "'completion' is annotated int, but the reward gets str"),
        ("def fn(completion) -> str: ...", "returns str, which is not a score"),
        ("class fn:\n  def __call__(self, tokens: str): ...", "'tokens' is annotated str"),
    ],
)
def test_what_nobody_can_call_is_refused_before_anything_runs(
    own: Own, source: str, said: str
) -> None:
    with pytest.raises(UserError, match=r"reward 'fn'.*" + said):
        prepare_all([own(source)])


def test_two_rewards_of_one_name(own: Own) -> None:
    one = own("def fn(completion): return 1.0")
    with pytest.raises(UserError, match="2 rewards are called 'fn'; give each a `name` of its own"):
        Grader([one, one])
    other = Selected("rewards", one.type, RewardSettings(name="other"))
    assert set(by_reward([one, other], "a")) == {"fn", "other"}


@pytest.mark.parametrize(
    ("type", "name"),
    [
        ("exact_match", "exact_match"),
        ("/a/b/rewards.py:tidy", "tidy"),
        ("/a/b/rewards.py", "rewards"),
        ("pkg.judge", "judge"),
        ("pkg.judge:strict", "strict"),
    ],
)
def test_default_name(type: str, name: str) -> None:
    assert plugins.short_name(type) == name


def test_a_file_that_exits_when_it_is_imported_is_a_mistake_of_the_user(own: Own) -> None:
    with pytest.raises(UserError, match=r"SystemExit: 0 \(.*r0.py:2 in <module>\)"):
        own("raise SystemExit(0)")
