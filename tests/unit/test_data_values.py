"""Values of rows: missing ones stay missing, and the others become text or plain JSON."""

import enum
import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from drpo_cli.data import csv, jsonl, parquet
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt
from support.data import PLAIN

pd: Any = pytest.importorskip("pandas")


def row_of(problem: Any, **options: Any) -> Row:
    """The only row of a user's own source."""
    return Source("own", SourceSettings(**options), [problem])[0]


def made(**answer: Any) -> Any:
    return row_of(Problem("q", **answer)).problem


class Level(enum.IntEnum):
    HARD = 3


class Color(enum.StrEnum):
    RED = "red"


ANSWERS = [
    *((nothing, None) for nothing in (None, math.nan, Decimal("nan"), Decimal("sNaN"))),
    *((nothing, None) for nothing in (pd.NA, pd.NaT, np.float32("nan"), np.datetime64("NaT"))),
    ("nan", "nan"),
    ("", ""),
    (True, "True"),
    (5, "5"),
    (3.0, "3"),
    (-0.0, "0"),
    (1e22, "1" + 22 * "0"),
    (2.5, "2.5"),
    (np.float32(0.1), "0.1"),
    (np.float64(4), "4"),
    (np.int64(5), "5"),
    (np.str_("x"), "x"),
    (Level.HARD, "3"),
    (Color.RED, "red"),
    (Decimal("1.10"), "1.10"),
    (Decimal("1E+2"), "100"),
    (Fraction(3, 4), "3/4"),
    (date(2024, 2, 29), "2024-02-29"),
    (datetime(2024, 2, 29), "2024-02-29"),
    (pd.Timestamp("2024-02-29"), "2024-02-29"),
    (np.datetime64("2024-02-29T01", "ns"), "2024-02-29T01:00:00"),
    (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00+00:00"),
]


@pytest.mark.parametrize(("value", "text"), ANSWERS)
def test_an_answer_is_missing_or_the_text_that_a_person_writes(value: Any, text: str) -> None:
    answer = made(answer=value).answer
    assert answer == text
    assert type(answer) is type(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a"], "is a list; make it a string or number"),
        (b"a", "is a bytes"),
        (timedelta(1), "is a timedelta"),
        (np.array([1, 2]), "is a list"),
        (math.inf, "is infinite"),
        (Decimal("-Infinity"), "is infinite"),
        pytest.param(10**5000, "more than 4,300 digits", id="long"),
        (Decimal("1E+5000"), "more than 4,300 digits"),
    ],
)
def test_an_answer_that_is_no_text_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"data own/0: the answer .*{message}"):
        made(answer=value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *((nothing, "is missing; write one") for nothing in (None, math.nan, pd.NA)),
        ("", "is empty"),
        (" \n\u00a0", "is empty"),
        (5, "is neither a string nor a list of chat messages"),
    ],
)
def test_a_prompt_that_is_missing_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"data own/0: the prompt {message}"):
        row_of(Problem(value))


def test_files_keep_missing_answers_missing(tmp_path: Path) -> None:
    lines = ["NaN", "null", '"nan"', "3.0", "0.5"]
    text = "".join(f'{{"prompt": "q", "answer": {answer}}}\n' for answer in lines)
    (tmp_path / "a.jsonl").write_text(text)
    rows = jsonl.load(jsonl.Config(path=tmp_path / "a.jsonl"))
    assert [row.answer for row in rows] == [None, None, "nan", "3", "0.5"]
    (tmp_path / "a.csv").write_text("prompt,answer\nq,nan\nq,\n")
    assert [r.answer for r in csv.load(csv.Config(path=tmp_path / "a.csv"))] == ["nan", None]
    columns = {
        "whole": pa.array([3.0, math.nan, None]),
        "narrow": pa.array([0.1, 0.5, None], pa.float32()),
        "exact": pa.array([Decimal("1.10"), None, Decimal("2.00")]),
        "day": pa.array([date(2024, 2, 29), None, None]),
        "deep": pa.array([{"x": [0.1]}, None, None], pa.struct([("x", pa.list_(pa.float32()))])),
    }
    pq.write_table(pa.table({"prompt": ["q"] * 3, **columns}), tmp_path / "a.parquet")

    def read(answer: str) -> list[Problem]:
        fields = {"answer": answer}
        config = {"path": str(tmp_path / "a.parquet"), "fields": fields}
        return list(parquet.load(parquet.Config.model_validate(config)))

    expected = {
        "whole": ["3", None, None],
        "narrow": ["0.1", "0.5", None],
        "exact": ["1.10", None, "2.00"],
        "day": ["2024-02-29", None, None],
    }
    assert {name: [row.answer for row in read(name)] for name in expected} == expected
    metadata = read("whole")[0].metadata
    assert (metadata["narrow"], metadata["deep"]) == (0.1, {"x": [0.1]})


