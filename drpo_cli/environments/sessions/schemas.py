"""The schemas of the tools that an environment brings itself; it catches whatever that raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpo_cli.calls.failures import explain
from drpo_cli.environments.sessions.checks import RefusedError, plain
from drpo_cli.environments.sessions.contract import Environment
from drpo_cli.errors import UserError


def own_schemas(environment: Environment) -> tuple[dict[str, Any], ...]:
    """What the environment's `tools(config)` returns; nothing if it has none.

    Raises UserError, with file and line, where that fails or is not what chat templates take.
    """
    if not environment.own_tools:
        return ()
    where = f"{environment.place('tools')}: environment {environment.name!r}: its `tools`"
    try:
        found = environment.entry.tools(environment.config)  # type: ignore[attr-defined]
    except BaseException as error:
        why = explain(error, "environment", (__file__,))
        raise UserError(f"{where} failed: {why}") from error
    if not isinstance(found, list | tuple):
        raise UserError(f"{where} returned a {type(found).__name__}", "return a list of schemas")
    return tuple(_schema(one, where) for one in found)


def _schema(value: Any, where: str) -> dict[str, Any]:
    try:
        schema = plain(value, f"{where}: a schema")
    except RefusedError as refused:
        raise UserError(refused.failure.detail) from refused
    function = schema.get("function") if isinstance(schema, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(
            f"{where} returned a schema without the name of a function",
            'write {"type": "function", "function": {"name": …, "description": …, '
            '"parameters": …}}',
        )
    return dict(schema)
