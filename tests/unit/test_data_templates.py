"""Chat templates with options, by name and from files; what they and tokenizers raise; BOS."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from drpo_cli.data.pipeline.prompts import Prompts
from drpo_cli.data.pipeline.rows import Row, Source
from drpo_cli.errors import UserError
from drpo_cli.settings import SourceSettings
from drpo_cli.types import ChatTemplate, Problem, Prompt
from support.data import CHAT_TEMPLATE, make_tokenizer

OPTIONS = (
    "{% if not day is defined %}{% set day = 'today' %}{% endif %}{{ day }}"
    "{% if thinking is defined and thinking is false %}!{% endif %}:{{ messages[0].content }}"
)


def prompt_of(tokenizer: Any, problem: Problem | None = None, **options: Any) -> Prompt:
    config = SourceSettings.model_validate({"chat": True, **options})
    prompt = Prompts(tokenizer, 4096).make(Source("own", config, [problem or Problem("q")])[0])
    assert isinstance(prompt, Prompt)
    return prompt


def test_options_are_values_texts_and_columns() -> None:
    chat = make_tokenizer(chat=OPTIONS)

    def text(metadata: dict[str, Any], **options: Any) -> str:
        return prompt_of(chat, Problem("q", metadata=metadata), template_options=options).text

    assert text({}) == "today:q"
    assert text({}, thinking=False) == "today!:q"
    assert text({}, thinking=True, day="Monday") == "today:q".replace("today", "Monday")
    assert text({"c": "May", "n": 2.0}, day="{{ n }} {{ c }}") == "2 May:q"
    assert text({"think": False}, thinking="{{ think }}") == "today!:q"
    message = r"data own/0, template_options.day: the template asks for 'c', but the row"
    with pytest.raises(UserError, match=message):
        text({}, day="{{ c }}")
    with pytest.raises(UserError, match=r"template_options.day: .* 'c', which is missing"):
        text({"c": None}, day="on {{ c }}")


def test_an_option_that_the_template_does_not_use_is_refused() -> None:
    chat = make_tokenizer(chat=OPTIONS)
    message = "data own/0: the chat template never uses 'thinkng' .* it uses day, thinking$"
    with pytest.raises(UserError, match=message):
        prompt_of(chat, template_options={"thinkng": False})
    own_syntax = make_tokenizer(chat="{% generation %}{{ day }}{% endgeneration %}")
    assert prompt_of(own_syntax, template_options={"day": "x"}).text == "x"
    assert SourceSettings(template_options={"day": date(2024, 1, 2)}).template_options == {
        "day": "2024-01-02"
    }
    for name in ("messages", "add_generation_prompt", "chat_template", "tokenize"):
        with pytest.raises(ValidationError, match=f"{name} is set by drpo itself"):
            SourceSettings(template_options={name: 1})


def test_a_template_is_chosen_by_name_or_from_a_file(tmp_path: Path) -> None:
    several = make_tokenizer()
    several.chat_template = {"a": "A{{ messages[0].content }}", "b": "B"}
    assert prompt_of(several, chat_template="a").text == "Aq"
    with pytest.raises(UserError, match=r"several chat templates, and none .* default; .*: a, b"):
        prompt_of(several)
    with pytest.raises(UserError, match=r"data own/0: .* has no chat template 'c'; .*: a, b"):
        prompt_of(several, chat_template="c")
    several.chat_template |= {"default": "D"}
    assert prompt_of(several).text == "D"
    with pytest.raises(UserError, match="no chat template 'a'; it has only one"):
        prompt_of(make_tokenizer(chat="x"), chat_template="a")
    (tmp_path / "own.jinja").write_text("F{{ messages[0].content }}")
    context = {"folder": tmp_path}
    config = SourceSettings.model_validate({"chat_template": "own.jinja"}, context=context)
    for tokenizer in (make_tokenizer(), make_tokenizer(chat="x"), several):
        assert prompt_of(tokenizer, chat_template=config.chat_template).text == "Fq"
    with pytest.raises(ValidationError, match=r"there is no file .*/gone\.jinja; name a file"):
        SourceSettings.model_validate({"chat_template": "gone.jinja"}, context=context)


@pytest.mark.parametrize(
    "options", [{"template_options": {"day": 1}}, {"chat_template": "a"}, {"system": "s"}]
)
def test_options_of_chats_are_refused_for_plain_text(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UserError, match=f"data own/0: `{name}` needs a chat prompt; set chat"):
        prompt_of(make_tokenizer(chat=CHAT_TEMPLATE), chat=False, **options)


RECURSION = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"


@pytest.mark.parametrize(
    "template",
    [
        *("{{ raise_exception('no') }}", "{{ messages[0]['content'] + 1 }}", "{{ 1 // 0 }}"),
        *("{% if %}", "{{ ''.__class__.__mro__ }}", "{{ nope.x }}", "{{ 1|nofilter }}", RECURSION),
        *("{{ [1][5].x }}", "{{ '%d' % 'x' }}", "{{ range(10**9) }}", "{{ {}|dictsort(by=1) }}"),
        "{% include 'x' %}",
    ],
)
def test_what_a_chat_template_raises_names_the_row(template: str) -> None:
    with pytest.raises(UserError, match=r"data own/0: .* chat template refuses .* \(user\): ."):
        prompt_of(make_tokenizer(chat=template))


@pytest.mark.parametrize("template", [RECURSION, "{{ prompt.nope() }}", "{{ [][0] }}"])
def test_what_a_template_of_the_spec_raises_names_the_row(template: str) -> None:
    with pytest.raises(UserError, match=r"data own/0: the template fails: ."):
        prompt_of(make_tokenizer(), chat=False, template=template)


def test_what_a_tokenizer_raises_names_the_row() -> None:
    without_unknown = Tokenizer(models.WordLevel({"a": 0}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=without_unknown)
    message = r"data own/0: the tokenizer cannot read the text: .*Missing \[UNK\]"
    with pytest.raises(UserError, match=message):
        prompt_of(tokenizer, Problem("zz"), chat=False)


def test_special_tokens_are_added_once() -> None:
    chat = make_tokenizer("^~", "{{ bos_token }}{{ messages[0].content }}")

    def made(**options: Any) -> tuple[str, set[str]]:
        prompts, config = Prompts(chat, 64), SourceSettings(**options)
        prompt = prompts.make(Row(Problem("q"), config, "own/7"))
        assert isinstance(prompt, Prompt)
        return "".join(chat.convert_ids_to_tokens(prompt.token_ids)), prompts.doubled_bos

    twice: dict[str, Any] = {"template": "^{{ prompt }}"}
    assert made() == ("^q", set())
    assert made(add_special_tokens=False) == ("q", set())
    assert made(**twice) == ("^^q", {"own"})
    assert made(**twice, add_special_tokens=False) == ("^q", set())
    assert made(chat=True) == ("^q", set())
    assert made(chat=True, add_special_tokens=True) == ("^^q", {"own"})


def test_the_date_of_a_template_is_the_same_on_every_day() -> None:
    dated = "{{ strftime_now('%d %b %Y') }}:{{ messages[0].content }}"
    assert prompt_of(make_tokenizer(chat=dated)).text == "01 Jan 2025:q"
    own = "{% if not day is defined %}{% set day = strftime_now('%Y') %}{% endif %}{{ day }}"
    assert prompt_of(make_tokenizer(chat=own)).text == "2025"
    assert prompt_of(make_tokenizer(chat=own), template_options={"day": "1999"}).text == "1999"


def test_a_prompt_keeps_its_chat_and_the_template_that_rendered_it() -> None:
    chat = make_tokenizer(chat=OPTIONS)
    shots = [{"prompt": "1+1", "answer": "2"}]
    made = prompt_of(chat, system="add", few_shot=shots, template_options={"day": "May"})
    assert [turn["role"] for turn in made.messages] == ["system", "user", "assistant", "user"]
    assert made.messages[made.opening :] == ({"role": "user", "content": "q"},)
    assert made.template == ChatTemplate(OPTIONS, {"day": "May"})
    own = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    assert prompt_of(chat, Problem(own)).opening == 1
    plain = prompt_of(make_tokenizer(), chat=False, few_shot=shots)
    assert plain.messages == ({"role": "user", "content": "1+12\n\nq"},)
    assert (plain.opening, plain.template) == (0, None)
