"""`drpo reward list` and `drpo reward show`: what rewards there are, and how one is used."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading.contract import Reward, prepare
from drpo_cli.settings import RewardSettings, Settings
from drpo_cli.spec.reference import REQUIRED, Option, options, own_options

EXAMPLE_WIDTH = 60
OWN = "./file.py:name or package.module:name, a function of your own; see docs/extending.md"


def list_rewards() -> None:
    """Prints every reward that a name selects, with the first line of its docstring."""
    table = Table.grid(padding=(0, 2))
    for name in plugins.available("rewards"):
        table.add_row(Text(name, "bold"), Text(_summary(name)))
    for name, value in plugins.installed("rewards").items():
        table.add_row(Text(name, "bold"), Text(f"{_summary(name)}  ({value})"))
    console = _console()
    console.print(table)
    console.print(f"\n{OWN}\nMore of one: drpo reward show TYPE")


def show(name: str) -> None:
    """Prints all there is to know of one reward. Raises UserError when there is no such one."""
    module = plugins.load("rewards", name)
    config: type[Settings] = getattr(module, "Config", RewardSettings)
    # Required options have no value yet, and what a reward asks for does not depend on them.
    reward = prepare(Selected("rewards", name, config.model_construct()))
    own = own_options(config, RewardSettings)
    shared = [option for option in config.model_fields if option not in own]
    examples = [one for one in getattr(module, "EXAMPLES", ()) if set(one[0]) <= reward.asks]
    console = _console()
    console.print(Text(name, "bold"))
    console.print((inspect.getdoc(module) or "No docstring.") + "\n")
    _heading(console, "Asks for")
    console.print(_asks(reward) + "\n")
    if own:
        _heading(console, "Its options")
        console.print(_options(options(config, own)))
    _heading(console, "Options that every reward takes")
    console.print(_options(options(config, shared)))
    if examples:
        _heading(console, "Examples")
        console.print(_examples(examples))
    _heading(console, "To paste into run.toml")
    table = _toml(name, list(options(config, own)), _example_config(examples))
    console.print(table, soft_wrap=True)


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, "bold"))


def _summary(name: str) -> str:
    try:
        doc = inspect.getdoc(plugins.load("rewards", name)) or "No docstring."
    except UserError as error:  # one broken package does not hide the other rewards
        return f"does not load: {error}"
    return doc.partition("\n")[0]


def _asks(reward: Reward) -> str:
    wants = ", ".join(sorted(reward.asks)) or "nothing"
    each = "a whole group at once" if reward.whole_group else "each completion"
    if reward.inline:
        where = "in the trainer's own process"
    elif reward.is_async:
        where = "in worker processes, several calls at a time (async)"
    else:
        where = "in worker processes, one call at a time in each"
    return f"  {wants}\n  called for {each}, {where}"


def _options(found: Iterable[Option]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=True)
    table.add_column("key", no_wrap=True)
    table.add_column("value", max_width=24)
    table.add_column("default", max_width=18)
    table.add_column("meaning")
    for option in found:
        value, default = option.value.replace("`", ""), option.default.replace("`", "")
        table.add_row(option.name, value, default, option.meaning)
    return table


def _examples(examples: Iterable[tuple[Mapping[str, Any], float]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=True, leading=1)
    table.add_column("arguments")
    table.add_column("score", justify="right")
    for arguments, score in examples:
        given = [_argument(name, value) for name, value in arguments.items()]
        if isinstance(score, list | tuple):
            shown = ", ".join(f"{one:g}" for one in score)
        else:
            shown = f"{score:g}"
        table.add_row("\n".join(line for line in given if line), shown)
    return table


def _argument(name: str, value: Any) -> str:
    if isinstance(value, Settings):
        given = value.model_dump(mode="json", exclude_unset=True)
        return ", ".join(f"{key} = {json.dumps(of)}" for key, of in given.items())
    text = repr(value)
    short = text if len(text) <= EXAMPLE_WIDTH else f"{text[: EXAMPLE_WIDTH - 1]}…"
    return f"{name}: {short}"


def _example_config(examples: Iterable[tuple[Mapping[str, Any], float]]) -> dict[str, Any]:
    """Options as the first example that has some gives them: values that are sure to be valid."""
    for arguments, _ in examples:
        if isinstance(config := arguments.get("config"), Settings):
            return config.model_dump(mode="json", exclude_none=True)
    return {}


def _toml(name: str, own: Iterable[Option], example: Mapping[str, Any]) -> str:
    """A table with what is required, and the rest of its own options commented out."""
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
