"""Describes a typed Python function to a model, and reads the arguments that the model wrote.

The description is what chat templates take as a tool: a name, what it does, and the JSON Schema of
its parameters. Templates print the schema as it is, or only its `type`, `enum`, `items`,
`properties` and `nullable`: so definitions are written out where they are used, and a type that may
be None is the type with `nullable`.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, NotRequired, get_origin, get_type_hints

import pydantic
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypedDict

from drpo_cli.environments.toolkit import docstrings
from drpo_cli.environments.toolkit.answers import ToolError
from drpo_cli.errors import UserError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_DEEPEST = 16  # of schemas in each other
_EXAMPLE = 'def search(query: str, limit: int = 5) -> str: """Searches the notes."""'
_TYPES = "use text, numbers, booleans, lists, dicts, Literal, Enum, dataclasses, pydantic models"
_SHORTEN = 200


class Described(NamedTuple):
    """A function as a tool.

    schema  {"type": "function", "function": {"name", "description", "parameters"}}
    read    checks and converts arguments; raises ToolError, in words for the model
    """

    schema: dict[str, Any]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]


def describe(
    function: Callable[..., Any], name: str, doc: str | None = None, method: bool = False
) -> Described:
    """Describes a function to a model, from its annotations and its docstring.

    doc     comes before the function's own docstring
    method  its first parameter is not the model's

    Raises UserError, with file and line, for what no model could call.
    """
    where = f"{place(function)}: tool {name!r}"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: a model cannot call this name", "use up to 64 of A-Z a-z 0-9 _ and -"
        )
    found = docstrings.read(function.__doc__)
    if doc:
        outer = docstrings.read(doc)
        found = docstrings.Docstring(outer.summary, found.parameters | outer.parameters)
    if not found.summary:
        raise UserError(
            f"{where} has no docstring, so the model would not know what it does",
            f"write what it does in one sentence: {_EXAMPLE}",
        )
    parameters = _parameters(function, where, method)
    fields: dict[str, Any] = {}
    for key, (kind, default) in parameters.items():
        _check(kind, key, where)
        words = found.parameters.get(key)
        kind = Annotated[kind, Field(description=words)] if words else kind
        fields[key] = kind if default is inspect.Parameter.empty else NotRequired[kind]
    adapter = _adapter(fields)
    whole = inline(adapter.json_schema())
    properties = {
        "type": "object",
        "properties": whole.get("properties", {}),
        "required": whole.get("required", []),
    }
    for key, (_, default) in parameters.items():
        if default not in (inspect.Parameter.empty, None):
            properties["properties"][key]["default"] = _as_json(default, key, where)
    return Described(
        function_schema(name, found.summary, properties),
        lambda arguments: _read(adapter, arguments, properties, name),
    )


def function_schema(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The form in which chat templates take a tool."""
    function = {"name": name, "description": description, "parameters": dict(parameters)}
    return {"type": "function", "function": function}


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema without definitions, titles and alternatives to null.

    Raises ValueError for one that contains itself, and for a reference to another document.
    """
    found = _inline(schema, schema, 0)
    assert isinstance(found, dict)
    return found


def place(function: Callable[..., Any]) -> str:
    """File and line of a function, for messages; its name where it has none."""
    try:
        inner: Any = inspect.unwrap(function)
        code = inner.__code__
    except (AttributeError, ValueError):
        return getattr(function, "__qualname__", repr(function))
    here = os.path.join(os.getcwd(), "")
    return f"{code.co_filename.removeprefix(here)}:{code.co_firstlineno}"


def _parameters(
    function: Callable[..., Any], where: str, method: bool
) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each parameter."""
    try:
        signature = inspect.signature(function)
        types = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: its annotations cannot be read: {error}",
            "use types that are defined, or imported, in its file",
        ) from error
    found = {}
    for key, parameter in list(signature.parameters.items())[method:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise UserError(
                f"{where}: a model cannot be shown what `{stars}{key}` takes",
                "name each parameter, with its type",
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"{where}: models give arguments by name", "remove the `/`")
        if key not in types:
            raise UserError(
                f"{where}: parameter {key!r} has no type", f"write it, as in: {_EXAMPLE}"
            )
        found[key] = (types[key], parameter.default)
    return found


def _check(kind: Any, key: str, where: str) -> None:
    """Raises UserError for a type that no JSON Schema, or no chat template, can express."""
    try:
        inline(TypeAdapter(kind).json_schema())
    except (PydanticUserError, TypeError, NameError) as error:
        plain = isinstance(kind, type) and get_origin(kind) is None
        name = kind.__name__ if plain else str(kind)
        raise UserError(
            f"{where}: parameter {key!r} has type {name}, which has no JSON Schema", _TYPES
        ) from error
    except ValueError as error:
        raise UserError(
            f"{where}: parameter {key!r}: {error}", "chat templates need a schema that ends"
        ) from error


def _adapter(fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    """Reads arguments: a dictionary, since fields of a model could not have every name."""
    make: Any = TypedDict  # for type checkers it takes nothing but literals
    arguments = make("arguments", fields)
    arguments.__pydantic_config__ = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    return TypeAdapter(arguments)


def _as_json(default: Any, key: str, where: str) -> Any:
    try:
        return to_jsonable_python(default)
    except PydanticSerializationError as error:
        raise UserError(
            f"{where}: the default of {key!r} has no JSON: {error}", "use a plain value, or None"
        ) from error


def _inline(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError("a schema contains itself, or is nested too deeply")
    if isinstance(schema, list):
        return [_inline(one, root, depth) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    if "$ref" in schema:
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return _inline(dict(_look_up(schema["$ref"], root)) | own, root, depth + 1)
    left_out = {"$defs", "definitions", "$schema", "$id", "title", "discriminator"}
    found = {
        key: {name: _inline(one, root, depth + 1) for name, one in value.items()}
        if key in ("properties", "patternProperties") and isinstance(value, Mapping)
        else value
        if key in ("default", "enum", "const", "examples", "required")
        else _inline(value, root, depth + 1)
        for key, value in schema.items()
        if key not in left_out
    }
    if "const" in found:
        found["enum"] = [found.pop("const")]
    found = _without_null(found)
    return {key: found[key] for key in ("type", "description") if key in found} | found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """`T or null` as T with `nullable`, and without its default, which is null."""
    kinds = schema.get("type")
    if isinstance(kinds, list) and "null" in kinds and len(kinds) == 2:
        return schema | {"type": next(kind for kind in kinds if kind != "null"), "nullable": True}
    choices = schema.get("anyOf")
    if not isinstance(choices, list) or {"type": "null"} not in choices:
        return schema
    own = {key: value for key, value in schema.items() if key != "anyOf"}
    if own.get("default", 0) is None:
        del own["default"]
    others = [choice for choice in choices if choice != {"type": "null"}]
    return (others[0] if len(others) == 1 else {"anyOf": others}) | own | {"nullable": True}


def _look_up(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    first, *path = reference.split("/")
    for name in path:
        name = name.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    if first != "#" or not isinstance(found, Mapping):
        raise ValueError(f"the schema refers to {reference!r}, which it does not contain")
    return found


def _read(
    adapter: TypeAdapter[dict[str, Any]],
    arguments: Mapping[str, Any],
    properties: Mapping[str, Any],
    name: str,
) -> dict[str, Any]:
    try:
        return adapter.validate_python(dict(arguments))
    except pydantic.ValidationError as error:
        known = list(properties["properties"])
        problems = [_explain(dict(one), known) for one in error.errors(include_url=False)]
        takes = ", ".join(_usage(key, properties) for key in known) or "no arguments"
        raise ToolError(f"{'; '.join(problems)}. {name} takes: {takes}.") from error


def _explain(error: dict[str, Any], known: list[str]) -> str:
    first, *rest = error["loc"] or ("",)
    path = str(first) + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in rest)
    if error["type"] == "missing":
        return f"argument {path!r} is missing"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first), known, n=1) if not rest else []
        return f"there is no argument {path!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    given = repr(error["input"])
    given = given if len(given) <= _SHORTEN else f"{given[:_SHORTEN]}…"
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"argument {path!r}: {message}, not {given}"


def _usage(key: str, properties: Mapping[str, Any]) -> str:
    schema = properties["properties"][key]
    kind = "one of " + ", ".join(map(repr, schema["enum"])) if "enum" in schema else None
    words = kind or schema.get("type") or "any"
    return f"{key} ({words}{'' if key in properties['required'] else ', optional'})"
