"""What options mean: the docstrings under the fields of a model.

They are read from the source where something shows them. pydantic's `use_attribute_docstrings`
would read them for every class that is imported, at the start of every command.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


def meanings(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstring of each field that has one, by the field's name, with those of base classes."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls is not BaseModel and issubclass(cls, BaseModel):
            found |= {name: text for name, text in _documented(cls) if name in model.model_fields}
    return found


def _documented(cls: type[Any]) -> Iterator[tuple[str, str]]:
    body = _find(cls)
    for field, below in pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, inspect.cleandoc(text)


def _find(cls: type[Any]) -> list[ast.stmt]:
    """The statements of a class; none where its source is not to be had."""
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        file = None
    named = [node for node in _classes(file or "") if node.name == cls.__name__]
    fields = set(inspect.get_annotations(cls))  # tells classes of one name apart
    for node in named:
        if {
            ast.unparse(one.target) for one in node.body if isinstance(one, ast.AnnAssign)
        } == fields:
            return node.body
    return []


@cache
def _classes(file: str) -> list[ast.ClassDef]:
    try:
        with open(file, encoding="utf-8") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
