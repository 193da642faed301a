"""Chats of a source: how they end, whom they ask, and what a message is."""

import json
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source, open_sources
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt
from support.data import CHAT_TEMPLATE, make_tokenizer, rows_of

CHAT = make_tokenizer(chat=CHAT_TEMPLATE)


def turn(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


U, A, S = turn("user"), turn("assistant", "b"), turn("system")


def text_of(folder: Path, *prompts: object, **options: Any) -> list[str]:
    (source,) = open_sources([rows_of(folder / "a.jsonl", *prompts, **options)])
    made = [Prompts(CHAT, 4096).make(row) for row in source]
    return [prompt.text for prompt in made if isinstance(prompt, Prompt)]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (
            [U, A],
            "ends with a message of the assistant: .* remove .* continue_final_message = true",
        ),
        ([A], "ends with a message of the assistant"),
        ([], "is empty"),
        ([S], "has only system messages, and asks nothing"),
        ([S, turn("developer")], "has only system messages"),
        ([turn("usr")], "has message 1 of the unknown role 'usr'; did you mean 'user'"),
        ([U, turn("User")], "has message 2 of the unknown role 'User'; did you mean 'user'"),
        ([turn("bot")], "unknown role 'bot'; the roles are system, developer, user"),
        ([{"role": "user"}], r"has message 1 without 'content' \(it has role\)"),
        ([{"from": "human", "value": "x"}], r"message 1 without 'role' \(it has from, value\)"),
        ([turn("user", None)], "message 1 without 'content'"),
        ([turn("user", [{"type": "text"}])], "message 1, whose content is a list"),
        ([turn("user", 5)], "message 1, whose content is a int"),
        ([S, turn("user", " ")], "has an empty last user message"),
        (["hi"], "has message 1, which is a str"),
        ({"role": "user", "content": "x"}, "is neither a string nor a list of chat messages"),
    ],
)
def test_chats_that_nobody_can_answer_are_refused(
    tmp_path: Path, messages: Any, message: str
) -> None:
    with pytest.raises(UserError, match=rf"a\.jsonl:2: the prompt .*{message}"):
        text_of(tmp_path, [U], messages)
    if isinstance(messages, list):
        with pytest.raises(UserError, match=rf"data own/0: the prompt .*{message}"):
            Source("own", SourceSettings(), [Problem(tuple(messages))])[0]


def test_a_last_message_of_the_assistant_can_be_continued(tmp_path: Path) -> None:
    texts = text_of(tmp_path, [U, A], [S, U, A, U], continue_final_message=True)
    assert texts == ["u:x;a:b", "s:x;u:x;a:b;u:x;a:"]
    with pytest.raises(UserError, match="has an empty last assistant message"):
        text_of(tmp_path, [U, turn("assistant", "")], continue_final_message=True)


def test_chats_that_are_used_as_before(tmp_path: Path) -> None:
    middle, more = [U, S, U], [turn("user", "x", name="n", tool_calls=None)]
    assert text_of(tmp_path, [U], middle, more) == ["u:x;a:", "u:x;s:x;u:x;a:", "u:x;a:"]
    assert text_of(tmp_path, "hi", chat=True) == ["u:hi;a:"]
    (row,) = open_sources([rows_of(tmp_path / "a.jsonl", more)])[0]
    assert json.loads(json.dumps(row.problem.prompt)) == [turn("user", name="n")]


@pytest.mark.parametrize("chat", [False, True])
def test_continuing_needs_messages(chat: bool) -> None:
    config = SourceSettings(chat=chat, continue_final_message=True)
    with pytest.raises(UserError, match="data own/7: `continue_final_message` needs a chat prompt"):
        Prompts(CHAT, 64).make(Row(Problem("q"), config, "own/7"))
