"""What every built-in tracker must be; tests/unit/test_trackers_clients.py runs them."""

import inspect

import pytest

from drpo_cli import plugins
from drpo_cli.settings import TrackerSettings
from drpo_cli.settings.meanings import meanings

TRACKERS = plugins.available("trackers")


@pytest.mark.parametrize("name", TRACKERS)
def test_tracker_is_documented_and_has_what_is_called(name: str) -> None:
    plugin = plugins.load("trackers", name)
    assert plugin.doc.splitlines()[0].endswith((".", ":"))
    assert "https://" in plugin.doc
    assert issubclass(plugin.Config, TrackerSettings)
    assert meanings(plugin.Config).keys() == plugin.Config.model_fields.keys()
    plugin.Config()  # every option has a default
    assert isinstance(plugin.client, str)
    wanted = {
        "__init__": ["self", "config", "run"],
        "log": ["self", "step", "values"],
        "alert": ["self", "step", "title", "text"],
        "close": ["self"],
    }
    for method, arguments in wanted.items():
        assert list(inspect.signature(getattr(plugin.entry, method)).parameters) == arguments


@pytest.mark.parametrize("name", TRACKERS)
def test_tracker_has_no_option_for_a_key(name: str) -> None:
    fields = plugins.load("trackers", name).Config.model_fields
    assert not [field for field in fields if "key" in field or "token" in field or "pass" in field]
