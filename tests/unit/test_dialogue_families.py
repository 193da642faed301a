"""Where each family's template continues a row, and where it begins a new one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal

import pytest

from drpo_cli.chat_templates import TODAY
from drpo_cli.environments.dialogue.chats import Chats
from drpo_cli.errors import UserError
from drpo_cli.types import Message, ToolCall
from support.dialogues import FAMILIES, TOOLS, Played, begin, make_tokenizer, prompt_of, rollout

END = {name: family.special[1] for name, family in FAMILIES.items()}
FOUND: Message = {"role": "tool", "content": 'It is "12".\n'}
TAGGED = '<tool_call>\n{"name": "look", "arguments": {"x": "the end"}}\n</tool_call><|im_end|>'
CHANNEL = "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant"
CALLS = {
    "chatml": "Let me see.\n" + TAGGED,
    "qwen3": "<think>\nI look.\n</think>\n\nLet me see.\n" + TAGGED,
    "llama3": '{"name": "look", "parameters": {"x": "the end"}}<|eot_id|>',
    "mistral": '[TOOL_CALLS] [{"name": "look", "arguments": {"x": "the end"}, '
    '"id": "abc123def"}]</s>',
    "gpt_oss": CHANNEL + " to=functions.look<|channel|>commentary json<|message|>"
    '{"x": "the end"}<|call|>',
}
"""A call as the family's template writes it."""


def rendered(played: Played, messages: Sequence[Message], tools: bool = True) -> str:
    """What the family's template makes of messages, without this package."""
    text: str = played.tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=list(TOOLS) if tools else None,
        add_generation_prompt=True,
        tokenize=False,
        strftime_now=TODAY.strftime,
    )
    return text


@pytest.mark.parametrize("name", CALLS)
def test_the_answer_of_a_tool_continues_the_row(name: str) -> None:
    played = Played(name, begin(name, tools=True))
    action = played.act(CALLS[name])
    id = "abc123def" if name == "mistral" else ""
    assert action.calls == (ToolCall("look", {"x": "the end"}, id),)
    assert action.text == ("Let me see." if name in ("chatml", "qwen3") else "")
    assert (action.problem, action.truncated) == (None, False)
    played.observe(FOUND)
    call = {"name": "look", "arguments": {"x": "the end"}}
    thought = {"reasoning_content": "I look.", "thinking": "I look."}
    assert played.text == rendered(
        played,
        [
            {"role": "user", "content": "Go."},
            {
                **{"role": "assistant", "content": action.text},
                **(thought if name in ("qwen3", "gpt_oss") else {}),
                "tool_calls": [{"type": "function", "id": "abc123def", "function": call}],
            },
            {**FOUND, "name": "look", "tool_call_id": "abc123def"},
        ],
    )
    played.act("12" + END[name])
    (row,) = played.check()
    assert row.text == "12"


@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama3", "mistral", "gemma"])
def test_a_message_of_the_user_continues_the_row(name: str) -> None:
    """Also where the policy wrote white space that the template takes away."""
    played = Played(name, begin(name))
    played.act("  Is it 5?\n" + END[name])
    played.observe("higher")
    played.act("7" + END[name])
    played.observe("lower")
    played.act("6" + END[name])
    assert len(played.check()) == 1


@pytest.mark.parametrize(
    ("name", "tools", "first", "because"),
    [
        ("qwen3", False, "<think>\nwell\n</think>\n\n5<|im_end|>", "thinking goes"),
        ("qwen3", False, "<think>\n\n</think>\n\n5<|im_end|>", "empty thinking goes"),
        ("gpt_oss", False, "<|channel|>final<|message|>5<|return|>", "the end is another"),
        ("mistral", True, " 5</s>", "the tools move to the last message of the user"),
    ],
)
def test_a_new_row_begins_where_history_changes(
    name: str, tools: bool, first: str, because: str
) -> None:
    played = Played(name, begin(name, tools))
    assert played.act(first).text.strip() == "5"
    played.observe("higher")
    played.act("7" + END[name])
    one, two = played.check()
    history = rendered(played, played.dialogue.messages[:-1], tools)
    assert (two.prompt_ids, one.text.strip()[-1]) == (tuple(played.encode(history)), "5")
    kept = Played(name, begin(name, tools, history="keep"))
    kept.act(first)
    before = kept.dialogue.prompt_ids
    kept.observe("higher")
    assert kept.dialogue.prompt_ids[: len(before)] == before and "higher" in kept.text
    kept.act("7" + END[name])
    assert len(kept.check()) == 1, because


def test_a_prompt_that_ends_the_thinking_is_not_in_history() -> None:
    played = Played("qwen3", begin("qwen3", template_options={"enable_thinking": False}))
    assert played.text.endswith("<think>\n\n</think>\n\n")
    played.act("5<|im_end|>")
    played.observe("higher")
    assert played.text.count("<think>") == 1
    assert played.begins_row
    played.act("7<|im_end|>")
    assert len(played.check()) == 2


