"""Turns errors of pydantic into messages for someone who writes a spec."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

import drpo_cli
from drpo_cli.plugins import KINDS
from drpo_cli.settings.meanings import meanings
from drpo_cli.spec.model import CHOICES, LISTS, SECTIONS
from drpo_cli.spec.positions import KeyPath
from drpo_cli.spec.problems import Problem

_MUST = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "path_type": "a path in quotes",
    "is_instance_of": "a path in quotes",
    "tuple_type": "a list in [ ]",
    "list_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of at least {min_length} entries",
    "too_long": "a list of at most {max_length} entries",
}

REPLACED = {
    ("train", "logprob_chunk_tokens"): "was replaced by train.logits_mib, the size in MiB of a "
    "block of logits instead of tokens; remove it for the default of 8 MiB",
}
"""Section and key of an older version → what replaced it."""


@dataclass(frozen=True)
class MissingKey(Problem):
    """A key that has no default is missing."""


@dataclass(frozen=True)
class UnknownKey(Problem):
    """A key is not known; `meant` is the one that it may stand for."""

    meant: str | None = None


def problems_of(
    errors: Iterable[ErrorDetails], model: type[BaseModel], at: KeyPath, table: dict[str, Any]
) -> list[Problem]:
    """The errors of the table at path `at`, one problem per key: `what is wrong; what to do`."""
    by_key: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_written(error, table), []).append(error)
    return [_problem(found, model, at, key) for key, found in by_key.items()]


def _problem(
    errors: list[ErrorDetails], model: type[BaseModel], at: KeyPath, key: KeyPath
) -> Problem:
    path, kind = (*at, *key), errors[0]["type"]
    if kind == "extra_forbidden":
        what, meant = _unknown_key(key, model, at)
        return UnknownKey(path, what, on_key=True, meant=meant)
    holder = _model_at(model, key[:-1])
    name = str(key[-1]) if key else ""
    field = holder.model_fields.get(name) if holder else None
    if field is None and key and isinstance(key[-1], int):  # an entry of a list: use the list
        holder, names = _model_at(model, ()), [part for part in key if isinstance(part, str)]
        name = names[0] if len(names) == 1 else ""
        field = holder.model_fields.get(name) if holder else None
    meaning = _meaning(meanings(holder).get(name)) if holder and field else ""
    if kind == "missing":
        return MissingKey(path, f"is missing; it has no default, so give it a value{meaning}")
    return Problem(path, _explain(errors) + meaning)


def unknown_section(name: str) -> tuple[str, str | None]:
    """What is wrong with a top-level key that is not a section, and the section it may mean."""
    known = [*SECTIONS, *CHOICES, *LISTS, "preset"]
    home = _home_of(name)
    if home:
        return f"is not a section; it is a key of {home}: move it there", None
    hint, meant = _suggest(name, known, "sections")
    return f"is not a section; {hint}", meant


def _written(error: ErrorDetails, table: dict[str, Any]) -> KeyPath:
    """pydantic's location of an error, without the union members that it also names."""
    place: Any = table
    written: KeyPath = ()
    location = error["loc"]
    for depth, part in enumerate(location, 1):
        try:
            place = place[part]
        except (LookupError, TypeError):
            if depth == len(location) and error["type"] == "missing":
                return (*written, part)
        else:
            written += (part,)
    return written


def _explain(errors: list[ErrorDetails]) -> str:
    error = errors[0]
    kind, context = error["type"], error.get("ctx", {})
    value = _shown(error["input"])
    if all(e["type"] in _MUST for e in errors):
        musts = [_MUST[e["type"]].format(**_short(e.get("ctx", {}))) for e in errors]
        return f"is {value}; must be {' or '.join(dict.fromkeys(musts))}"
    if kind in ("value_error", "assertion_error"):
        return f"is {value}; {context['error']}"
    return f"is {value}; {error['msg'][0].lower()}{error['msg'][1:]}"


def _short(context: dict[str, Any]) -> dict[str, Any]:
    return {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}


def _unknown_key(key: KeyPath, model: type[BaseModel], at: KeyPath) -> tuple[str, str | None]:
    name, section = str(key[-1]), str(at[0])
    if len(key) > 1:
        inner = _model_at(model, key[:-1])
        hint, meant = _suggest(name, list(inner.model_fields) if inner else [])
        return f"is not a known key; {hint}", meant
    if what := REPLACED.get((section, name)):
        return what, None
    choice = CHOICES.get(section) or (LISTS["data"] if "data" in at else LISTS.get(section))
    known = [*model.model_fields, *([choice.selector] if choice else [])]
    home = _home_of(name)
    if home and not difflib.get_close_matches(name, known, n=1):
        return f"is not a key of [{section}]; it is a key of {home}: move it there", None
    hint, meant = _suggest(name, known)
    return f"is not a known key; {hint}", meant


def _model_at(model: type[BaseModel] | None, key: KeyPath) -> type[BaseModel] | None:
    """The model of the table at a path of keys and list indices inside `model`."""
    for part in key:
        if isinstance(part, int):
            continue  # the annotation of a list names the fields of its entries
        field = model.model_fields.get(part) if model else None
        model = _table_of(field.annotation) if field else None
    return model


def _table_of(annotation: Any) -> type[BaseModel] | None:
    """The model of the table, or of the list of tables, that a field holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _table_of(part))), None)


def _suggest(name: str, known: list[str], noun: str = "keys") -> tuple[str, str | None]:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?", close[0]
    hint = f"the {noun} are {', '.join(known)}" if known else "this table has no keys: remove it"
    return hint, None


def _home_of(name: str) -> str | None:
    """The section that has a key of this name."""
    if name == "preset":
        return "the file itself, above the first section"
    models: dict[str, type[BaseModel]] = {f"[{section}]": m for section, m in SECTIONS.items()}
    models |= {f"[{section}]": KINDS[c.kind].base for section, c in CHOICES.items()}
    models |= {f"[[{section}]]": KINDS[c.kind].base for section, c in LISTS.items()}
    return next((home for home, m in models.items() if name in m.model_fields), None)


def _meaning(docstring: str | None) -> str:
    """The first sentence of a field's docstring, in parentheses."""
    if not docstring:
        return ""
    sentence = " ".join(docstring.split()).partition(". ")[0]
    return f" ({sentence.rstrip('.')})"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def version_note(path: Path) -> str:
    """A note for errors in the spec of a run folder that another version may have written."""
    versions = path.parent / "versions.json"
    if path.name != "spec.toml" or not versions.is_file():
        return ""
    try:
        wrote = json.loads(versions.read_text(encoding="utf-8"))["packages"]["drpo"]
    except (OSError, ValueError, LookupError, TypeError):
        wrote = "of unknown version"
    return (
        f"{path.parent} is a run folder that drpo {wrote} wrote, and this is drpo "
        f"{drpo_cli.__version__}: correct the keys above in its spec.toml; the other files of "
        "the folder stay as they are"
    )
