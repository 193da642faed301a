"""Sources with named columns: csv, parquet and huggingface, what they share, and mistakes."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from pydantic import ValidationError

from drpo_cli import plugins
from drpo_cli.data import csv, huggingface
from drpo_cli.data.pipeline.values import to_json
from drpo_cli.errors import UserError
from drpo_cli.types import Problem

CHAT = [{"role": "user", "content": "What is 1 + 1?"}]
FIELDS = {"prompt": "question", "answer": "gold"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(type: str, folder: Path, **options: Any) -> Sequence[Problem]:
    source = plugins.load("data", type)
    rows: Sequence[Problem] = source.entry(
        source.Config.model_validate(options, context={"folder": folder})
    )
    return rows


def load_csv(folder: Path, text: str | bytes, **options: Any) -> Sequence[Problem]:
    (folder / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return load("csv", folder, path="a.csv", **options)


def write_parquet(path: Path, **columns: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_csv_maps_columns_and_reads_all_as_text(tmp_path: Path) -> None:
    text = 'question,gold,level\r\n"a, ""b""\nc",1,easy\r\n\r\nd,,\r\n'
    first, second = load_csv(tmp_path, b"\xef\xbb\xbf" + text.encode(), fields=FIELDS)
    assert (first.prompt, first.answer, first.metadata) == ('a, "b"\nc', "1", {"level": "easy"})
    assert (second.prompt, second.answer, second.metadata) == ("d", None, {"level": ""})


def test_csv_takes_another_delimiter(tmp_path: Path) -> None:
    (row,) = load_csv(tmp_path, "prompt\tanswer\na, b\t1\n", delimiter="\t")
    assert (row.prompt, row.answer) == ("a, b", "1")
    for wrong in ("", ",,", '"', "\n"):
        with pytest.raises(ValidationError, match="delimiter"):
            csv.Config.model_validate({"path": str(tmp_path / "a.csv"), "delimiter": wrong})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv: the file is empty; its first line names the columns"),
        ("\n\n", r"a\.csv: the file is empty"),
        ("prompt,answer\n", r"a\.csv: the file has no rows, only a header"),
        (
            "1+1,2\n2+2,4\n",
            r"a\.csv:1: there is no column 'prompt' .*columns are 1\+1, 2; .* put a header above",
        ),
        ("\nprompt,b,b\n", r"a\.csv:2: two columns are called 'b'; rename one"),
        ("prompt,answer\na,1\nb\n", r"a\.csv:3: 1 fields, but the header has 2 \(prompt, answer\)"),
        ('prompt,answer\n"a\nb",1\nc,2,3\n', r"a\.csv:4: 3 fields, but the header has 2"),
        ('prompt,answer\na,1\n"b\nc\n', r"a\.csv:3: the record that starts here is not CSV: unexp"),
        ('prompt,answer\n"a"b,1\n', r"a\.csv:2: the record that starts here is not CSV: ',' expec"),
        (
            'prompt,answer\n"a\n\nb",1\n,2\n',
            r"a\.csv:5: the prompt is empty; write one, or remove the row",
        ),
        (b"prompt,answer\na,1\n\xff,2\n", r"a\.csv:3: not UTF-8 text: .* save the file as UTF-8"),
    ],
)
def test_csv_mistakes_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_csv(tmp_path, text)


def test_csv_says_which_columns_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.csv:1: .*'gold' for the answer.* prompt, answer; name"
    ):
        load_csv(tmp_path, "prompt,answer\na,1\n", fields={"answer": "gold"})


@pytest.mark.parametrize("path", ["rows", "rows/*.parquet", "rows/**/*.parquet"])
def test_parquet_reads_folders_and_patterns_in_order(tmp_path: Path, path: str) -> None:
    for name in ("c", "a", "b"):
        write_parquet(tmp_path / "rows" / f"{name}.parquet", question=[f"{name}0", f"{name}1"])
    rows = load("parquet", tmp_path, path=path, fields={"prompt": "question"})
    assert [row.prompt for row in rows] == ["a0", "a1", "b0", "b1", "c0", "c1"]


def test_parquet_file_names_are_taken_as_they_are(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows [v1]" / "a*.parquet", prompt=["star"])
    write_parquet(tmp_path / "rows [v1]" / "ab.parquet", prompt=["other"])
    (row,) = load("parquet", tmp_path, path="rows [v1]/a*.parquet")
    assert row.prompt == "star"


def test_parquet_rows_name_their_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows" / "a.parquet", prompt=["x", "y"])
    write_parquet(tmp_path / "rows" / "b.parquet", prompt=["z", ""])
    rows = load("parquet", tmp_path, path="rows")
    assert rows[2].prompt == "z"
    with pytest.raises(UserError, match=r"b\.parquet, row 1: the prompt is empty"):
        rows[3]


def test_parquet_mistakes_name_the_file(tmp_path: Path) -> None:
    good = write_parquet(tmp_path / "rows" / "a.parquet", prompt=["x"] * 9, gold=[1] * 9)
    with pytest.raises(UserError, match=r"a\.parquet: there is no column 'q' .* are prompt, gold"):
        load("parquet", tmp_path, path="rows", fields={"prompt": "q"})
    with pytest.raises(ValidationError, match=r"no parquet file .*/none-\*; name a file, a folder"):
        load("parquet", tmp_path, path="none-*")
    bad = tmp_path / "rows" / "b.parquet"
    bad.write_bytes(good.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"b\.parquet: not a whole parquet file"):
        load("parquet", tmp_path, path="rows")
    whole = good.read_bytes()
    bad.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read: "):
        load("parquet", tmp_path, path="rows")
    write_parquet(bad, prompt=["x"], answer=[1])
    with pytest.raises(UserError, match=r"b\.parquet: the columns are prompt, answer, but those "):
        load("parquet", tmp_path, path="rows")
    write_parquet(bad, prompt=["x"], gold=[[{"deep": "y"}]])
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read: .*cast"):
        load("parquet", tmp_path, path="rows")


DAPO = {
    "data_source": "math_dapo",
    "prompt": CHAT,
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4"},
}


@pytest.fixture(params=["jsonl", "parquet", "huggingface", "huggingface streaming"])
def dapo(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, dict[str, Any]]:
    """A source whose two rows have the columns of DAPO-Math-17k: its type, folder and options."""
    type, _, streaming = request.param.partition(" ")
    if type == "jsonl":
        (tmp_path / "rows.jsonl").write_text(2 * (json.dumps(DAPO) + "\n"))
        return type, tmp_path, {"path": "rows.jsonl"}
    write_parquet(tmp_path / "rows.parquet", **{key: [value] * 2 for key, value in DAPO.items()})
    options = {"path": "rows.parquet"}
    return type, tmp_path, options | ({"streaming": True, "rows": 2} if streaming else {})


def test_tables_have_chat_prompts_and_nested_columns(
    dapo: tuple[str, Path, dict[str, Any]],
) -> None:
    type, folder, options = dapo
    rows = load(type, folder, **options, fields={"answer": "reward_model.ground_truth"})
    assert len(rows) == 2
    assert rows[1].prompt == tuple(CHAT)
    assert rows[1].answer == "2"
    assert rows[1].metadata == {key: DAPO[key] for key in DAPO if key != "prompt"}


def test_tables_say_what_a_nested_column_has(dapo: tuple[str, Path, dict[str, Any]]) -> None:
    type, folder, options = dapo
    message = r"no column 'reward_model.gold'.*columns of 'reward_model' are ground_truth, style; "
    with pytest.raises(UserError, match=message):
        load(type, folder, **options, fields={"answer": "reward_model.gold"})
    with pytest.raises(UserError, match=r"columns of 'ability' are none"):
        load(type, folder, **options, fields={"answer": "ability.gold"})


def test_metadata_can_be_recorded(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2)
    write_parquet(tmp_path / "a.parquet", prompt=["x"], when=[{"days": [day]}], raw=[b"\xff"])
    (row,) = load("parquet", tmp_path, path="a.parquet")
    assert json.loads(json.dumps(to_json(row.metadata))) == {
        "when": {"days": ["2026-01-02"]},
        "raw": "b'\\xff'",
    }


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    columns: dict[str, list[Any]] = {
        "question": ["a", "b", "c"],
        "gold": [1, 2, 3],
        "level": ["x", "y", "z"],
    }
    return write_parquet(tmp_path / "rows" / "train.parquet", **columns).parent


@pytest.mark.parametrize("path", ["rows", "rows/train.parquet"])
def test_huggingface_reads_local_parquet(rows: Path, path: str) -> None:
    found = load("huggingface", rows.parent, path=path, fields=FIELDS, split="train[1:]")
    assert [(row.prompt, row.answer, row.metadata) for row in found] == [
        ("b", "2", {"level": "y"}),
        ("c", "3", {"level": "z"}),
    ]


def test_huggingface_mistakes(rows: Path) -> None:
    def mistake(message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            load("huggingface", rows.parent, **{"path": "rows", "fields": FIELDS, **options})

    mistake(r"row 0: there is no column 'prompt'.*question, gold, level", fields={})
    mistake(r"no column 'solution' for the answer", fields=FIELDS | {"answer": "solution"})
    mistake(r"split 'test': .*test", split="test")
    mistake(r"split 'test': .*test", split="test", streaming=True, rows=1)
    mistake(
        r"fields.answer_regex finds nothing in the answer", fields=FIELDS | {"answer_regex": "x"}
    )
    (rows.parent / "notes.txt").write_text("x")
    mistake(r"notes\.txt: this format cannot be read; use \.parquet, ", path="notes.txt")
    (rows.parent / "bad.jsonl").write_text('{"question": "a"}\n{"question": \n')
    mistake(r"bad\.jsonl.*JSON parse error", path="bad.jsonl")


def test_an_expression_finds_the_answer_in_its_column(tmp_path: Path) -> None:
    text = "So it is\n#### 4\nNo:\n#### 5 "
    write_parquet(tmp_path / "rows.parquet", prompt=["2+2?"], answer=[text])
    for pattern, expected in ((r"####\s*(.+)", "5"), (r"#### \d", "#### 5"), ("No", "No")):
        fields = {"answer_regex": pattern}
        (row,) = load("huggingface", tmp_path, path="rows.parquet", fields=fields)
        assert row.answer == expected
    with pytest.raises(ValidationError, match="is not a regular expression: missing"):
        load("huggingface", tmp_path, path="rows.parquet", fields={"answer_regex": "("})


def test_columns_of_wrong_answers_make_a_question_with_choices(tmp_path: Path) -> None:
    fields = {"answer": "right", "wrong": ["one", "two"]}
    rows: dict[str, list[Any]] = {
        "prompt": ["a", "b", "c", "d"],
        "right": [1] * 4,
        "one": [2] * 4,
        "two": [3] * 4,
    }
    write_parquet(tmp_path / "rows.parquet", **rows)
    found = load("huggingface", tmp_path, path="rows.parquet", fields=fields)
    letters = [row.answer for row in found]
    for row in found:
        assert row.metadata["choices"]["ABC".index(str(row.answer))] == "1"
        assert sorted(row.metadata["choices"]) == ["1", "2", "3"]
    assert len(set(letters)) > 1, "the right one is not always in the same place"
    assert letters == [
        row.answer for row in load("huggingface", tmp_path, path="rows.parquet", fields=fields)
    ]
    write_parquet(tmp_path / "same.parquet", prompt=["a"], right=[1], one=[1], two=[2])
    with pytest.raises(UserError, match=r"row 0: fields.wrong needs a right answer and others"):
        load("huggingface", tmp_path, path="same.parquet", fields=fields)


def test_a_revision_is_that_of_the_hub(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="revision has no effect on the local data"):
        load("huggingface", rows.parent, path="rows", fields=FIELDS, revision="main")
    asked = {}

    def load_dataset(path: str, name: str | None, **options: Any) -> list[Any]:
        asked[path] = options["revision"]
        return []

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(load("huggingface", rows.parent, path="a/b", fields=FIELDS, revision="abc")) == 0
    assert asked == {"a/b": "abc"}


def test_one_file_of_a_data_set_of_the_hub(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read by its ending, so that a loading script beside it does not matter."""
    asked = []

    def load_dataset(kind: str, data_files: str, **options: Any) -> list[Any]:
        asked.append((kind, data_files, options))
        return []

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    given: dict[str, Any] = {"path": "a/b", "fields": FIELDS, "file": "parts/6.jsonl"}
    assert len(load("huggingface", rows.parent, **given, revision="refs/pr/1")) == 0
    assert len(load("huggingface", rows.parent, **given)) == 0
    how = {"split": "train", "streaming": False}
    assert asked == [
        ("json", "hf://datasets/a/b@refs%2Fpr%2F1/parts/6.jsonl", how),
        ("json", "hf://datasets/a/b/parts/6.jsonl", how),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "rows", "file": "a.jsonl"}, "file has no effect on the local data"),
        ({"path": "a/b", "file": "a.jsonl", "name": "x"}, "name has no effect on a file"),
        ({"path": "a/b", "file": "a.py"}, "its format cannot be read; use .parquet"),
        ({"path": "a/b", "since": "2025-02-30"}, "'2025-02-30' is not a day such as"),
        ({"path": "a/b", "before": "2025"}, "'2025' is not a day such as"),
        ({"path": "a/b", "since": "2025-02-01"}, "since and before need fields.date"),
        ({"path": "a/b", "fields": {"date": "day"}}, "fields.date has no effect without since"),
    ],
)
def test_options_of_files_and_days(rows: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        huggingface.Config.model_validate(options, context={"folder": rows.parent})


DAYS = ["2025-01-31", "2025-02-01", "2025-02-28T23:59:59", "2025-03-01"]
WINDOW: dict[str, Any] = {
    "fields": {"date": "day"},
    "since": "2025-02-01",
    "before": "2025-03-01",
}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "huggingface", "dates"])
def test_rows_of_some_days(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        text = "".join(f"{i},{day}\n" for i, day in enumerate(DAYS))
        rows = load_csv(tmp_path, "prompt,day\n" + text, **WINDOW)
    elif kind == "parquet":
        write_parquet(tmp_path / "p" / "1.parquet", prompt=["0", "1"], day=DAYS[:2])
        write_parquet(tmp_path / "p" / "2.parquet", prompt=["2", "3"], day=DAYS[2:])
        rows = load("parquet", tmp_path, path="p", **WINDOW)
    elif kind == "dates":
        days = [datetime.datetime.fromisoformat(day) for day in DAYS]
        write_parquet(tmp_path / "d" / "a.parquet", prompt=list("0123"), day=days)
        rows = load("huggingface", tmp_path, path="d/a.parquet", **WINDOW)
    else:
        lines = [json.dumps({"prompt": str(i), "day": day}) for i, day in enumerate(DAYS)]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        rows = load(kind, tmp_path, path="a.jsonl", **WINDOW)
    assert [row.prompt for row in rows] == ["1", "2"]


def test_a_row_without_a_day_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "day": "soon"}')
    with pytest.raises(UserError, match=r"a.jsonl:1: fields.date: 'soon' does not begin with"):
        load("jsonl", tmp_path, path="a.jsonl", **WINDOW)
    with pytest.raises(UserError, match=r"no column 'when' for the date"):
        load("jsonl", tmp_path, path="a.jsonl", fields={"date": "when"}, before="2025-01-01")


