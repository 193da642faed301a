"""`drpo reward list` and `drpo reward show`: which rewards exist, and how to use one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w
from rich.table import Column, Table
from rich.text import Text

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.settings import RewardSettings, Settings
from drpo_cli.spec.reference import REQUIRED, Option, options, own_options
from drpo_cli.tools.tables import make_console, make_grid, make_table, numbers

EXAMPLE_WIDTH = 60
OWN = "./file.py:name or package.module:name, a function of your own; see docs/extending.md"


def list_rewards() -> None:
    """Prints every reward with a name, and the first line of its docstring."""
    grid = make_grid()
    for name in plugins.available("rewards"):
        grid.add_row(Text(name, "bold"), Text(_summary(name)))
    for name, value in plugins.installed("rewards").items():
        grid.add_row(Text(name, "bold"), Text(f"{_summary(name)}  ({value})"))
    console = make_console()
    console.print(grid)
    console.print(f"\n{OWN}\nMore about one reward: drpo reward show TYPE")


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
        ("Options that every reward has", _options_table(options(config, shared))),
        ("To paste into run.toml", _as_toml(name, options(config, own), _example_config(examples))),
    ]
    if examples:
        parts.insert(3, ("Examples", _examples_table(examples)))
    if own:
        parts.insert(2, ("Its options", _options_table(options(config, own))))
    console = make_console()
    for heading, content in parts:
        console.print(Text(heading, "bold"))
        # only the last part is pasted: its lines must not be wrapped
        console.print(content, soft_wrap=heading == parts[-1][0])


def _summary(name: str) -> str:
    try:
        doc = plugins.load("rewards", name).doc or "No docstring."
    except UserError as error:  # a broken package does not hide the other rewards
        return f"does not load: {error}"
    return doc.partition("\n")[0]


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


def _options_table(found: Iterable[Option]) -> Table:
    table = make_table(
        Column("key", no_wrap=True),
        Column("value", max_width=24),
        Column("default", max_width=18),
        "meaning",
    )
    for option in found:
        value, default = option.value.replace("`", ""), option.default.replace("`", "")
        table.add_row(option.name, value, default, option.meaning)
    return table


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


def _as_toml(name: str, own: Iterable[Option], example: Mapping[str, Any]) -> str:
    """A table with the required options; its other options are commented out."""
    lines = ["[[reward]]", tomli_w.dumps({"type": name}).strip()]
    for option in sorted(own, key=lambda option: option.default != REQUIRED):
        if option.default != REQUIRED:
            default = option.default.strip("`")
            lines.append(f"# {option.name} = {default if default != 'not set' else '…'}")
        elif option.name in example:
            lines.append(tomli_w.dumps({option.name: example[option.name]}).strip())
        else:
            lines.append(f"{option.name} = …  # {option.value.replace('`', '')}")
    return "\n".join(lines)
