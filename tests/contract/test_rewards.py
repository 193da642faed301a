"""What every built-in reward must be; runs its examples."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import Call, Reward, prepare
from drpo_cli.rewards.grading.score import ReadyReward
from drpo_cli.settings import RewardSettings
from drpo_cli.settings.meanings import meanings

REWARDS = plugins.available("rewards")
UNIT_TESTS = Path(__file__).parents[1] / "unit"
EXAMPLES = [
    pytest.param(name, arguments, score, id=f"{name}-{i}")
    for name in REWARDS
    for i, (arguments, score) in enumerate(plugins.load("rewards", name).examples)
]


def prepared(name: str, config: RewardSettings | None = None) -> Reward:
    """The reward, with options that need not be whole where none are given."""
    options = config or plugins.load("rewards", name).Config.model_construct()
    return prepare(Selected("rewards", name, options))  # raises for an argument nobody gives


@pytest.mark.parametrize(("name", "arguments", "expected"), EXAMPLES)
def test_example(name: str, arguments: dict[str, Any], expected: float | list[float]) -> None:
    reward = prepared(name, arguments["config"])
    scores = expected if isinstance(expected, list) else [expected]
    asked = {key: value for key, value in arguments.items() if key != "config"}
    call, ready = Call(asked, tuple(range(len(scores))), seed=0), ReadyReward(reward)
    outcome = asyncio.run(ready.outcome_async(call)) if reward.is_async else ready.outcome(call)
    assert outcome.failure is None
    assert list(outcome.scores) == scores


@pytest.mark.parametrize("name", REWARDS)
def test_reward_is_documented_and_asks_for_what_there_is(name: str) -> None:
    plugin = plugins.load("rewards", name)
    assert plugin.doc.splitlines()[0].endswith((".", ":"))
    assert issubclass(plugin.Config, RewardSettings)
    assert plugin.Config.model_config["extra"] == "forbid"
    assert meanings(plugin.Config).keys() == plugin.Config.model_fields.keys()
    assert prepared(name).asks


@pytest.mark.parametrize("name", REWARDS)
def test_reward_has_examples_or_says_what_it_needs(name: str) -> None:
    plugin = plugins.load("rewards", name)
    if plugin.needs:
        assert not plugin.examples, f"{name} has examples: does it need {plugin.needs}?"
        tests = UNIT_TESTS / f"test_rewards_{name}.py"
        assert re.search(rf"rewards import .*\b{name}\b", tests.read_text())
    else:
        assert len({repr(score) for _, score in plugin.examples}) > 1, "they show one score only"


@pytest.mark.parametrize("name", REWARDS)
def test_inline_reward_waits_for_nothing(name: str) -> None:
    reward, plugin = prepared(name), plugins.load("rewards", name)
    if reward.inline:
        assert not reward.is_async
        assert not plugin.imports and not plugin.needs
    else:
        assert name not in ("exact_match", "length", "format", "repetition")