def test_streaming_reads_the_first_rows_and_no_more(rows: Path) -> None:
    (rows / "train-2.parquet").write_bytes(b"a file that cannot be read")
    (rows / "train.parquet").rename(rows / "train-1.parquet")
    for path in ("rows", "./rows"):
        first, second = load(
            "huggingface", rows.parent, path=path, fields=FIELDS, streaming=True, rows=2
        )
        assert (first.prompt, second.prompt, second.metadata) == ("a", "b", {"level": "y"})
    with pytest.raises(UserError, match=r"data set .*rows, name None, split 'train': "):
        load("huggingface", rows.parent, path="rows", fields=FIELDS, streaming=True, rows=4)


def test_streaming_a_short_split_gives_all_of_it(rows: Path) -> None:
    path = "rows/train.parquet"
    found = load("huggingface", rows.parent, path=path, fields=FIELDS, streaming=True, rows=50)
    assert [row.prompt for row in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streaming": True}, "set rows to how many"),
        (
            {"streaming": True, "rows": 5, "split": "train[:9]"},
            r"not 'train\[:9\]'; name one",
        ),
        ({"streaming": True, "rows": 5, "split": "train+test"}, "name one split"),
        ({"rows": 5}, r'write split = "train\[:5\]"'),
    ],
)
def test_streaming_options_belong_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        huggingface.Config.model_validate({"path": "org/data", **options})


@pytest.mark.parametrize("how", [{}, {"streaming": True, "rows": 5}])
def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"data set nobody/nothing, .*: Couldn't reach"):
        huggingface.load(huggingface.Config.model_validate({"path": "nobody/nothing", **how}))
