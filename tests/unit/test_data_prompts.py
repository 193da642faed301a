"""Rendering a row into a prompt: template, examples, chat, token ids, and what is refused."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt
from support.data import CHAT_TEMPLATE, PLAIN, make_tokenizer

SHOTS = [{"prompt": "1+1", "answer": "2"}, {"prompt": "2+2", "answer": "4"}]


def made(
    problem: Problem, tokenizer: PreTrainedTokenizerFast = PLAIN, **options: Any
) -> Prompt | str:
    return Prompts(tokenizer, 64).make(Row(problem, SourceSettings(**options), "own/7"))


def prompt_of(
    problem: Problem, tokenizer: PreTrainedTokenizerFast = PLAIN, **options: Any
) -> Prompt:
    prompt = made(problem, tokenizer, **options)
    assert isinstance(prompt, Prompt)
    return prompt


def test_a_prompt_names_the_environment_of_its_episodes() -> None:
    prompts = Prompts(PLAIN, 64, environments=["first", "second"])
    for name, expected in ((None, "first"), ("second", "second")):
        config = SourceSettings(environment=name)
        prompt = prompts.make(Row(Problem("x"), config, "own/7"))
        assert isinstance(prompt, Prompt) and prompt.environment == expected
    assert prompt_of(Problem("x")).environment is None


def test_plain_text_keeps_its_start_and_loses_an_added_end() -> None:
    problem = Problem(prompt="{x} \\frac{a}{b}", answer="1", metadata={"k": 1})
    prompt = prompt_of(problem, make_tokenizer("^~"), template="Q {{ prompt }}\nA")
    assert prompt.text == "Q {x} \\frac{a}{b}\nA"
    decoded = make_tokenizer().convert_ids_to_tokens(prompt.token_ids)
    assert (decoded[0], decoded[-1]) == ("^", "A")
    assert (prompt.id, prompt.answer, prompt.metadata) == ("own/7", "1", {"k": 1})
    assert len(prompt_of(Problem(prompt="x" * 64)).token_ids) == 64
    own_end = prompt_of(Problem(prompt="a~"))
    assert PLAIN.convert_ids_to_tokens(own_end.token_ids) == ["a", "~"]


def test_a_prompt_names_the_rewards_of_its_source() -> None:
    assert prompt_of(Problem("a")).rewards is None
    assert prompt_of(Problem("a"), rewards=["right", "short"]).rewards == ("right", "short")


def test_a_template_has_the_columns_and_keeps_every_character() -> None:
    problem = Problem("Why?", metadata={"topic": "tides", "hints": ["moon", "sun"]})
    template = "{{ topic|upper }}: {{ prompt }} {% for h in hints %}({{ h }}){% endfor %}\n\n"
    assert prompt_of(problem, template=template).text == "TIDES: Why? (moon)(sun)\n\n"
    markup = Problem("{{ topic }} <b> & {% raw", metadata={"topic": "x", "prompt": "not me"})
    assert prompt_of(markup, template="{{ prompt }}").text == "{{ topic }} <b> & {% raw"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ prompt }}{{ topc }}",
            "data own/7: the template asks for 'topc', but .*; its columns are prompt, topic",
        ),
        ("{{ prompt }}{{ answer }}", "data own/7: the template asks for the answer, which"),
        ("{{ prompt }}{{ topic.name }}", "data own/7: the template fails: .* has no attribute"),
        ("{{ prompt + 1 }}", "data own/7: the template fails: can only concatenate str"),
        ("{{ prompt }}{{ 1 // 0 }}", "data own/7: the template fails: .* by zero"),
        ("{{ ''.__class__.__mro__ }}", "data own/7: the template fails: access to .* is unsafe"),
        ("{{ topic.append(prompt) }}", "data own/7: the template fails: "),
    ],
)
def test_a_template_that_fails_names_the_row(template: str, message: str) -> None:
    problem = Problem("hi", answer="42", metadata={"topic": ["t"], "answer": "42"})
    with pytest.raises(UserError, match=message):
        made(problem, template=template)


def test_examples_go_before_plain_text() -> None:
    text = prompt_of(Problem("3+3"), template="Q: {{ prompt }} A: ", few_shot=SHOTS).text
    assert text == "Q: 1+1 A: 2\n\nQ: 2+2 A: 4\n\nQ: 3+3 A: "


def test_examples_are_turns_between_system_message_and_prompt() -> None:
    chat = make_tokenizer(chat=CHAT_TEMPLATE)
    options = {"template": "<{{ prompt }}>", "few_shot": SHOTS}
    text = prompt_of(Problem("3+3"), chat, system="add", chat=True, **options).text
    assert text == "s:add;u:<1+1>;a:2;u:<2+2>;a:4;u:<3+3>;a:"
    own = ({"role": "system", "content": "add"}, {"role": "user", "content": "3+3"})
    assert prompt_of(Problem(own), chat, **options).text == text.replace("<3+3>", "3+3")


def test_an_example_has_no_columns() -> None:
    template = "{{ topic }}{{ prompt }}"
    message = r"data own, few_shot\[0\]: the template asks for 'topic', .* columns are prompt$"
    with pytest.raises(UserError, match=message):
        made(Problem("a", metadata={"topic": "t"}), template=template, few_shot=SHOTS)
    optional = "{% if topic is defined %}{{ topic }}: {% endif %}{{ prompt }}="
    text = prompt_of(Problem("a", metadata={"topic": "t"}), template=optional, few_shot=SHOTS).text
    assert text == "1+1=2\n\n2+2=4\n\nt: a="


def test_chat_prompts_use_the_tokenizers_template_once() -> None:
    tokenizer = make_tokenizer("^~", CHAT_TEMPLATE)
    messages = ({"role": "user", "content": "hi"},)
    given = prompt_of(Problem(prompt=messages), tokenizer, system="be kind")
    wrapped = prompt_of(Problem(prompt="hi"), tokenizer, system="be kind", chat=True)
    assert given == wrapped
    assert given.text == "s:be kind;u:hi;a:"
    assert len(given.token_ids) == len(given.text)  # no ^ or ~ around it


def test_length_is_counted_as_the_model_sees_it() -> None:
    limits = {"min_prompt_tokens": 10, "max_prompt_tokens": 12, "template": "Q: {{ prompt }}"}
    lengths = {n: made(Problem("x" * n), **limits) for n in range(5, 12)}
    assert {n: what for n, what in lengths.items() if isinstance(what, str)} == {
        **dict.fromkeys((5, 6), "min_prompt_tokens"),
        **dict.fromkeys((10, 11), "max_prompt_tokens"),
    }
    assert made(Problem("x" * 65), max_prompt_tokens=64) == "max_prompt_tokens"
    assert made(Problem("x" * 65), too_long="skip") == "too_long"


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (Problem("hi"), {"chat": True}, "own/7: a chat prompt needs a chat template"),
        (Problem("hi"), {"system": "s"}, "own/7: `system` needs a chat prompt"),
        (Problem(""), {}, "own/7: the prompt is empty"),
        (Problem("x" * 65), {}, "own/7: the prompt has 65 tokens.*room for 64.*context_length"),
    ],
)
def test_prompts_that_cannot_be_used(
    problem: Problem, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made(problem, **options)


def test_a_chat_template_may_refuse() -> None:
    problem = Problem(prompt=({"role": "tool", "content": "4"},))
    with pytest.raises(UserError, match=r"own/7: .* refuses the messages \(tool\): no tools"):
        made(problem, make_tokenizer(chat=CHAT_TEMPLATE))


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (Problem("a<new>"), {}),
        (Problem("a"), {"few_shot": [{"prompt": "a", "answer": "<new>"}]}),
        (Problem("a"), {"template": "<new>{{ prompt }}"}),
        (Problem("a"), {"chat": True}),
    ],
)
def test_a_token_that_the_embedding_has_no_row_for(problem: Problem, options: Any) -> None:
    larger = make_tokenizer(chat="<new>{{ messages[0].content }}")
    rows = len(larger)
    larger.add_tokens(["<new>"])
    prompts, row = Prompts(larger, 64, rows), Row(problem, SourceSettings(**options), "own/7")
    said = rf"data own/7: the prompt has the token '<new>' \(id {rows}\), .* only {rows} rows"
    with pytest.raises(UserError, match=said):
        prompts.make(row)
    assert isinstance(Prompts(larger, 64, rows + 1).make(row), Prompt)
