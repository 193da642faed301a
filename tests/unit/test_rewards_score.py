"""The scorer: what rewards are given, how they add up, and what their mistakes get."""

from pathlib import Path

import pytest

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, absolute, short_name
from drpo_cli.rewards._score import Scorer
from drpo_cli.settings import RewardSettings
from drpo_cli.types import Group, Prompt, Rollout

HEAD = "from __future__ import annotations\n"


def group(*texts: str, id: str = "own/3", answer: str | None = "4") -> Group:
    prompt = Prompt(id, "2+2=", (1, 2), answer, {"level": "easy"})
    rollouts = (Rollout((7,) * len(t), (-0.1,) * len(t), t, len(t) > 3) for t in texts)
    return Group(prompt, tuple(rollouts))


@pytest.fixture
def own(tmp_path: Path):
    """Selects a reward out of source text, as a spec does."""

    def select(source: str, name: str = "fn", head: str = HEAD, **options: object) -> Selected:
        file = f"./r{len(list(tmp_path.iterdir()))}.py"
        (tmp_path / file).write_text(head + source)
        type = absolute(f"{file}:{name}", tmp_path)
        config = plugins.load("rewards", type).Config.model_validate(options)
        return Selected("rewards", type, config)

    return select


def test_weights_and_names_add_up(own) -> None:
    exact = plugins.load("rewards", "exact_match")
    scorer = Scorer(
        [
            Selected("rewards", "exact_match", exact.Config(weight=2.0)),
            own("def fn(completion): return len(completion)", weight=-0.5),
            own("def seen(truncated) -> float: return truncated", name="seen", weight=0.0),
        ]
    )
    (scores,) = scorer.score([group("4", "five")])
    assert scores.by_reward == {
        "exact_match": (1.0, 0.0),
        "fn": (1.0, 4.0),
        "seen": (0.0, 1.0),
    }
    assert scores.total_G == (1.5, -2.0)


def test_a_reward_gets_what_it_asks_for(own) -> None:
    source = """
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
"""
    few, all_ = own(source, bonus=0.5), own(source, name="everything")
    (scores,) = Scorer([few, all_]).score([group("a", "bbbb")])
    assert scores.by_reward == {"fn": (2.5, 8.5), "everything": (8.0, 8.0)}


@pytest.mark.parametrize("head", [HEAD, ""])
def test_a_reward_of_whole_groups(own, head: str) -> None:
    source = """
def fn(completions, truncations, tokens, answer) -> list[float]:
    shortest = min(map(len, tokens))
    return [float(len(c) == shortest and not t) for c, t in zip(completions, truncations)]
"""
    first, second = Scorer([own(source, head=head)]).score([group("a", "bb"), group("bbbb", "cc")])
    assert first.total_G == (1.0, 0.0)
    assert second.total_G == (0.0, 1.0)


@pytest.mark.parametrize("whole", [True, False])
def test_async_rewards_run_together(own, whole: bool) -> None:
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
    await asyncio.wait_for(state["go"].wait(), 20)
    return {value}
"""
    scores = Scorer([own(source)]).score([group("a", "bb"), group("ccc", "dddd")])
    assert [s.total_G for s in scores] == [(1.0, 2.0), (3.0, 4.0)]


@pytest.mark.parametrize("prefix", ["", "async "])
def test_a_reward_that_raises_is_named_with_its_line(own, prefix: str) -> None:
    source = f"""
def inner(c):
    return 1 / (len(c) - 2)
{prefix}def fn(completion):
    return inner(completion)
"""
    with pytest.raises(UserError) as caught:
        Scorer([own(source)]).score([group("a", "bb")])
    message = str(caught.value)
    assert message.startswith("reward 'fn', prompt own/3, sample 1 ('bb'): ZeroDivisionError")
    assert "r0.py:6 in fn → " in message and "r0.py:4 in inner" in message
    assert "_score.py" not in message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_built_in_that_refuses_names_the_problem() -> None:
    exact = plugins.load("rewards", "exact_match")
    scorer = Scorer([Selected("rewards", "exact_match", exact.Config(name="right"))])
    with pytest.raises(UserError, match=r"reward 'right', prompt own/3, sample 0 .*no answer"):
        scorer.score([group("4", answer=None)])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("'1.0'", r"returned '1.0' \(str\); return a finite number"),
        ("None", r"returned None \(NoneType\)"),
        ("float('nan')", r"returned nan \(float\)"),
        ("float('inf')", r"returned inf \(float\)"),
        ("[1.0]", r"returned \[1.0\] \(list\)"),
        ("1j", r"returned 1j \(complex\)"),
    ],
)
def test_a_score_must_be_a_finite_number(own, returned: str, message: str) -> None:
    source = f"def fn(completion): return 1.0 if completion == 'a' else {returned}"
    with pytest.raises(UserError, match=r"reward 'fn', prompt own/3, sample 1 .*" + message):
        Scorer([own(source)]).score([group("a", "b")])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0]", "prompt own/3: returned 1 scores for 2 samples"),
        ("1.0", "prompt own/3: returned 1.0 for 2 samples"),
        ("None", "prompt own/3: returned None for 2 samples"),
        ("[1.0, 'x']", r"prompt own/3, sample 1: returned 'x' \(str\)"),
    ],
)
def test_a_group_gets_one_score_a_sample(own, returned: str, message: str) -> None:
    source = f"def fn(completions) -> list[float]: return {returned}"
    with pytest.raises(UserError, match=message):
        Scorer([own(source)]).score([group("a", "b")])


def test_numpy_and_bool_scores_are_numbers(own) -> None:
    source = """
import numpy as np
def fn(completion): return {"a": np.float32(0.5), "b": True, "c": np.int64(3)}[completion]
"""
    (scores,) = Scorer([own(source)]).score([group("a", "b", "c")])
    assert scores.total_G == (0.5, 1.0, 3.0)
    assert all(type(score) is float for score in scores.total_G)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("(reply)", "asks for 'reply'; rewards get: answer, completion, config, group, metadata"),
        ("(completions)", "asks for 'completions', which only a reward of whole groups gets"),
        ("(completion) -> list[float]", r"asks for 'completion'; rewards of whole groups .*get:"),
        ("(completion, /)", "asks for 'completion'"),
        ("(*args)", "asks for 'args'"),
    ],
)
def test_unknown_arguments_are_found_at_once(own, signature: str, message: str) -> None:
    with pytest.raises(UserError, match=r"reward 'fn' " + message):
        Scorer([own(f"def fn{signature}: ...")])


def test_what_is_no_function_is_refused(own) -> None:
    with pytest.raises(UserError, match=r"reward 'fn': .*is no function"):
        Scorer([own("fn = 3")])


def test_two_rewards_of_one_name(own) -> None:
    one = own("def fn(completion): return 1.0")
    with pytest.raises(UserError, match="2 rewards are called 'fn'; give them a `name` each"):
        Scorer([one, one])
    other = Selected("rewards", one.type, RewardSettings(name="other"))
    (scores,) = Scorer([one, other]).score([group("a")])
    assert set(scores.by_reward) == {"fn", "other"}


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
    assert short_name(type) == name
