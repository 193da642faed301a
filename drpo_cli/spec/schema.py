"""Builds the JSON Schema of the spec, for editors: completion, hover texts, and error marks.

The schema accepts what `load` accepts, except that it cannot express rules over several keys, nor
check that a file or module exists. A table that selects a plugin describes its options twice, on
purpose: validators get precise errors from the `if … then` conditions, and language servers look
for keys to complete and explain in `anyOf`, which refuses nothing.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import KINDS
from drpo_cli.settings import EvalSuiteSettings, Settings
from drpo_cli.settings.meanings import meanings
from drpo_cli.spec import presets
from drpo_cli.spec.model import (
    CHOICES,
    LISTS,
    OPTIONAL,
    ORDER,
    SECTIONS,
    SUITES,
    WITH_DATA,
    Choice,
)

FILE = "run.schema.json"
"""Name of the schema beside a spec, as the templates' `#:schema ./run.schema.json` expects it."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DESCRIPTION = "A run of drpo. Relative paths count from the file's own folder."
OWN_CODE = r"^[^:]*\."
"""Pattern of a name that stands for the user's own plugin: a file or a module."""

Node = dict[str, Any]
"""A part of a JSON Schema."""


REWARDED: Node = {
    "if": {"properties": {"environment": {"maxItems": 0}}},  # none, or an empty list
    "then": {"required": ["reward"], "properties": {"reward": {"minItems": 1}}},
}
"""Without an environment, whose own reward may be enough, there is a reward."""


class Built(NamedTuple):
    """The schema, and a warning for each plugin whose options it could not describe."""

    document: Node
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.document, indent=1, ensure_ascii=False) + "\n"


def build() -> Built:
    """Builds the schema of a whole spec, with the options of built-in and installed plugins.

    Imports the plugins, as `load` does; built-in ones import nothing heavy.
    """
    builder = _Builder()
    document = builder.document()
    return Built(document, tuple(dict.fromkeys(builder.warnings)))


