"""json_schema: what it reads, which schemas it takes, and what it says of bad ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from drpo_cli.errors import UserError
from drpo_cli.rewards import json_schema

POINT = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}


def _fits(completion: str, metadata: dict[str, Any] | None = None, **options: object) -> float:
    config = json_schema.Config.model_validate(options)
    return json_schema.reward(config)(completion, metadata or {})


@pytest.mark.parametrize(
    ("read", "completion", "expected"),
    [
        ("whole", '{"x": 1} ', 1.0),
        ("whole", '{"x": NaN}', 0.0),
        ("whole", '{"x": 1}{"x": 1}', 0.0),
        ("whole", "", 0.0),
        ("whole", "[" * 10**5, 0.0),
        ("fenced", '```json\n{"x": "no"}\n```\nor\n```json\n{"x": 1}\n```', 1.0),
        ("fenced", '```json\n{"x": 1}\n```\nor\n```json\n{"x": "no"}\n```', 0.0),
        ("fenced", '```json\n{"x": 1}', 0.0),
        ("fenced", '```\n{"x": 1}\n```', 0.0),
        ("fenced", '{"x": 1}', 0.0),
        ("last_object", 'It is {"y": {"x": 0}, "x": 1}!', 1.0),
        ("last_object", 'It is {"x": 1}, {not {"y": 1} but {', 0.0),
        ("last_object", 'It is {"x": 1}, {not json} {', 1.0),
        ("last_object", "{" * 10**4, 0.0),
        ("last_object", '{"a":' * 2000, 0.0),
        ("last_object", '{"a":' * 2000 + '{"x": 1}', 1.0),
        ("last_object", "x = 1", 0.0),
    ],
)
def test_json_schema_reads(read: str, completion: str, expected: float) -> None:
    assert _fits(completion, inline_schema=POINT, read=read) == expected


def test_json_schema_from_a_file_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "point.json").write_text(json.dumps(POINT))
    config = json_schema.Config.model_validate(
        {"schema_file": "point.json"}, context={"folder": tmp_path}
    )
    reward = json_schema.reward(config)
    assert [reward('{"x": 1}', {}), reward('{"x": 1.5}', {})] == [1.0, 0.0]


def test_json_schema_of_the_row() -> None:
    rows: list[dict[str, Any]] = [{"s": {"type": "integer"}}, {"s": '{"type": "string"}'}]
    assert [_fits("4", row, schema_column="s") for row in rows] == [1.0, 0.0]


def test_json_schema_is_of_the_draft_that_it_names() -> None:
    tuples = {"items": [{"type": "integer"}]}  # how drafts up to 2019-09 describe a tuple
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **tuples}
    assert [_fits(text, inline_schema=old) for text in ("[4]", '["a"]')] == [1.0, 0.0]
    with pytest.raises(ValidationError, match="not a JSON schema: items: "):
        json_schema.Config(inline_schema=tuples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of inline_schema, schema_file and schema_column"),
        ({"inline_schema": {}, "schema_column": "s"}, "give one of inline_schema"),
        ({"inline_schema": {"type": "number?"}}, "not a JSON schema: type: 'number\\?'"),
        ({"schema_file": "none.json"}, "cannot read schema_file .*none.json"),
        ({"schema_file": "bad.json"}, "the schema is not JSON: Expecting"),
    ],
)
def test_json_schema_that_is_none(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{x: 1}")
    with pytest.raises(ValidationError, match=message):
        json_schema.Config.model_validate(options, context={"folder": tmp_path})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"t": 1}, "the row has no schema in 's'; its columns are t"),
        ({"s": "{"}, "column 's': the schema is not JSON"),
        ({"s": {"type": 3}}, "column 's': not a JSON schema: type"),
        ({"s": {"$ref": "#/nowhere"}}, "nowhere.*; define it in the schema itself"),
        ({"s": {"$ref": "http://127.0.0.1:9/s.json"}}, "s.json.*; define it in the schema"),
    ],
)
def test_json_schema_of_a_row_that_is_none(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _fits("4", row, schema_column="s")


def test_json_schema_counts_what_it_cannot_compare() -> None:
    nested = {"type": "array", "items": {"$ref": "#"}}
    reward = json_schema.reward(json_schema.Config(inline_schema=nested))
    texts = ["[[]]", "[4]", "[[", "[" * 900 + "]" * 900]
    assert [reward(text, {}) for text in texts] == [1.0, 0.0, 0.0, 0.0]
    assert reward.counts == {"no_json": 1, "too_deep": 1}
