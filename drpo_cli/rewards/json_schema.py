"""1 where the completion has JSON that fits a schema, else 0.

The schema is checked when the spec is read, and the JSON by the `jsonschema` library, as JSON
Schema Draft 2020-12 unless the schema's own `$schema` says otherwise. `format` is ignored, and
nothing is downloaded: a `$ref` must point into the schema. JSON is read strictly: `NaN`, `Infinity`
and numbers that a float does not hold (`1e999`) are not JSON. Some kinds of 0 are counted
separately: `no_json` (nothing that parses), `too_deep` (too deeply nested to compare), `too_large`
(numbers too large to compare) and `timed_out` (more than a second of CPU time).

A schema that asks for little accepts little (`{}`): name the keys in `required`, and set
`additionalProperties = false` and lengths.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from drpo_cli.errors import UserError
from drpo_cli.rewards._time import limited
from drpo_cli.settings import ParserSettings, SpecPath

IMPORTS = ("jsonschema",)


class Config(ParserSettings):
    """Options of the schema: give one of `inline_schema`, `schema_file` and `schema_column`."""

    inline_schema: dict[str, Any] | None = None
    """The schema itself, as a table: `[reward.inline_schema]`."""
    schema_file: SpecPath | None = None
    """A JSON file that holds the schema."""
    schema_column: Annotated[str, Field(min_length=1)] | None = None
    """Column with each row's own schema, as JSON text or as a table. Text is safer: in a data set,
    tables may get the keys of other rows."""
    read: Literal["whole", "fenced", "last_object"] = "whole"
    """What is read as JSON: the whole completion; its last ```` ```json ```` block; or the last
    `{ … }` in it that parses, which lets a model try as often as it likes."""

    @model_validator(mode="after")
    def _check_schema(self) -> Config:
        given = [self.inline_schema, self.schema_file, self.schema_column]
        if sum(one is not None for one in given) != 1:
            raise ValueError("give one of inline_schema, schema_file and schema_column")
        try:
            if self.inline_schema is not None:
                _validator(json.dumps(self.inline_schema))
            elif self.schema_file is not None:
                _validator(_file_text(self.schema_file))
        except (UserError, TypeError) as error:  # TypeError: a TOML date is not JSON
            raise ValueError(str(error)) from error
        return self


class reward:
    """`counts` has the completions without JSON."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.counts: Counter[str] = Counter()
        self._shared = None
        if config.inline_schema is not None:
            self._shared = _validator(json.dumps(config.inline_schema))
        elif config.schema_file is not None:
            self._shared = _validator(_file_text(config.schema_file))

    def __call__(self, completion: str, metadata: Mapping[str, Any]) -> float:
        """1.0 or 0.0. Raises UserError for a row whose schema is missing or wrong."""
        from referencing.exceptions import Unresolvable

        validator = self._shared or self._of_row(metadata)
        reason = "no_json"
        try:
            with limited():
                value = _READERS[self._config.read](completion)
                reason = "too_deep"
                return float(validator.is_valid(value))
        except TimeoutError:
            reason = "timed_out"
        except (ValueError, RecursionError):
            pass
        except ArithmeticError:  # such as a division of 400 digits by a float
            reason = "too_large"
        except Unresolvable as error:
            raise UserError(f"the schema: {error}", "define it in the schema itself") from error
        self.counts[reason] += 1
        return 0.0

    def _of_row(self, metadata: Mapping[str, Any]) -> Any:
        column = self._config.schema_column
        schema = metadata.get(str(column))
        if schema is None:
            raise UserError(
                f"the row has no schema in {column!r}; its columns are {', '.join(metadata)}"
            )
        text = schema if isinstance(schema, str) else json.dumps(schema)
        try:
            return _validator(text)
        except UserError as error:
            raise UserError(f"column {column!r}: {error}") from error


def _file_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read schema_file {path}: {error}") from error


@lru_cache(maxsize=1024)
def _validator(text: str) -> Any:
    """The validator of the schema in `text`. Raises UserError for a wrong schema."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
        from jsonschema_specifications import REGISTRY
    except ImportError as error:
        raise UserError(str(error), "install it with: pip install jsonschema") from error
    try:
        schema = _loads(text)
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except ValueError as error:
        raise UserError(f"the schema is not JSON: {error}") from error
    except SchemaError as error:
        where = "/".join(str(part) for part in error.path)
        raise UserError(f"not a JSON schema: {where or 'schema'}: {error.message}") from error
    return kind(schema, registry=REGISTRY)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is larger than a float can be")
    return number


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _loads(text: str) -> Any:
    return _DECODER.decode(text)


def _fenced(text: str) -> Any:
    _, opened, after = text.rpartition("```json")
    _, _, body = after.partition("\n")
    inside, closed, _ = f"\n{body}".partition("\n```")
    if not (opened and closed):
        raise ValueError("it has no complete ```json block")
    return _loads(inside)


def _last_object(text: str) -> Any:
    found, at = None, text.find("{")
    while at >= 0:
        try:
            found, after = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            after = at + 1
        at = text.find("{", after)
    if found is None:
        raise ValueError("it has no object")
    return found


_READERS = {"whole": _loads, "fenced": _fenced, "last_object": _last_object}

_POINT = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}
# Not validated: that would import the library for those who only ask for the options
_WHOLE = Config.model_construct(inline_schema=_POINT)
_FENCED = Config.model_construct(inline_schema=_POINT, read="fenced")
_LAST = Config.model_construct(inline_schema=_POINT, read="last_object")
_ROW = {"schema": '{"const": 4}'}
EXAMPLES = [
    ({"completion": ' {"x": 1}\n', "metadata": {}, "config": _WHOLE}, 1.0),
    ({"completion": '{"x": "1"}', "metadata": {}, "config": _WHOLE}, 0.0),
    ({"completion": 'Here: {"x": 1}', "metadata": {}, "config": _WHOLE}, 0.0),
    ({"completion": 'So:\n```json\n{"x": 1}\n```', "metadata": {}, "config": _FENCED}, 1.0),
    ({"completion": '{"x": "?"}, no: {"x": 1}.', "metadata": {}, "config": _LAST}, 1.0),
    ({"completion": "4", "metadata": _ROW, "config": Config(schema_column="schema")}, 1.0),
]
