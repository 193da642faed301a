"""Text that is not valid Unicode, files that are not UTF-8, and JSON and CSV of odd sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from drpo_cli import plugins
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem
from support.data import PLAIN


def load(kind: str, folder: Path, content: bytes | str, **options: Any) -> Sequence[Problem]:
    path = folder / f"a.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    plugin = plugins.load("data", kind)
    rows: Sequence[Problem] = plugin.entry(
        plugin.Config.model_validate({"path": str(path), **options})
    )
    return rows


SURROGATES = [
    ('{"prompt": "a\\ud800b", "answer": "1"}', "the prompt"),
    ('{"prompt": "q", "answer": "\\udfff"}', "the answer"),
    ('{"prompt": "q", "c": [{"d": "\\ud800"}]}', "the column 'c'"),
    ('{"prompt": "q", "\\ud800": 1}', "the metadata"),
    ('{"prompt": "q", "c": {"\\ud800": 1}}', "the column 'c'"),
    ('{"prompt": [{"role": "user", "content": "\\ud800"}]}', "the prompt"),
    ('{"prompt": [{"role": "user", "content": "x", "name": "\\ud800"}]}', "the prompt"),
]


@pytest.mark.parametrize(("line", "part"), SURROGATES)
def test_a_lone_surrogate_is_refused_with_the_line_or_replaced(
    tmp_path: Path, line: str, part: str
) -> None:
    text = f'{{"prompt": "\\ud83d\\ude00"}}\n{line}\n'
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {part} has a lone surrogate \(U\+D"):
        load("jsonl", tmp_path, text)
    first, second = load("jsonl", tmp_path, text, invalid_unicode="replace")
    assert first.prompt == "😀"
    assert "�" in repr(second)
    repr(second).encode()


def test_own_sources_and_templates_may_have_lone_surrogates_too() -> None:
    with pytest.raises(UserError, match="data own/0: the answer has a lone surrogate"):
        Source("own", SourceSettings(), [Problem("q", "\ud800")])[0]
    config = SourceSettings(template="{{ '\\ud800' }}{{ prompt }}")
    with pytest.raises(UserError, match="data own/7: the text has a lone surrogate"):
        Prompts(PLAIN, 9).make(Row(Problem("q"), config, "own/7"))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_files_that_are_not_utf_8(tmp_path: Path, kind: str) -> None:
    text = {"jsonl": '{"prompt": "q"}\n{"prompt": "é"}\n', "csv": "prompt\né\n"}[kind]
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(UserError, match=rf"a\.{kind}: the text is UTF-(16|32).*save the file"):
            load(kind, tmp_path, text.encode(encoding))
    latin = text.encode("latin-1")
    with pytest.raises(UserError, match=rf"a\.{kind}:2: not UTF-8 text: byte 0xe9; save the file"):
        load(kind, tmp_path, latin)
    assert load(kind, tmp_path, latin, invalid_unicode="replace")[-1].prompt == "�"


def test_a_parquet_file_with_invalid_bytes_names_the_row(tmp_path: Path) -> None:
    column = pa.array([b"ok", b"a\xffb"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    rows = load("parquet", tmp_path, (tmp_path / "a.parquet").read_bytes())
    with pytest.raises(UserError, match=r"a\.parquet, row 1: cannot be read: 'utf-8' codec"):
        rows[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "prompt": "b"}', "the line has the key 'prompt' twice; rename one"),
        ('{"prompt": "a", "c": {"d": 1, "d": 1}}', "the line has the key 'd' twice"),
        pytest.param('{"prompt": "a", "c": ' + "[" * 20000, "nested too deeply", id="deep"),
        pytest.param(
            '{"prompt": "a", "c": ' + "1" * 5000 + "}",
            "the line has a number of more than 4,300 digits; write it as text",
            id="digits",
        ),
    ],
)
def test_json_that_python_reads_differently(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl:1: {message}"):
        load("jsonl", tmp_path, line + "\n")


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    (row,) = load("csv", tmp_path, "prompt,answer\n" + "a" * 200_000 + ",1\n")
    assert len(row.prompt) == 200_000
