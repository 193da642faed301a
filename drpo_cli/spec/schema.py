"""The JSON Schema of the spec, for editors: completion, hover, and marks under what is wrong.

It accepts what `load` accepts, as far as a schema can say it: not the rules that join keys, nor
whether a file or a module is there. A table that selects a plugin says everything twice, on
purpose. The `if … then` conditions hold: where one fails, a validator names the very key. `anyOf`
refuses nothing, but it is where language servers look for keys to complete and to explain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic.errors import PydanticInvalidForJsonSchema

from drpo_cli import plugins
from drpo_cli.errors import UserError
from drpo_cli.plugins import KINDS
from drpo_cli.spec import presets
from drpo_cli.spec.model import CHOICES, LISTS, OPTIONAL, ORDER, SECTIONS, Choice
from drpo_cli.spec.tables import Node, first_paragraph, table_of

FILE = "run.schema.json"
"""Name of the schema beside a spec, as the templates' `#:schema ./run.schema.json` expects it."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DESCRIPTION = "A run of drpo. Relative paths count from the file's own folder."
OWN_CODE = r"^[^:]*\."
"""What the name of a plugin looks like that is the user's own: a file or a module."""


class Built(NamedTuple):
    """The schema, and a line for each installed plugin whose options it could not describe."""

    document: Node
    warnings: tuple[str, ...]

    def text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.document, indent=1, ensure_ascii=False) + "\n"


def build() -> Built:
    """The schema of a whole spec, with the options of built-in and installed plugins.

    Imports the plugins' files, as `load` does; built-in ones import nothing heavy.
    """
    builder = _Builder()
    document = builder.document()
    return Built(document, tuple(dict.fromkeys(builder.warnings)))


def write(path: Path) -> tuple[str, ...]:
    """Writes the schema, whole or not at all; returns its warnings.

    Raises UserError where nothing can be written.
    """
    built = build()
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(built.text(), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        if os.path.exists(partial):  # says no, rather than fail, where not even looking is allowed
            partial.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror}; choose another") from error
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
            "allOf": list(_defaults()),
            "$defs": self.definitions,
        }

    def _section(self, name: str) -> Node:
        if name in SECTIONS:
            table = table_of(SECTIONS[name])
            if name == "eval":
                table["properties"]["data"] = _ref("data")
            return table
        choice = CHOICES.get(name) or LISTS[name]
        selecting = self._selecting(name, choice)
        if name in LISTS:
            selecting["required"] = [choice.selector]
            selecting = {"type": "array", "items": selecting}
            if name not in OPTIONAL:
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
        selector = {
            "description": f"Which {kind.noun}: one of these, an installed module "
            '("package.module" or "package.module:name"), or a file beside the spec '
            '("./file.py:name").',
            "type": "string",
            "anyOf": [{"enum": names}, own],
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
        """A plugin's table; one whose options cannot be told takes any, as `load` will judge."""
        try:
            plugin = plugins.load(choice.kind, name)
            table = table_of(plugin.Config)
        except (UserError, PydanticInvalidForJsonSchema, RecursionError) as error:
            self.warnings.append(f"{KINDS[choice.kind].noun} {name!r} is left open: {error}")
            return _own_code(choice, {"const": name})
        meaning = first_paragraph(plugin.doc)
        table["properties"] = {choice.selector: {"const": name, "description": meaning}} | table[
            "properties"
        ]
        return {"title": name, **table, "description": meaning}


def _required(name: str) -> bool:
    if name in OPTIONAL:
        return False
    return name in LISTS or (name in SECTIONS and "required" in table_of(SECTIONS[name]))


def _preset() -> Node:
    meanings = [f"{name}: {presets.SOURCES[name]}" for name in presets.PRESETS]
    return {
        "description": "A baseline, whose keys lie under the file's own. " + ". ".join(meanings),
        "enum": [*presets.PRESETS, ""],
    }


def _defaults() -> Iterator[Node]:
    """Which plugin a section means that names none: the preset's, else the default.

    With a preset that names one, the section cannot name another.
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
    """The table of a plugin whose own options nobody knows: what its kind takes, and any more."""
    kind = KINDS[choice.kind]
    table = table_of(kind.base)
    described = selector | {"description": f"The {kind.noun} of your own."}
    if "pattern" in selector:
        described["examples"] = [f"./{kind.noun.split()[-1]}.py:{kind.entry}"]
    table["properties"] = {choice.selector: described} | table["properties"]
    table.pop("required", None)
    return {"title": "your own", **table, "additionalProperties": True}


def _ref(definition: str) -> Node:
    return {"$ref": f"#/$defs/{definition}"}