METADATA = [
    ((1, (2,)), [1, [2]]),
    (
        {1: "a", None: "b", 1.5: "c", (1, 2): "d"},
        {"1": "a", "null": "b", "1.5": "c", "[1, 2]": "d"},
    ),
    ({Color.RED: Level.HARD}, {"red": 3}),
    (math.nan, None),
    (np.int64(3), 3),
    (np.float64(0.5), 0.5),
    (np.bool_(True), True),
    (np.arange(5000), list(range(5000))),
    (np.array([[0.1, np.nan]], np.float32), [[0.1, None]]),
    (np.array(["2024-01-01"], "M8[ns]"), ["2024-01-01"]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a", 1}), ["a", "b", 1]),
    (Decimal("1.10"), "1.10"),
    (Fraction(1, 3), "1/3"),
    (timedelta(1), "1 day, 0:00:00"),
    (b"\xff", "b'\\xff'"),
    (-0.0, -0.0),
    (10**40, 10**40),
]


@pytest.mark.parametrize(("value", "plain"), METADATA)
def test_metadata_is_what_json_gives_back(value: Any, plain: Any) -> None:
    got = made(metadata={"c": value}).metadata["c"]
    assert repr(got) == repr(plain) == repr(json.loads(json.dumps(got)))
    again = made(metadata={"c": got}).metadata["c"]
    assert repr(again) == repr(got)


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: "a", "1": "b"}, "has two keys that are '1' as text"),
        (nested(101), "has more than 100 levels"),
        (CYCLE, "has more than 100 levels, or contains itself"),
        ([object()], "has a object, which JSON cannot hold"),
        pytest.param(10**5000, "more than 4,300 digits", id="long"),
        (1j, "has a complex"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"data own/0: the column 'c' .*{message}"):
        made(metadata={"c": value})


def test_metadata_is_a_table() -> None:
    with pytest.raises(UserError, match="data own/0: the metadata is a list; make it a dict"):
        made(metadata=[1])
    with pytest.raises(UserError, match="data own/0: the metadata has two keys that are '1'"):
        made(metadata={1: 1, "1": 1})


def render(template: str, **columns: Any) -> str:
    row = row_of(Problem("q", metadata=columns), template=template)
    prompt = Prompts(PLAIN, 64).make(row)
    assert isinstance(prompt, Prompt)
    return prompt.text


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan"), pd.NaT])
@pytest.mark.parametrize(
    "use", ["{{ c }}", "{{ 'is ' ~ c }}", "{{ c | string }}", "{{ '%s' % c }}"]
)
def test_a_template_refuses_a_missing_column(value: Any, use: str) -> None:
    with pytest.raises(UserError, match="data own/0: the template asks for 'c', which is missing"):
        render(f"{{{{ prompt }}}} {use}", c=value)


def test_a_template_may_ask_whether_a_column_is_missing() -> None:
    for template in (
        "{% if c %}{{ c }}{% endif %}",
        "{% if c is not none %}{{ c }}{% endif %}",
        "{% if c != none %}{{ c }}{% endif %}",
        "{{ c | default('') }}",
    ):
        template += "{{ prompt }}"
        assert (render(template, c=None), render(template, c="x")) == ("q", "xq")
    with pytest.raises(UserError, match="data own/0: the template fails: it prints a value that"):
        render("{{ c.d }}{{ prompt }}", c={"d": None})


def test_a_template_prints_numbers_as_a_person_writes_them() -> None:
    text = render("{{ a }} {{ a ~ '' }} {{ b }} {{ c[0] }} {{ a / 2 }}", a=3.0, b=2.5, c=[4.0])
    assert text == "3 3 2.5 4 1.5"
