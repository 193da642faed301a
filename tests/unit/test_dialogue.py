"""The tokens of an episode: kept as they were sampled, observed once, in rows that go on."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from drpo_cli.environments.dialogue.chats import Chats
from drpo_cli.environments.dialogue.tokens import Tokens
from drpo_cli.errors import UserError
from drpo_cli.types import Action, ChatTemplate, Prompt
from support.data import make_tokenizer as make_characters
from support.dialogues import Played, begin, chats_of, make_tokenizer, prompt_of, rollout

OPENING = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n"
ASKED = "<|im_start|>assistant\n"


def test_an_episode_begins_with_the_prompt_of_its_row() -> None:
    prompt = prompt_of(make_tokenizer("chatml"))
    assert begin("chatml").prompt_ids == prompt.token_ids
    assert Played("chatml", begin("chatml")).text == OPENING + ASKED
    assert Played("chatml", begin("chatml", system="Guess.")).text.startswith(
        "<|im_start|>system\nGuess.<|im_end|>"
    )


def test_half_a_character_is_not_text() -> None:
    prompt = prompt_of(make_tokenizer("chatml"))
    dialogue = chats_of("chatml").begin(prompt, [{"role": "user", "content": "a\ud800"}])
    assert "a\ufffd<|im_end|>" in make_tokenizer("chatml").decode(dialogue.prompt_ids)


def test_observations_follow_what_was_sampled() -> None:
    played = Played("chatml", begin("chatml"))
    assert played.act("Is it 5?<|im_end|>") == Action("Is it 5?")
    played.observe("higher\ud800")
    more = "\n<|im_start|>user\nhigher\ufffd<|im_end|>\n" + ASKED
    assert played.text == OPENING + ASKED + "Is it 5?<|im_end|>" + more
    assert played.dialogue.tokens == len(played.dialogue.prompt_ids) - len(
        prompt_of(played.tokenizer).token_ids
    )
    played.act("7<|im_end|>")
    played.observe("lower", "much lower")
    assert played.text.endswith(
        "7<|im_end|>\n<|im_start|>user\nlower<|im_end|>\n<|im_start|>user\nmuch lower<|im_end|>\n"
        + ASKED
    )
    played.act("6", cut=True)
    (row,) = played.check()
    assert row.truncated and row.text == "6"
    roles = [message["role"] for message in played.dialogue.messages]
    assert roles == ["user", "assistant", "user", "assistant", "user", "user", "assistant"]


def test_a_row_ends_with_the_last_action() -> None:
    played = Played("chatml", begin("chatml"))
    (row,) = played.dialogue.rows()
    assert (row.prompt_ids, row.token_ids) == (played.dialogue.prompt_ids, ())
    played.act("5<|im_end|>")
    played.observe("an observation that nobody answers")
    (row,) = played.check()
    assert played.tokenizer.decode(row.token_ids) == "5<|im_end|>"


def test_the_tokens_that_were_sampled_stay_though_the_text_has_others() -> None:
    played = Played("chatml", begin("chatml"))
    end = played.tokenizer.convert_tokens_to_ids("<|im_end|>")
    letters = [played.tokenizer.convert_tokens_to_ids(letter) for letter in "theend"]
    assert len(played.tokenizer("theend").input_ids) < len(letters)
    played.act("theend", ids=[*letters, end])
    played.observe("\n\nthe user")
    played.act("12<|im_end|>")
    (row,) = played.check()
    assert row.token_ids[:7] == (*letters, end)


def test_a_turn_that_ran_out_of_tokens_gets_the_end_that_the_template_writes() -> None:
    played = Played("chatml", begin("chatml"))
    assert played.act("Is it", cut=True) == Action("Is it", truncated=True)
    played.observe("go on")
    assert (
        played.text
        == OPENING + ASKED + "Is it<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n" + (ASKED)
    )
    played.act("5<|im_end|>")
    (row,) = played.check()
    assert row.sampled is not None
    assert row.sampled[played.dialogue.spans[0][2]] is False


def test_another_end_than_the_templates_begins_a_new_row() -> None:
    played = Played("chatml", begin("chatml"))
    played.act("five<|endoftext|>")
    played.observe("higher")
    assert "<|endoftext|>" not in played.text
    played.act("7<|im_end|>")
    first, second = played.check()
    assert (first.text, second.text) == ("five", "7")
    observed = played.encode("higher")
    assert played.dialogue.tokens == sum(len(ids) for _, ids in played.saw) + len(observed)
    assert second.prompt_ids == tuple(
        played.tokenizer(
            f"{OPENING}{ASKED}five<|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n{ASKED}"
        ).input_ids
    )


def test_history_that_is_kept_never_begins_a_new_row() -> None:
    played = Played("chatml", begin("chatml", history="keep"))
    played.act("five<|endoftext|>")
    played.observe("higher")
    assert "five<|endoftext|>\n<|im_start|>user" in played.text
    played.act("seven", cut=True)
    played.observe("lower")
    assert "seven<|im_end|>\n<|im_start|>user" in played.text
    played.act("6<|im_end|>")
    assert len(played.check()) == 1


def plain(text: str, chats: Chats, prompt: Prompt) -> Played:
    played = Played("chatml", chats.begin(prompt, [{"role": "user", "content": text}]))
    return played


def test_plain_text_goes_on_as_plain_text() -> None:
    tokenizer = make_tokenizer("chatml")
    prompt = prompt_of(tokenizer, "Q: 1+1\n", chat=False)
    chats = Chats(tokenizer, tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    played = plain(prompt.text, chats, prompt)
    assert played.dialogue.prompt_ids == prompt.token_ids
    assert played.act("A: 3<|endoftext|>") == Action("A: 3")
    played.observe("\nno\nQ: 1+1\n", "again")
    assert played.text == "Q: 1+1\nA: 3<|endoftext|>\nno\nQ: 1+1\n\nagain"
    played.act("2", cut=True)
    assert len(played.check()) == 1
    assert plain("other\n", chats, prompt).text == "other\n"
    for messages in ([{"role": "system", "content": "s"}], [{"role": "user", "content": "a"}] * 2):
        with pytest.raises(UserError, match=r"starts with a chat, .* set chat = true"):
            chats.begin(prompt, messages)
    with pytest.raises(UserError, match=r"has tools, .* set chat = true"):
        chats.begin(prompt, prompt.messages, [{"type": "function"}])
    with pytest.raises(UserError, match="'tool' needs a chat"):
        played.observe({"role": "tool", "content": "4"})


def test_a_line_break_may_end_responses() -> None:
    tokenizer = make_tokenizer("chatml")
    (line,) = tokenizer("\n").input_ids
    prompt = prompt_of(tokenizer, "Q: 1+1\n", chat=False)
    played = plain(prompt.text, Chats(tokenizer, [line]), prompt)
    played.ends = [line]
    assert played.act("A: 3\n") == Action("A: 3")
    played.observe("\nno\n")
    assert played.text == "Q: 1+1\nA: 3\n\nno\n"
    played.act("A: 2\n")
    assert len(played.check()) == 1


def test_tokens_stay_where_the_text_would_have_one_token_over_the_seam() -> None:
    tokenizer = make_tokenizer("chatml")
    prompt = prompt_of(tokenizer, "the", chat=False)
    played = plain(prompt.text, Chats(tokenizer, [0]), prompt)
    played.act(" answer\n", cut=True)
    played.observe("\nof the")
    played.act(" user", cut=True)
    assert len(played.check()) == 1
    whole = played.encode("the answer\n\nof the user")
    assert tokenizer.decode(played.dialogue.prompt_ids) == tokenizer.decode(whole)
    assert len(whole) < len(played.dialogue.prompt_ids)  # encoded again, a token would span both


def test_plain_text_begins_with_the_special_tokens_that_prompts_begin_with() -> None:
    characters = make_characters("^~")
    chats = Chats(characters, [characters.eos_token_id])
    for add, begins in ((None, "^"), (False, "")):
        prompt = prompt_of(characters, "ab", chat=False, add_special_tokens=add)
        dialogue = chats.begin(prompt, [{"role": "user", "content": "xyz"}])
        assert "".join(characters.convert_ids_to_tokens(dialogue.prompt_ids)) == begins + "xyz"


def test_a_template_without_ends_of_turns_begins_a_new_row_each_turn() -> None:
    characters = make_characters(
        chat="{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:"
    )
    characters.backend_tokenizer.decoder = decoders.Fuse()
    prompt, end = prompt_of(characters, "go"), characters.eos_token_id
    cases: list[tuple[Literal["template", "keep"], int, str]] = [
        ("template", 2, "u:go;a:yes;u:no;a:"),
        ("keep", 1, "u:go;a:yes~;u:no;a:"),
    ]
    for history, rows, text in cases:
        dialogue = Chats(characters, [end]).begin(prompt, prompt.messages, (), history)
        ids = characters("yes~", add_special_tokens=False).input_ids
        assert dialogue.act(rollout(characters, prompt.token_ids, ids, [end], False)).text == "yes"
        dialogue.observe([{"role": "user", "content": "no"}])
        assert "".join(characters.convert_ids_to_tokens(dialogue.prompt_ids)) == text
        dialogue.act(rollout(characters, dialogue.prompt_ids, ids, [end], False))
        assert len(dialogue.rows()) == rows


def test_a_start_that_the_template_refuses() -> None:
    chats, prompt = Chats(make_tokenizer("gemma"), [1]), prompt_of(make_tokenizer("gemma"))
    with pytest.raises(UserError, match=r"chat template refuses .* \(system, user\): there is no"):
        chats.begin(prompt, [{"role": "system", "content": "s"}, *prompt.messages])
    answered = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(UserError, match="ends with a message of the assistant"):
        chats.begin(prompt, answered)
    missing = Prompt("a/0", "x", (5,), None, {}, template=ChatTemplate("{{ nothing.x }}"))
    with pytest.raises(UserError, match="refuses the messages"):
        chats.begin(missing, prompt.messages)


def test_a_text_that_ends_responses_is_followed_by_the_end_that_the_template_writes() -> None:
    played = Played("chatml", begin("chatml", tools=True))
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    assert len(played.act(call).calls) == 1  # with rollout.stop = ["</tool_call>"]
    played.observe({"role": "tool", "content": "12"})
    assert played.text.endswith(
        f"{call}<|im_end|>\n<|im_start|>user\n<tool_response>\n12\n</tool_response><|im_end|>\n{ASKED}"
    )
    played.act("12<|im_end|>")
    assert len(played.check()) == 1


@pytest.mark.parametrize("scheme", ["always", "first", "never", "normalizer"])
def test_a_text_that_follows_gets_no_space_in_front(scheme: Any) -> None:
    inner = Tokenizer(models.BPE())
    if scheme == "normalizer":
        inner.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    alphabet = list("abcdefghijklmnopqrstuvwxyz\n.\u2581")
    trainer = trainers.BpeTrainer(
        vocab_size=60,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(["hello the end\n\nhello. hello\n"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    tokens = Tokens(tokenizer, [tokenizer.eos_token_id])
    for text in ("hello", "\nhello", "\n\nhello", ". hello", " hello"):
        pieces = tokenizer.convert_ids_to_tokens(tokens.encode_after(text))
        assert "".join(pieces).replace("\u2581", " ") == text


def test_a_text_of_the_conversation_may_look_like_a_mark() -> None:
    played = Played("chatml", begin("chatml", text="Zq0q1cZ Zq1q"))
    for answer in ("Zq0q1cZ", "Zq2q3cZ"):
        played.act(answer + "<|im_end|>")
        played.observe("Zq0q1cZ<|im_end|>")
    played.act("5<|im_end|>")
    assert len(played.check()) == 1
    assert played.text.count("Zq0q1cZ") == 4


def test_a_control_token_that_cannot_be_split_is_refused() -> None:
    tokenizer = make_characters("^~", "{% for m in messages %}{{ m.content }}~{% endfor %}")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    tokenizer.add_tokens([AddedToken("<b>", special=True, normalized=True)])
    prompt, end = prompt_of(tokenizer), tokenizer.eos_token_id
    dialogue = Chats(tokenizer, [end]).begin(prompt, prompt.messages)
    dialogue.act(rollout(tokenizer, prompt.token_ids, [40, end], [end], False))
    with pytest.raises(UserError, match="text of a control token, and the tokenizer reads it as"):
        dialogue.observe([{"role": "user", "content": "a <b> c"}])
