"""Rows that cannot be used: found before the first step, or at the end of a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli.data.pipeline import checks
from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.stream import Batching, open_data
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.settings import EvalSettings, SourceSettings
from support.data import PLAIN, SUMS, endless, flat, make_tokenizer, open_stream, rows_of, steps

LONG = "9" * 70  # of 64 tokens


def test_a_row_that_is_too_long_is_found_at_the_start(tmp_path: Path) -> None:
    prompts = [LONG if i in (41, 57, 58) else f"{i:02d}" for i in range(60)]
    source = rows_of(tmp_path / "a.jsonl", *prompts)
    held_out = rows_of(tmp_path / "e.jsonl", "a", "b")
    with pytest.raises(UserError, match=r"data jsonl/41: the prompt has 70 .*\(3 of 60 rows"):
        open_stream(source, held_out=(held_out,))
    for rank, expected in enumerate((r"jsonl/58: .*beside the response;", r"jsonl/41: .*\(2 of")):
        with pytest.raises(UserError, match=expected):
            open_stream(source, held_out=(held_out,), rank=rank, world=2)


class Counting:
    """A tokenizer that counts its calls and refuses texts with a bell."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(PLAIN, name)

    def __call__(self, texts: str | list[str], **options: Any) -> Any:
        self.calls += 1
        if "\a" in "".join(texts):
            raise ValueError("a bell")
        return PLAIN(texts, **options)


def test_the_tokenizer_reads_many_rows_at_once(tmp_path: Path) -> None:
    tokenizer = Counting()
    source = rows_of(tmp_path / "a.jsonl", *(f"{i:04d}" for i in range(1500)))
    evaluation = EvalSettings(problems=2)
    open_data([source], (SUMS,), evaluation, Prompts(tokenizer, 64), Batching(2, 0))
    assert tokenizer.calls == 2 + 2  # held-out rows one by one, then 1,000 and 500


def test_a_row_that_the_tokenizer_cannot_read_is_named(tmp_path: Path) -> None:
    prompts = ["ring\a" if i in (3, 7) else LONG if i == 5 else f"{i:02d}" for i in range(20)]
    source = rows_of(tmp_path / "a.jsonl", *prompts)
    read = Prompts(Counting(), 64)
    match = r"data jsonl/3: the tokenizer cannot read the text: .*a bell.*\(3 of 20 rows"
    with pytest.raises(UserError, match=match):
        open_data([source], (SUMS,), EvalSettings(problems=2), read, Batching(2, 0))


def test_what_the_check_reads_changes_no_state(tmp_path: Path) -> None:
    prompts = [LONG if i % 3 else f"{i:02d}" for i in range(60)]
    opened = open_stream(rows_of(tmp_path / "a.jsonl", *prompts, too_long="skip"), problems=2)
    assert opened.stream.skipped == {}
    assert opened.stream.state_dict()["cursors"] == [[0, 0]]
    assert opened.remarks == []


def test_rows_of_long_sources_are_checked_to_a_limit_which_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_CHECKED", 30)
    held_out = rows_of(tmp_path / "e.jsonl", "a", "b")
    late = rows_of(tmp_path / "a.jsonl", *(LONG if i == 31 else f"{i:02d}" for i in range(40)))
    opened = open_stream(late, held_out=(held_out,))
    assert opened.remarks == [
        "data jsonl: from row 30 on, rows are checked only when they are read"
    ]
    opened = open_stream(endless(tmp_path, "n"), held_out=(held_out,))
    assert opened.remarks == ["data n.py: all rows are checked only when they are read"]


def test_a_row_without_an_answer_is_found_where_a_reward_compares_with_it(tmp_path: Path) -> None:
    def start(*compared: str, **options: object) -> None:
        source = rows_of(tmp_path / "a.jsonl", "a", "b", **options)
        prompts = Prompts(PLAIN, 64, compared=compared)
        open_data([source], (SUMS,), EvalSettings(problems=2), prompts, Batching(2, 0))

    start()
    start("exact_match", rewards=("length",))
    with pytest.raises(UserError, match=r"jsonl/0: the row has no answer, and reward 'exact_match"):
        start("exact_match")
    with pytest.raises(UserError, match="reward 'math' compares"):
        start("exact_match", "math", rewards=("math",))


def test_after_a_row_that_cannot_be_used_the_stream_is_where_the_last_step_ended(
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.py").write_text(
        "from drpo_cli.data.pipeline.rows import Lazy\n"
        "from drpo_cli.types import Problem\n"
        "def load(config):\n"
        f"    return Lazy(2**31 - 1, lambda i: Problem('{LONG}' if i == 21 else f'n{{i}}'))\n"
    )
    held_out = rows_of(tmp_path / "e.jsonl", "a", "b")
    bad = Selected("data", f"{tmp_path}/bad.py", SourceSettings())
    opened = open_stream(bad, held_out=(held_out,))
    assert flat(steps(opened, 1)) == [f"n{i}" for i in range(8)]
    opened.stream.observe({})
    end = opened.stream.state_dict()
    assert flat(steps(opened, 1)) == [f"n{i}" for i in range(8, 16)]  # of a step with two batches
    with pytest.raises(UserError, match=r"bad.py/21: the prompt has 70"):
        opened.stream.next()
    assert opened.stream.state_dict() == end


def test_prompts_that_begin_with_two_beginnings_of_sequence_are_stated(tmp_path: Path) -> None:
    def remarks(**options: object) -> list[str]:
        source = rows_of(tmp_path / "a.jsonl", "^a", "^b", "c", **options)
        prompts, held_out = Prompts(make_tokenizer("^~"), 64), EvalSettings(problems=1)
        return list(open_data([source], (), held_out, prompts, Batching(2, 0)).remarks)

    assert [text[:44] for text in remarks()] == ["data jsonl: prompts begin with two ^: the to"]
    assert remarks(add_special_tokens=False) == []