def test_thinking_may_begin_in_the_prompt() -> None:
    own = make_tokenizer("qwen3").chat_template.replace("<think>\\n\\n</think>\\n\\n", "<think>\\n")
    tokenizer = copy(make_tokenizer("qwen3"))
    tokenizer.chat_template = own
    chats = Chats(tokenizer, tokenizer.convert_tokens_to_ids(["<|im_end|>"]))
    prompt = prompt_of(tokenizer, template_options={"enable_thinking": False})
    played = Played("qwen3", chats.begin(prompt, prompt.messages, TOOLS))
    assert played.text.endswith("<think>\n")
    action = played.act("I look.\n</think>\n\nLet me see.\n" + TAGGED)
    assert (action.text, len(action.calls)) == ("Let me see.", 1)
    assert played.dialogue.messages[-1]["reasoning_content"] == "I look."
    played.observe(FOUND)
    played.act("It is.\n</think>\n\n12<|im_end|>")
    (row,) = played.check()
    assert row.text == "It is.\n</think>\n\n12"
    played.observe("thanks")
    assert "It is." not in played.text and "I look." not in played.text


def test_text_before_a_call_that_the_template_drops_begins_a_new_row() -> None:
    played = Played("llama3", begin("llama3", tools=True))
    action = played.act("I look.<|python_tag|>" + CALLS["llama3"])
    assert (action.text, len(action.calls)) == ("I look.", 1)
    played.observe(FOUND)
    assert "I look." not in played.text
    played.act("12<|eot_id|>")
    assert len(played.check()) == 2


def test_a_call_without_the_id_that_the_template_writes_begins_a_new_row() -> None:
    played = Played("mistral", begin("mistral", tools=True))
    played.act('[TOOL_CALLS][{"name": "look", "arguments": {"x": "the end"}}]</s>')
    played.observe(FOUND)
    assert played.text.count("call00000") == 2
    played.act("12</s>")
    assert len(played.check()) == 2


def test_a_call_that_the_template_refuses_is_not_valid() -> None:
    played = Played("mistral", begin("mistral", tools=True))
    action = played.act('[TOOL_CALLS][{"name": "look", "arguments": {}, "id": "short"}]</s>')
    assert action.calls == () and action.problem is not None
    assert "is not valid: ids have 9 characters. Write it as:\n[TOOL_CALLS]" in action.problem
    played.observe({"role": "tool", "content": action.problem})
    played.act("12</s>")
    played.check()


def test_another_spelling_of_a_call_stays() -> None:
    played = Played("chatml", begin("chatml", tools=True))
    said = '<tool_call>{"arguments":{"x":"the end"},"name":"look"}</tool_call><|im_end|>'
    assert played.act(said).calls == (ToolCall("look", {"x": "the end"}),)
    played.observe(FOUND)
    assert said in played.text
    played = Played("gpt_oss", begin("gpt_oss", tools=True))
    played.act(
        CHANNEL + "<|channel|>commentary to=functions.look <|constrain|>json<|message|>"
        '{"x":"the end"}<|call|>'
    )
    played.observe(FOUND)
    played.act("<|channel|>final<|message|>12<|return|>")
    assert len(played.check()) == 1


