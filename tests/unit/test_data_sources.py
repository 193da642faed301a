"""The built-in data sources, row by row, and the messages for mistakes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.data import arithmetic, csv, huggingface, jsonl, numbered, parquet, reasoning_gym
from drpo_cli.errors import UserError
from drpo_cli.types import Problem


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load_jsonl(path: Path, **options: Any) -> Sequence[Problem]:
    return jsonl.load(jsonl.Config.model_validate({"path": str(path), **options}))


def test_arithmetic_has_every_pair_once() -> None:
    rows = arithmetic.load(arithmetic.Config(digits=1))
    assert len(rows) == 100
    assert len({row.prompt for row in rows}) == 100
    for row in rows:
        a, b = str(row.prompt).rstrip("=").split("+")
        assert row.answer == f"{int(a) + int(b):02d}"


def test_arithmetic_pads_and_reverses() -> None:
    plain, reverse = (arithmetic.load(arithmetic.Config(reverse=flag)) for flag in (False, True))
    assert (plain[1234].prompt, plain[1234].answer) == ("12+34=", "046")
    assert (reverse[1234].prompt, reverse[1234].answer) == ("12+34=", "640")
    assert (plain[-1].prompt, plain[-1].answer) == ("99+99=", "198")
    assert [row.prompt for row in plain[:2]] == ["00+00=", "00+01="]


def test_numbered_rows_are_numbers() -> None:
    rows = numbered.load(numbered.Config(count=3, first=7))
    assert [(row.prompt, row.answer) for row in rows] == [("7", None), ("8", None), ("9", None)]
    assert [dict(row.metadata) for row in rows] == [{"number": 7}, {"number": 8}, {"number": 9}]


def test_jsonl_maps_columns(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "q"}]
    file = write(
        tmp_path / "a.jsonl",
        {"question": "1+1", "meta": {"gold": 2}, "level": "easy"},
        {"question": chat, "meta": {"gold": "4"}},
    )
    first, second = load_jsonl(file, fields={"prompt": "question", "answer": "meta.gold"})
    assert (first.prompt, first.answer) == ("1+1", "2")
    assert first.metadata["level"] == "easy"
    assert (second.prompt, second.answer) == (tuple(chat), "4")


def test_jsonl_column_names_may_have_dots(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"a.b": "dotted", "a": {"b": "nested"}})
    assert load_jsonl(file, fields={"prompt": "a.b"})[0].prompt == "dotted"


def test_jsonl_answer_is_optional_unless_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"prompt": "p", "x": 1})
    assert load_jsonl(file)[0].answer is None
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*no column 'y' for the answer.*prompt, x"):
        load_jsonl(file, fields={"answer": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n\n{"prompt": \n', r"a\.jsonl:3: not JSON"),
        ('{"prompt": "a"}\n["b"]\n', r"a\.jsonl:2: a list, not an object; put one JSON object"),
        ('{"text": "a"}\n', r"a\.jsonl:1: .*no column 'prompt'.*the columns are text"),
        ('{"prompt": 3}\n', r"a\.jsonl:1: the prompt is neither"),
        ('{"prompt": [{"role": "user"}]}\n', r"a\.jsonl:1: .* message 1 without 'content'"),
        ('{"prompt": "a", "answer": ["b"]}\n', r"a\.jsonl:1: the answer is a list"),
        ("\n", r"a\.jsonl: the file has no rows"),
    ],
)
def test_jsonl_mistakes_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        load_jsonl(tmp_path / "a.jsonl")


def test_jsonl_reads_a_byte_order_mark_and_names_bad_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n')
    assert load_jsonl(file)[0].prompt == "a"
    file.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1: not UTF-8"):
        load_jsonl(file)


def test_missing_files_are_found_by_the_config(tmp_path: Path) -> None:
    for config in (csv.Config, jsonl.Config, huggingface.Config):
        with pytest.raises(ValidationError, match="there is no file"):
            config.model_validate({"path": "./none.jsonl"}, context={"folder": tmp_path})


@pytest.mark.parametrize(
    ("module", "config", "package"),
    [
        ("reasoning_gym.factory", reasoning_gym.Config(task="chain_sum"), "reasoning-gym"),
        ("datasets", huggingface.Config(path="org/data"), "datasets"),
        ("datasets", parquet.Config.model_construct(path=Path("rows.parquet")), "datasets"),
    ],
)
def test_missing_library_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, module: str, config: object, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    source = plugins.load("data", type(config).__module__.rpartition(".")[2])
    with pytest.raises(UserError, match=f"pip install {package}"):
        source.entry(config)
