"""`drpo reward list` and `drpo reward show`: which rewards exist, and how to use one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from drpo_cli import plugins
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.settings import RewardSettings, Settings
from drpo_cli.spec.reference import options, own_options
from drpo_cli.tools.preview.plugin_pages import as_toml, list_plugins, options_table, print_page
from drpo_cli.tools.tables import make_table, numbers

EXAMPLE_WIDTH = 60
OWN = "./file.py:name or package.module:name, a function of your own; see docs/extending.md"


def list_rewards() -> None:
    """Prints every reward with a name, and the first line of its docstring."""
    list_plugins("rewards", f"{OWN}\nMore about one reward: drpo reward show TYPE")


def show(name: str) -> None:
    """Prints the page of one reward. Raises UserError when it does not exist."""
    plugin = plugins.load("rewards", name)
    config = plugin.Config
    # Built without values: required options have none, and what a reward asks for needs none.
    reward = prepare(Selected("rewards", name, config.model_construct()))
    own = own_options(config, RewardSettings)
    shared = [option for option in config.model_fields if option not in own]
    examples = [one for one in plugin.examples if set(one[0]) <= reward.asks]
    parts: list[tuple[str, Table | str]] = [
        (name, (plugin.doc or "No docstring.") + "\n"),
        ("Asks for", _format_asks(reward) + "\n"),
        ("Options that every reward has", options_table(options(config, shared))),
        (
            "To paste into run.toml",
            as_toml("reward", name, options(config, own), _example_config(examples)),
        ),
    ]
    if examples:
        parts.insert(3, ("Examples", _examples_table(examples)))
    if own:
        parts.insert(2, ("Its options", options_table(options(config, own))))
    print_page(parts)


def _format_asks(reward: Reward) -> str:
    wants = ", ".join(sorted(reward.asks)) or "nothing"
    each = "a whole group at once" if reward.whole_group else "each completion"
    if reward.inline:
        where = "in the trainer's own process"
    elif reward.is_async:
        where = "in worker processes, several calls at a time (async)"
    else:
        where = "in worker processes, one call at a time in each"
    return f"  {wants}\n  called for {each}, {where}"


def _examples_table(examples: Iterable[tuple[Mapping[str, Any], Any]]) -> Table:
    table = make_table("arguments", *numbers(["score"]), leading=1)
    for arguments, score in examples:
        lines = [_format_argument(name, value) for name, value in arguments.items()]
        scores = score if isinstance(score, list | tuple) else [score]
        table.add_row("\n".join(filter(None, lines)), ", ".join(f"{one:g}" for one in scores))
    return table


def _format_argument(name: str, value: Any) -> str:
    if isinstance(value, Settings):
        given = value.model_dump(mode="json", exclude_unset=True)
        return ", ".join(f"{key} = {json.dumps(of)}" for key, of in given.items())
    text = repr(value)
    short = text if len(text) <= EXAMPLE_WIDTH else f"{text[: EXAMPLE_WIDTH - 1]}…"
    return f"{name}: {short}"


def _example_config(examples: Iterable[tuple[Mapping[str, Any], Any]]) -> dict[str, Any]:
    """The options of the first example that has any: values that are sure to be valid."""
    for arguments, _ in examples:
        if isinstance(config := arguments.get("config"), Settings):
            return config.model_dump(mode="json", exclude_none=True)
    return {}