def test_several_calls_are_answered_in_order() -> None:
    played = Played("chatml", begin("chatml", tools=True))
    assert len(played.act(TAGGED.removesuffix("<|im_end|>") + TAGGED).calls) == 2
    played.observe({"role": "tool", "content": "one"}, {"role": "tool", "content": "two"})
    assert played.text.endswith(
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    for name in ("llama3", "gpt_oss"):
        played = Played(name, begin(name, tools=True))
        first = CALLS[name].removesuffix(END[name]).removesuffix("<|call|>")
        between = "; " if name == "llama3" else "<|end|><|start|>assistant"
        action = played.act(first + between + CALLS[name].removeprefix(CHANNEL))
        assert action.calls == () and action.problem is not None
        assert "only one tool can be called at a time" in action.problem
        played.observe({"role": "tool", "content": action.problem})
        played.act("12" + END[name])
        played.check()


def test_a_problem_is_told_as_the_user_where_there_is_no_call_to_answer() -> None:
    for name in CALLS:
        played = Played(name, begin(name, tools=True))
        action = played.act(CALLS[name].replace("}", "", 1))
        assert action.problem is not None and action.calls == ()
        played.observe({"role": "tool", "content": action.problem})
        assert "is not valid" in played.text
        if name in ("chatml", "qwen3"):  # the model is shown the very tokens that it has to write
            assert 'Write it as:\n<tool_call>\n{"name"' in played.text
        assert played.dialogue.messages[-1]["role"] == "user"
        played.act("12" + END[name])
        played.check()


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_messages_of_the_user_are_joined_where_roles_must_alternate(name: str) -> None:
    played = Played(name, begin(name))
    played.act("5" + END[name])
    played.observe("higher", "much higher")
    assert "higher\n\nmuch higher" in played.text
    assert [message["content"] for message in played.dialogue.messages[-2:]] == [
        "higher",
        "much higher",
    ]


def test_an_empty_answer_that_the_template_refuses() -> None:
    played = Played("mistral", begin("mistral", tools=True))
    played.act("</s>")
    played.observe("say something")
    assert " …</s>" in played.text
    played.act("12</s>")
    assert len(played.check()) == 2


def test_tools_that_a_template_cannot_take() -> None:
    tokenizer = copy(make_tokenizer("gemma"))
    with pytest.raises(UserError, match=r"does not print tools; use a model .* \(model.path\)"):
        begin("gemma", tools=True)
    tokenizer.chat_template = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
    chats, prompt = Chats(tokenizer, [1]), prompt_of(tokenizer)
    with pytest.raises(UserError, match=r"a form that drpo cannot read; the forms are .*Hermes"):
        chats.begin(prompt, prompt.messages, TOOLS)
    tokenizer.chat_template = "{% if tools %}{{ raise_exception('no such type') }}{% endif %}x"
    chats, prompt = Chats(tokenizer, [1]), prompt_of(tokenizer)
    with pytest.raises(UserError, match=r"cannot print the tools: .* no such type; simplify"):
        chats.begin(prompt, prompt.messages, TOOLS)


def test_a_tokenizer_may_have_another_template_for_tools() -> None:
    tokenizer = copy(make_tokenizer("chatml"))
    bare = make_tokenizer("gemma").chat_template
    tokenizer.chat_template = {"default": bare, "tool_use": tokenizer.chat_template}
    chats, prompt = Chats(tokenizer, [1]), prompt_of(tokenizer)
    assert "<tools>" in tokenizer.decode(chats.begin(prompt, prompt.messages, TOOLS).prompt_ids)
    assert "<tools>" not in tokenizer.decode(chats.begin(prompt, prompt.messages).prompt_ids)


def test_a_control_token_may_close_a_call() -> None:
    tokenizer = make_tokenizer.__wrapped__("chatml")
    tokenizer.chat_template = (
        "{{ tools }}{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<|tool_call_start|>[{{ c.function.name }}("
        "{% for key, value in c.function.arguments.items() %}{{ key }}='{{ value }}'{% endfor %})]"
        "<|tool_call_end|>{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant:"
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|tool_call_start|>", "<|tool_call_end|>"]}
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    histories: list[Literal["template", "keep"]] = ["template", "keep"]
    for history in histories:
        prompt = prompt_of(tokenizer)
        dialogue = Chats(tokenizer, [end]).begin(prompt, prompt.messages, TOOLS, history)
        text = "<|tool_call_start|>[look(x='the end')]<|tool_call_end|><|im_end|>"
        ids = tokenizer(text, add_special_tokens=False).input_ids
        action = dialogue.act(rollout(tokenizer, prompt.token_ids, ids, [end], False))
        assert action.calls == (ToolCall("look", {"x": "the end"}),)
        dialogue.observe([FOUND])
        assert tokenizer.decode(dialogue.prompt_ids).endswith(
            text + "\n<|im_start|>tool:" + FOUND["content"] + "<|im_end|>\n<|im_start|>assistant:"
        )
        dialogue.act(rollout(tokenizer, dialogue.prompt_ids, [end], [end], False))
        assert len(dialogue.rows()) == 1


def test_arguments_as_text_where_the_template_adds_texts() -> None:
    tokenizer = copy(make_tokenizer("chatml"))
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "call.function.arguments | tojson", "call.function.arguments"
    )
    chats, prompt = (
        Chats(tokenizer, tokenizer.convert_tokens_to_ids(["<|im_end|>"])),
        prompt_of(tokenizer),
    )
    played = Played("chatml", chats.begin(prompt, prompt.messages, TOOLS))
    played.act(CALLS["chatml"])
    played.observe(FOUND)
    played.act("12<|im_end|>")
    assert len(played.check()) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_no_observation_becomes_a_control_token(name: str) -> None:
    family = FAMILIES[name]
    played = Played(name, begin(name))
    ids = played.tokenizer.convert_tokens_to_ids([*family.special, *family.markup])
    played.act("5" + END[name])
    played.observe("ok")
    plain = played.dialogue.prompt_ids
    played = Played(name, begin(name))
    played.act("5" + END[name])
    played.observe("".join((*family.special, *family.markup)))
    for id in ids:
        assert played.dialogue.prompt_ids.count(id) == plain.count(id)
    seen = played.text
    for token in family.special:
        assert token[0] + "\u200b" + token[1:] in seen
    assert played.dialogue.messages[-1]["content"] == "".join((*family.special, *family.markup))
