"""Answers as responses: their tokens, the one that ends them, and rows that cannot be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpo_cli.data.pipeline.answers import AnsweredPrompts
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.data.pipeline.split import split
from drpo_cli.data.pipeline.stream import Batching, open_stream
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt
from support import dialogues
from support.data import PLAIN, rows_of

END = PLAIN.eos_token_id
VOCABULARY = 95
OTHER_END = 3


def example(
    answer: str | None = "42",
    prompt: str = "6*7=",
    ends: frozenset[int] = frozenset({END}),
    vocabulary: int = VOCABULARY,
    **options: Any,
) -> tuple[Prompt | str, AnsweredPrompts]:
    answers = AnsweredPrompts(PLAIN, ends, 12, vocabulary)
    row = Row(Problem(prompt, answer), SourceSettings(**options), "own/7")
    return answers.make(row), answers


def test_a_response_is_the_answer_and_an_end() -> None:
    made, answers = example()
    assert isinstance(made, Prompt)
    assert PLAIN.convert_ids_to_tokens(answers.response_ids(made)) == ["4", "2", "~"]
    made, answers = example(ends=frozenset({OTHER_END}))  # not the tokenizer's
    assert isinstance(made, Prompt) and answers.response_ids(made)[-1] == OTHER_END


@pytest.mark.parametrize("name", sorted(dialogues.FAMILIES))
def test_a_chat_ends_as_its_template_ends_a_turn(name: str) -> None:
    tokenizer, family = dialogues.make_tokenizer(name), dialogues.FAMILIES[name]
    ends = tokenizer.convert_tokens_to_ids([family.special[1], *family.ends])
    answers = AnsweredPrompts(tokenizer, frozenset(ends), 4000, len(tokenizer))
    made = answers.make(Row(Problem("Go.", "Gone"), SourceSettings(chat=True), "own/0"))
    assert isinstance(made, Prompt)
    ids = answers.response_ids(made)
    assert tokenizer.decode(ids[:-1]) == "Gone"
    (end,) = tokenizer.convert_ids_to_tokens(ids[-1:])
    assert end == {"gemma": "<end_of_turn>"}.get(name, end) and ids[-1] in ends
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Gone"}],
        tokenize=False,
    )
    assert whole.partition("Gone")[2].lstrip().startswith(end)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": None}, r"data own/7: the row has no answer, and \[sft\] learns answers"),
        ({"answer": "123456789"}, "prompt and answer have 14 tokens, and the longest .* has 12"),
        ({"vocabulary": 20}, "the prompt has the token"),
    ],
)
def test_what_cannot_be_learned_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        example(**changed)


def test_long_answers_can_be_skipped() -> None:
    assert example("123456789", too_long="skip")[0] == "too_long"
    assert isinstance(example("1234567")[0], Prompt)  # 4 + 7 + 1


def test_every_row_is_checked_before_the_first_update(tmp_path: Path) -> None:
    rows = split([rows_of(tmp_path / "rows.jsonl", "1+1", "2+2", "3+3")], (), 1)
    answers = AnsweredPrompts(PLAIN, frozenset({END}), 12, VOCABULARY)
    with pytest.raises(UserError, match=r"no answer, .* \(2 of 3 rows cannot be used\)"):
        open_stream(rows, answers, Batching(2, 0))
