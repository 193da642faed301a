"""Thinking and calls of tools in the forms of each family; calls that are not valid."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drpo_cli.environments.dialogue.formats import FORMS, HARMONY, Reader
from drpo_cli.environments.dialogue.formats.deepseek import BEGIN, BETWEEN, CLOSE, END, OPEN
from drpo_cli.environments.dialogue.formats.written import Written
from drpo_cli.types import ToolCall
from support.dialogues import TOOLS

FORM = {form.name: form for form in (*FORMS, HARMONY)}
LOOK, ADD = ToolCall("look", {"x": "a"}), ToolCall("add", {})
FENCE = f'{OPEN}function{BETWEEN}look\n```json\n{{"x": "a"}}\n```{CLOSE}'


def reader(name: str, thinking: tuple[str, str] | None = None) -> Reader:
    return Reader(FORM[name], thinking, harmony=name == "harmony", tools=TOOLS)


@pytest.mark.parametrize(
    ("name", "text", "content", "calls"),
    [
        ("Hermes", "no call, {}", "no call, {}", ()),
        (
            "Hermes",
            'So:\n<tool_call>{"name":"look","arguments":{"x":"a"}}</tool_call> '
            '<tool_call>\n{"name": "add"}\n</tool_call>',
            "So:",
            (LOOK, ADD),
        ),
        (
            "Qwen3-Coder",
            "So:\n<tool_call>\n<function=look>\n<parameter=x>\na\n</parameter>\n</function>\n"
            "</tool_call>",
            "So:",
            (LOOK,),
        ),
        (
            "Qwen3-Coder",
            "<tool_call>\n<function=add>\n<parameter=n>\n3\n</parameter>\n<parameter=x>\n3\n\n"
            "</parameter>\n</function>\n</tool_call>",
            "",
            (ToolCall("add", {"n": 3, "x": "3\n"}),),
        ),
        ("Llama 3", '{"name": "look", "parameters": {"x": "a"}}', "", (LOOK,)),
        (
            "Llama 3",
            'So <|python_tag|>{"name": "look", "parameters": {"x": "a"}}; {"name": "add"}',
            "So",
            (LOOK, ADD),
        ),
        ("Llama 3", '{"x": 1} is JSON', '{"x": 1} is JSON', ()),
        (
            "Mistral",
            'So[TOOL_CALLS] [{"name": "look", "arguments": {"x": "a"}, "id": "123456789"}]',
            "So",
            (LOOK._replace(id="123456789"),),
        ),
        (
            "Mistral (names)",
            'So[TOOL_CALLS]look[ARGS]{"x": "a"}[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{}',
            "So",
            (LOOK, ADD._replace(id="abcdefghi")),
        ),
        ("DeepSeek V3", f"So{BEGIN}{FENCE}\n{FENCE}{END}", "So", (LOOK, LOOK)),
        (
            "DeepSeek V3.1",
            f'{BEGIN}{OPEN}look{BETWEEN}{{"x": "a"}}{CLOSE}{END}',
            "",
            (LOOK,),
        ),
        (
            "GLM 4.5",
            "So\n<tool_call>look\n<arg_key>x</arg_key>\n<arg_value>a</arg_value>\n</tool_call>"
            "<tool_call>add</tool_call>",
            "So",
            (LOOK, ADD),
        ),
        (
            "GLM 4.5",
            "<tool_call>add\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
            "",
            (ToolCall("add", {"n": 3}),),
        ),
        (
            "LFM2",
            "So<|tool_call_start|>[look(x='a'), add()]<|tool_call_end|>",
            "So",
            (LOOK, ADD),
        ),
        ("Llama 4", '[look(x="a"), add()]', "", (LOOK, ADD)),
        (
            "Gemma 4",
            'So<|tool_call>call:look{x:<|"|>a<|"|>}<tool_call|><|tool_call>call:add{}<tool_call|>',
            "So",
            (LOOK, ADD),
        ),
        (
            "Gemma 4",
            '<|tool_call>call:add{n:3,x:{b:[true,null,<|"|>{y:"\n<|"|>]}}<tool_call|>',
            "",
            (ToolCall("add", {"n": 3, "x": {"b": [True, None, '{y:"\n']}}),),
        ),
        ("Llama 4", "[1, 2] is a list", "[1, 2] is a list", ()),
        ("harmony", "<|channel|>final<|message|>So", "So", ()),
        ("harmony", "without any channel", "without any channel", ()),
        (
            "harmony",
            "<|channel|>commentary<|message|>So<|end|><|start|>assistant<|channel|>commentary "
            'to=functions.look <|constrain|>json<|message|>{"x": "a"}<|call|>',
            "So",
            (LOOK,),
        ),
    ],
)
def test_calls_are_read(name: str, text: str, content: str, calls: tuple[ToolCall, ...]) -> None:
    assert reader(name).read(text) == Written(content, None, calls)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("Hermes", '<tool_call>{"name": "look"', "<tool_call> is never closed with </tool_call>"),
        ("Hermes", 'a</tool_call>{"name": "look"}', "</tool_call> has no <tool_call> in front"),
        ("Hermes", "<tool_call>{'a': 1}</tool_call>", "cannot be read as JSON (Expecting property"),
        ("Hermes", "<tool_call>[]</tool_call>", "an object with a name and arguments, not a list"),
        ("Hermes", "<tool_call>{}</tool_call>", 'the call has no "name"'),
        ("Hermes", '<tool_call>{"name": 1}</tool_call>', "'1' is not the name of a tool"),
        ("Hermes", '<tool_call>{"name": "a b"}</tool_call>', "'a b' is not the name of a tool"),
        (
            "Hermes",
            '<tool_call>{"name": "look", "arguments": "{}"}</tool_call>',
            "the arguments of look are an object, not a text",
        ),
        (
            "Hermes",
            '<tool_call>{"name": "look", "arguments": {"x": "\\ud800"}}</tool_call>',
            "the arguments of look cannot be JSON",
        ),
        ("Qwen3-Coder", "<tool_call>\nlook\n</tool_call>", "is not one function"),
        (
            "Qwen3-Coder",
            "<tool_call><function=look>x=3</function></tool_call>",
            "the call of look has text outside its parameters: 'x=3'",
        ),
        ("Llama 3", '{"name": "look", "parameters": {"x": "a"', "cannot be read as JSON"),
        ("Llama 3", '{"name": "look"} and so on', "there is text after the call: 'and so on'"),
        ("Llama 3", "<|python_tag|>", "there is nothing after <|python_tag|>"),
        ("Llama 3", "<|python_tag|>look(x=3)", "cannot be read as JSON"),
        ("Mistral", "[TOOL_CALLS]look{}", "the text after [TOOL_CALLS] cannot be read as JSON"),
        ("Mistral", '[TOOL_CALLS]{"name": "look"}', "after [TOOL_CALLS] comes a list of calls"),
        ("Mistral", "[TOOL_CALLS][]", "after [TOOL_CALLS] comes a list of calls"),
        ("Mistral (names)", "[TOOL_CALLS]look{}", "need [ARGS] between them"),
        ("Mistral (names)", "[TOOL_CALLS]look[ARGS]{", "the arguments cannot be read as JSON"),
        ("Mistral (names)", "[TOOL_CALLS]look[ARGS]{} x", "text after the arguments: 'x'"),
        ("Mistral (names)", "[TOOL_CALLS]look[ARGS]3", "arguments of look are an object, not a nu"),
        ("DeepSeek V3", OPEN, "in front of it"),
        ("DeepSeek V3", BEGIN + FENCE, "is never closed with"),
        ("DeepSeek V3", BEGIN + END, "there is no call after"),
        ("DeepSeek V3", f"{BEGIN}look{END}", "there is text outside"),
        ("DeepSeek V3", f"{BEGIN}{OPEN}look{CLOSE}{END}", "before its arguments"),
        ("GLM 4.5", "<tool_call>look x=3</tool_call>", "'look x=3' is not the name of a tool"),
        (
            "GLM 4.5",
            "<tool_call>look\n<arg_key>x</arg_key>a</tool_call>",
            "the call of look has text outside its arguments",
        ),
        ("Gemma 4", "<|tool_call>call:look{", "is never closed with <tool_call|>"),
        ("Gemma 4", "<|tool_call>look{}<tool_call|>", "a call begins with <|tool_call>call:"),
        ("Gemma 4", "<|tool_call>call:look{x:a}<tool_call|>", "the braces of look cannot be read"),
        ("Gemma 4", "<|tool_call>call:look<tool_call|>", "the braces of look cannot be read"),
        ("LFM2", "<|tool_call_start|>[look(", "is never closed with <|tool_call_end|>"),
        ("LFM2", "<|tool_call_start|>look(x=3)<|tool_call_end|>", "a list in square brackets"),
        ("Llama 4", "[look(x=3]", "cannot be read as Python"),
        ("Llama 4", "[look('a')]", "the arguments of look need their names"),
        ("Llama 4", "[look(x=1 + y)]", "an argument of look is not a plain value"),
        ("Llama 4", "[look(x={1})]", "the arguments of look cannot be JSON"),
        ("Llama 4", "[look(x=1), 3]", "'3' is not a call of a tool"),
        ("Llama 4", "[look(x=" + "1" * 100_000 + ")]", "more than 100000 characters"),
        ("harmony", "<|channel|>commentary to=functions.look json {}", "<|message|> is missing"),
        ("harmony", "<|channel|>commentary to=functions.look<|message|>{", "the message to functi"),
        ("harmony", "<|channel|>commentary to=browser<|message|>{}", "there is no tool 'browser'"),
    ],
)
def test_a_call_that_is_not_valid_says_why_and_how_to_write_it(
    name: str, text: str, says: str
) -> None:
    written = reader(name).read(text)
    assert (written.content, written.calls) == (text, ())
    assert written.problem is not None
    assert says in written.problem
    assert written.problem.endswith("Write it as:\n" + FORM[name].words)


TAGS = ("<think>", "</think>")
HERMES = '<tool_call>{"name": "add"}</tool_call>'


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("yes", False, Written("yes")),
        ("<think>\nwell\n</think>\n\nyes", False, Written("yes", "well")),
        ("<think>\n\n</think>\n\nyes", False, Written("yes", "")),
        ("well\n</think>\n\nyes", True, Written("yes", "well")),
        ("well</think>yes", False, Written("yes", "well")),
        ("<think>well", False, Written("", "well")),
        ("well", True, Written("", "well")),
        (f"<think>or {HERMES}</think>yes", False, Written("yes", f"or {HERMES}")),
        (f"<think>well</think>\n{HERMES}", False, Written("", "well", (ADD,))),
        ("say <think> twice", False, Written("say <think> twice")),
    ],
)
def test_thinking_is_taken_apart(text: str, opened: bool, expected: Written) -> None:
    assert reader("Hermes", TAGS).read(text, opened) == expected


def test_a_template_that_knows_no_thinking_leaves_it_in_the_text() -> None:
    text = "<think>well</think>yes"
    assert reader("Hermes").read(text) == Written(text)


def test_channels_have_thinking_also_beside_a_call_that_is_not_valid() -> None:
    analysis = "<|channel|>analysis<|message|>well<|end|><|start|>assistant"
    final = "<|channel|>final<|message|>yes"
    assert reader("harmony").read(analysis + final) == Written("yes", "well")
    bad = analysis + "<|channel|>commentary to=functions.look<|message|>{"
    written = reader("harmony").read(bad)
    assert (written.thinking, written.calls) == ("well", ())
    without_tools = Reader(None, harmony=True)
    call = "<|channel|>commentary to=functions.look<|message|>{}"
    assert without_tools.read(call) == Written(call)
    assert without_tools.read(analysis + final) == Written("yes", "well")


PIECES = [
    *("<tool_call>", "</tool_call>", "<function=look>", "</function>", "<parameter=x>"),
    *("</parameter>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|start|>"),
    *("<|channel|>", "<|message|>", "commentary to=functions.", "analysis", "<think>", "</think>"),
    *(BEGIN, OPEN, BETWEEN, CLOSE, END, '{"name": "look", "arguments": {}}', "[", "]", "look"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "<|tool_call_start|>", "<|tool_call_end|>"),
    *(
        "<|tool_call>call:",
        "<tool_call|>",
        '<|"|>',
        "[look(",
        ")]",
        "x=" + "-" * 20_000,
        "x=" + "(" * 300,
        "\0",
        "x='",
    ),
    *("{", "}", '"', "\n", "é", ";", "```json", "{}" * 2000, "[" * 20_000),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.lists(st.sampled_from(PIECES), max_size=8).map("".join), opened=st.booleans())
def test_any_text_can_be_read(text: str, opened: bool) -> None:
    for name in FORM:
        for tags in (None, TAGS):
            written = reader(name, tags).read(text, opened)
            assert written.problem is None or not written.calls
            assert all(isinstance(call.arguments, dict) for call in written.calls)