def write(path: Path) -> tuple[str, ...]:
    """Writes the schema, completely or not at all; returns its warnings.

    Raises UserError if the file cannot be written.
    """
    built = build()
    if path.is_dir():
        raise UserError(f"{path} is a folder", f"name a file, such as {path / FILE}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(built.text(), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        if os.path.exists(partial):  # unlike Path.exists, false where the folder is unreadable
            partial.unlink()
        what = f"{path}: cannot be written: {error.strerror}"
        raise UserError(what, "choose another") from error
    return built.warnings


class _Builder:
    def __init__(self) -> None:
        self.definitions: Node = {}
        self.warnings: list[str] = []

    def document(self) -> Node:
        properties: Node = {presets.KEY: _preset()}
        properties |= {name: self._section(name) for name in ORDER}
        return {
            "$schema": DIALECT,
            "title": "drpo run.toml",
            "description": DESCRIPTION,
            "type": "object",
            "properties": properties,
            "required": [name for name in ORDER if _required(name)],
            "additionalProperties": False,
            "allOf": [*_defaults(), REWARDED],
            "$defs": self.definitions,
        }

    def _section(self, name: str) -> Node:
        if name in SECTIONS:
            table = table_of(SECTIONS[name])
            if name in WITH_DATA:
                table["properties"]["data"] = _ref("data")
            if name == SUITES[0]:
                suites = {"type": "array", "minItems": 1, "items": table_of(EvalSuiteSettings)}
                table["properties"][SUITES[1]] = suites
            return table
        choice = CHOICES.get(name) or LISTS[name]
        selecting = self._selecting(name, choice)
        if name in LISTS:
            selecting["required"] = [choice.selector]
            selecting = {"type": "array", "items": selecting}
            if _required(name):
                selecting["minItems"] = 1
        self.definitions[name] = selecting
        return _ref(name)

    def _selecting(self, section: str, choice: Choice) -> Node:
        """A table that selects a plugin."""
        kind = KINDS[choice.kind]
        names = plugins.names(choice.kind)
        for name in names:
            self.definitions[f"{section}.{name}"] = self._plugin(choice, name)
        own: Node = {"type": "string", "pattern": OWN_CODE}
        if dotted := [name for name in names if "." in name]:
            own["not"] = {"enum": dotted}
        self.definitions[f"{section}.own"] = _own_code(choice, own)
        conditions = [({"const": name}, f"{section}.{name}") for name in names]
        conditions.append((own, f"{section}.own"))
        one_of_these = "one of these, " if names else ""
        selector = {
            "description": f"Which {kind.noun}: {one_of_these}an installed module "
            '("package.module" or "package.module:name"), or a file beside the spec '
            '("./file.py:name").',
            "type": "string",
            "anyOf": [*([{"enum": names}] if names else []), own],
        }
        if choice.default:
            selector["default"] = choice.default
        return {
            "description": first_paragraph(kind.base.__doc__),
            "type": "object",
            "properties": {choice.selector: selector},
            "allOf": [
                {"if": _selects(choice.selector, which), "then": _ref(definition)}
                for which, definition in conditions
            ],
            "anyOf": [*(_ref(definition) for _, definition in conditions), True],
        }

    def _plugin(self, choice: Choice, name: str) -> Node:
        """A plugin's table; where its options cannot be described, it accepts any option."""
        try:
            plugin = plugins.load(choice.kind, name)
            table = table_of(plugin.Config)
        except (UserError, PydanticInvalidForJsonSchema, RecursionError) as error:
            self.warnings.append(f"{KINDS[choice.kind].noun} {name!r} accepts any option: {error}")
            return _own_code(choice, {"const": name})
        meaning = first_paragraph(plugin.doc)
        table["properties"] = {choice.selector: {"const": name, "description": meaning}} | table[
            "properties"
        ]
        return {"title": name, **table, "description": meaning}


def _required(name: str) -> bool:
    if name in OPTIONAL or name == "reward":  # see REWARDED
        return False
    return name in LISTS or (name in SECTIONS and "required" in table_of(SECTIONS[name]))


def _preset() -> Node:
    meanings = [f"{name}: {presets.SOURCES[name]}" for name in presets.PRESETS]
    return {
        "description": "A baseline: sets keys that the file leaves unset. " + ". ".join(meanings),
        "enum": [*presets.PRESETS, ""],
    }


def _defaults() -> Iterator[Node]:
    """The plugin of a section that names none: the preset's, else the default.

    Where the preset names one, the section cannot name another.
    """
    for section, choice in CHOICES.items():
        of_preset: dict[str, list[str]] = {}
        for preset, sections in presets.PRESETS.items():
            if name := sections.get(section, {}).get(choice.selector):
                of_preset.setdefault(name, []).append(preset)
        for name, several in of_preset.items():
            meant = {"properties": {section: _ref(f"{section}.{name}")}}
            yield {"if": _selects(presets.KEY, {"enum": several}), "then": meant}
        every = [preset for several in of_preset.values() for preset in several]
        silent = {"properties": {section: {"not": {"required": [choice.selector]}}}}
        default = {"properties": {section: _ref(f"{section}.{choice.default}")}}
        none = {"not": _selects(presets.KEY, {"enum": every})}
        yield {"if": {"allOf": [none, silent]}, "then": default}


def _selects(key: str, value: Node) -> Node:
    return {"properties": {key: value}, "required": [key]}


def _own_code(choice: Choice, selector: Node) -> Node:
    """The table of a plugin with unknown options: the options of its kind, and any other."""
    kind = KINDS[choice.kind]
    table = table_of(kind.base)
    described = selector | {"description": f"Your own {kind.noun}."}
    if "pattern" in selector:
        described["examples"] = [f"./{kind.noun.split()[-1]}.py:{kind.entry}"]
    table["properties"] = {choice.selector: described} | table["properties"]
    table.pop("required", None)
    return {"title": "your own", **table, "additionalProperties": True}


def _ref(definition: str) -> Node:
    return {"$ref": f"#/$defs/{definition}"}


# --- one table of options ---


def table_of(model: type[Settings]) -> Node:
    """The table of a model's options; other keys are not allowed."""
    schema = model.model_json_schema(schema_generator=_Toml)
    definitions = schema.pop("$defs", {})
    closed = {"description": first_paragraph(model.__doc__), "type": "object", "properties": {}}
    table: Node = closed | _inlined(schema, definitions) | {"description": closed["description"]}
    return table


class _Toml(GenerateJsonSchema):
    """pydantic's schema without null, which TOML does not have, and without invented titles."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Node:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Node:
        field = super().default_schema(schema)
        default = field.get("default")
        if isinstance(default, dict):
            field["default"] = {key: value for key, value in default.items() if value is not None}
        elif default is None:
            field.pop("default", None)
        return field

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> Node:
        table = super().model_schema(schema)
        for name, meaning in meanings(schema["cls"]).items():
            table["properties"][name].setdefault("description", meaning)
        return table


def _inlined(node: Any, definitions: Node) -> Any:
    """Replaces references by what they refer to; some language servers ignore texts next to one.

    Descriptions are put on one line, and the names of classes are removed.
    """
    if isinstance(node, list):
        return [_inlined(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]] | node
    whole = {}
    for key, value in node.items():
        if isinstance(value, dict) or key not in ("$ref", "title"):  # a dict: a property's name
            text = key == "description" and isinstance(value, str)
            whole[key] = " ".join(value.split()) if text else _inlined(value, definitions)
    return whole


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
