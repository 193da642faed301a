"""What every built-in environment must be; plays its examples in real processes."""

import re
from pathlib import Path
from typing import Any

import pytest

from drpo_cli import plugins
from drpo_cli.environments.sessions import checks
from drpo_cli.environments.sessions.contract import Environment, prepare
from drpo_cli.plugins import Selected
from drpo_cli.settings import EnvironmentSettings
from drpo_cli.settings.meanings import meanings
from drpo_cli.types import Action, Row, Step
from support.environments import opened, result

ENVIRONMENTS = plugins.available("environments")
UNIT_TESTS = Path(__file__).parents[1] / "unit"
EXAMPLES = [
    pytest.param(name, *example, id=f"{name}-{i}")
    for name in ENVIRONMENTS
    for i, example in enumerate(plugins.load("environments", name).examples)
]


def prepared(name: str, config: EnvironmentSettings) -> Environment:
    return prepare(Selected("environments", name, config))


@pytest.mark.parametrize(("name", "options", "row", "actions", "steps"), EXAMPLES)
def test_example(
    name: str, options: dict[str, Any], row: Row, actions: list[str], steps: list[Step]
) -> None:
    config = plugins.load("environments", name).Config.model_validate(options)
    with opened(prepared(name, config)) as pool:
        session = pool.open(0, row, seed=0)
        assert result(session.first).messages
        for action, step in zip(actions, steps, strict=True):
            expected = checks.answer(step, name)
            found = result(session.step(Action(action)))
            assert found._replace(seconds=0.0) == expected
        session.close()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_is_documented_and_can_be_called(name: str) -> None:
    plugin = plugins.load("environments", name)
    assert plugin.doc.splitlines()[0].endswith((".", ":"))
    assert issubclass(plugin.Config, EnvironmentSettings)
    assert plugin.Config.model_config["extra"] == "forbid"
    assert meanings(plugin.Config).keys() == plugin.Config.model_fields.keys()
    shown = plugin.Config.model_validate(plugin.examples[0][0]) if plugin.examples else None
    assert prepared(name, shown or plugin.Config.model_construct()).name == name


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_has_examples_or_says_what_it_needs(name: str) -> None:
    plugin = plugins.load("environments", name)
    if plugin.needs:
        assert not plugin.examples, f"{name} has examples: does it need {plugin.needs}?"
        tests = UNIT_TESTS / f"test_environment_{name}.py"
        assert re.search(rf"\b{name}\b", tests.read_text())
    else:
        assert plugin.examples
