"""The options of a section or plugin as JSON Schema: what pydantic says of them, as TOML has it."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from drpo_cli.settings import Settings

Node = dict[str, Any]
"""A part of a JSON Schema."""


def table_of(model: type[Settings]) -> Node:
    """A closed table of a model's options."""
    schema = model.model_json_schema(schema_generator=_Toml)
    definitions = schema.pop("$defs", {})
    closed = {"description": first_paragraph(model.__doc__), "type": "object", "properties": {}}
    table: Node = closed | _inlined(schema, definitions) | {"description": closed["description"]}
    return table


class _Toml(GenerateJsonSchema):
    """pydantic's schema as TOML needs it: there is no null, and titles are not made up."""

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


def _inlined(node: Any, definitions: Node) -> Any:
    """Without references, beside which some language servers overlook a description.

    Descriptions come on one line, and the names of classes are left out.
    """
    if isinstance(node, list):
        return [_inlined(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]] | node
    whole = {}
    for key, value in node.items():
        if isinstance(value, dict) or key not in ("$ref", "title"):  # a property may be so called
            text = key == "description" and isinstance(value, str)
            whole[key] = " ".join(value.split()) if text else _inlined(value, definitions)
    return whole


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
