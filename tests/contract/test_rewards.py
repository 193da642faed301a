"""What every built-in reward must be; runs its examples."""

import pytest

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.rewards._score import Scorer
from drpo_cli.settings import RewardSettings

REWARDS = plugins.available("rewards")
EXAMPLES = [
    pytest.param(name, arguments, score, id=f"{name}-{i}")
    for name in REWARDS
    for i, (arguments, score) in enumerate(plugins.load("rewards", name).EXAMPLES)
]


@pytest.mark.parametrize(("name", "arguments", "score"), EXAMPLES)
def test_example(name: str, arguments: dict, score: float) -> None:
    assert plugins.load("rewards", name).reward(**arguments) == score


@pytest.mark.parametrize("name", REWARDS)
def test_reward_is_documented_and_asks_for_what_there_is(name: str) -> None:
    module = plugins.load("rewards", name)
    assert module.__doc__.splitlines()[0].endswith((".", ":"))
    assert len({score for _, score in module.EXAMPLES}) > 1, "examples show one score only"
    assert issubclass(module.Config, RewardSettings)
    for field, info in module.Config.model_fields.items():
        assert info.description, f"{name}.{field} has no docstring"
    config = module.EXAMPLES[0][0]["config"]
    Scorer([Selected("rewards", name, config)])  # raises for an argument that nobody gives
