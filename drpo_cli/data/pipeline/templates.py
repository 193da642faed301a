"""Sandboxed Jinja templates over the columns of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from drpo_cli.chat_templates import naming
from drpo_cli.data.pipeline.values import as_text
from drpo_cli.errors import UserError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

HIDDEN = "answer"
"""The column that no template gets."""
PROMPT_ALONE = "{{ prompt }}"
_EXPRESSION = re.compile(r"\{\{((?:(?!\}\}|\{\{).)*)\}\}", re.DOTALL)


def render(template: str, prompt: str, columns: Mapping[str, Any], where: str) -> str:
    """Fills the template with `prompt` and the row's other columns.

    Raises UserError, naming `where`, for a column that the row lacks or whose value is missing, and
    for a template that fails.
    """
    if template == PROMPT_ALONE:
        return prompt
    text: str = _fill(_compile(template), {**columns, "prompt": prompt}, where)
    return text


def evaluate(template: str, columns: Mapping[str, Any], where: str) -> Any:
    """What the template gives for a row: text, or the value itself if it is one `{{ … }}`."""
    return _fill(_compile(template, keep_type=True), columns, where)


class _Compiled(NamedTuple):
    """A template, and the columns that it asks for."""

    fill: Callable[[Mapping[str, Any]], Any]
    names: frozenset[str]


def _fill(compiled: _Compiled, columns: Mapping[str, Any], where: str) -> Any:
    from jinja2 import Undefined, UndefinedError

    given = {name: _column(name, value) for name, value in columns.items() if name != HIDDEN}
    try:
        with naming(f"data {where}: the template fails"):
            filled = compiled.fill(given)
            return str(filled) if isinstance(filled, Undefined) else filled  # str() raises
    except UserError as error:
        if isinstance(error.__cause__, UndefinedError):
            _explain(compiled.names, columns, given, where)
        raise


def _explain(
    names: frozenset[str], columns: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> None:
    """Raises UserError for names of the template that have no value."""
    missing = sorted(names - given.keys())
    if HIDDEN in missing:
        raise UserError(
            f"data {where}: the template asks for the answer, which it never gets: the model "
            "would read it in the prompt",
            "remove it from the template",
        )
    if missing:
        raise UserError(
            f"data {where}: the template asks for {', '.join(map(repr, missing))}, but the row "
            f"has no such column; its columns are {', '.join(sorted(given))}"
        )
    if empty := sorted(name for name in names if columns.get(name, "") is None):
        raise UserError(
            f"data {where}: the template asks for {', '.join(map(repr, empty))}, which is missing "
            "in this row",
            f"fill it in, or write {{{{ {empty[0]} | default('…') }}}}",
        )


def _column(name: str, value: Any) -> Any:
    """The value as a template gets it: a missing one raises where it is used, 3.0 is 3."""
    if value is None:
        return _missing_type()(name=name)
    return int(value) if isinstance(value, float) and value.is_integer() else value


@lru_cache
def _missing_type() -> Any:
    from jinja2 import StrictUndefined, Undefined

    class Missing(StrictUndefined):
        """A column without a value: false, equal to none, and an error where it is printed."""

        __slots__ = ()
        __bool__ = Undefined.__bool__  # type: ignore[assignment]
        __hash__ = Undefined.__hash__  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:  # type: ignore[override]
            return other is None or isinstance(other, Missing)

        def __ne__(self, other: object) -> bool:  # type: ignore[override]
            return not self == other

    return Missing


def _finalize(value: Any) -> Any:
    from jinja2 import UndefinedError

    if value is None:
        raise UndefinedError("it prints a value that is missing")
    return as_text(value) if isinstance(value, float) else value


@lru_cache
def sandbox() -> ImmutableSandboxedEnvironment:
    """The environment of every template of a spec."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_finalize
    )
    made.tests["none"] = lambda value: value is None or isinstance(value, _missing_type())
    return made


@lru_cache
def _compile(template: str, keep_type: bool = False) -> _Compiled:
    from jinja2 import meta

    names = meta.find_undeclared_variables(sandbox().parse(template)) - sandbox().globals.keys()
    whole = _EXPRESSION.fullmatch(template) if keep_type else None
    if whole is None:
        return _Compiled(sandbox().from_string(template).render, frozenset(names))
    fill = sandbox().compile_expression(whole[1], undefined_to_none=False)
    return _Compiled(fill, frozenset(names))
