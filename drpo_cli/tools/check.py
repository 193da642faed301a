"""`drpo check`: reports what is wrong with a spec, or shows the run that it makes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drpo_cli import suites
from drpo_cli.console import open_console
from drpo_cli.devices import BY_DEVICE, NAMES, resolve
from drpo_cli.environments.sessions import contract as sessions
from drpo_cli.errors import EXIT_USER_ERROR, UserError
from drpo_cli.plan import Plan, describe, make_plan, regime, rules
from drpo_cli.plugins import Selected
from drpo_cli.rewards.grading import contract
from drpo_cli.settings import EnvironmentSettings, RewardSettings
from drpo_cli.spec import Spec, SpecError, load
from drpo_cli.spec.dumping import Setting, document, settings_of
from drpo_cli.spec.excerpt import count, show_all
from drpo_cli.spec.problems import Diagnostic, Problem, key_text

NARROW = 60
"""Below this many columns, a value is printed under its label instead of next to it."""


def check(path: Path, overrides: Sequence[str], world: int, diff: bool, as_json: bool) -> int:
    """Checks a spec for `world` processes and prints its run; returns the exit code.

    Raises SpecError for a wrong spec, or with `as_json` prints the problems.
    """
    try:
        checks = (*rules(world), parts_can_be_called, tools_exist, suites.find_errors)
        spec = load(path, overrides, checks)
        plan = make_plan(spec, world)
    except SpecError as error:
        if not as_json:
            raise
        _write([*error.problems, *error.warnings], None, error.note)
        return EXIT_USER_ERROR
    if as_json:
        _write(spec.warnings, resolved(plan), "")
        return 0
    console = open_console()
    settings = settings_of(spec)
    _print_rows(console, describe(plan))
    if diff:
        _print_settings(console, [one for one in settings if one.differs])
    changed = sum(one.origin is not None for one in settings)
    more = "" if diff else "; --diff shows what differs"
    console.print(f"{changed} keys set, {len(settings) - changed} default{more}")
    sys.stdout.flush()  # before the warnings on stderr
    show_all(open_console(sys.stderr), spec.warnings)
    doubts = f": {count((), spec.warnings, str(path))}" if spec.warnings else ""
    console.print(f"{path} is valid{doubts}", soft_wrap=True)
    return 0


def parts_can_be_called(spec: Spec) -> Iterator[Problem]:
    """A rule: rewards and environments take only arguments that they get."""
    yield from _can_be_called("reward", spec.reward, RewardSettings, contract.prepare)
    yield from _can_be_called(
        "environment", spec.environment, EnvironmentSettings, sessions.prepare
    )


def tools_exist(spec: Spec) -> Iterator[Problem]:
    """A rule: tools are there, and can be described to a model.

    Servers are not started, and no sandbox is looked for: what runs the spec may be elsewhere.
    """
    if not spec.environment:
        return
    from drpo_cli.environments.toolkit.toolbox import Toolbox  # slow to import

    for index, one in enumerate(spec.environment):
        try:
            Toolbox(one.config.tools, spec.folder, start=False)
        except UserError as error:
            yield Problem(("environment", index, "tools"), str(error))


def _can_be_called(
    section: str,
    several: Sequence[Selected[Any]],
    base: type[RewardSettings | EnvironmentSettings],
    prepare: Callable[[Selected[Any]], object],
) -> Iterator[Problem]:
    for index, selected in enumerate(several):
        if not selected.type:
            continue  # its plugin does not load, which is reported already
        name = getattr(selected.config, "name", None)
        try:
            prepare(replace(selected, config=base(name=name)))
        except UserError as error:
            yield Problem((section, index, "type"), str(error))


def resolved(plan: Plan) -> dict[str, Any]:
    """The run as JSON data: every key, the arithmetic, and the keys that differ from defaults."""
    spec = plan.spec
    arithmetic = {
        "run_folder": str(plan.run_folder),
        "processes": plan.world,
        "prompts_per_rank": plan.prompts_per_rank,
        "sequences_per_step": plan.sequences_per_step,
        "sequences_per_update": plan.sequences_per_update,
        "sequences_per_update_per_rank": plan.sequences_per_update_per_rank,
        "total_updates": plan.total_updates,
        "context": plan.context,
        "padded": plan.rows.padded,
    }
    changed = {
        key_text(one.key): {"value": one.value, "default": one.default, "from": one.set_by}
        for one in settings_of(spec)
        if one.differs
    }
    return {
        "spec": document(spec),
        "arithmetic": arithmetic,
        "preset": spec.preset,
        "trust_region": regime(spec),
        "by_device": {
            kind: resolve(spec.train, kind, spec.model.dtype).model_dump(include=BY_DEVICE)
            for kind in NAMES
        },
        "changed": changed,
    }


def _write(problems: Sequence[Diagnostic], run: dict[str, Any] | None, note: str) -> None:
    found = {
        "valid": run is not None,
        "problems": [asdict(one) for one in problems],
        "note": note or None,
        "resolved": run,
    }
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n")


def _print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    if console.width < NARROW:
        for label, value in rows:
            console.print(Text(label, "bold"))
            console.print(Text(f"  {value}"))
        return
    table = Table.grid(padding=(0, 2))
    for label, value in rows:
        table.add_row(Text(label, "bold"), value)
    console.print(table)


def _print_settings(console: Console, settings: Sequence[Setting]) -> None:
    rows = []
    for one in settings:
        default = "required" if one.required else _shown(one.default)
        rows.append((key_text(one.key), _shown(one.value), default, one.set_by))
    if console.width < NARROW:
        for key, value, default, set_by in rows:
            console.print(Text(f"{key} = {value} (default {default}; {set_by})"))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("key", "value", "default", "from"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json", exclude_none=True) if dump else str(value)
