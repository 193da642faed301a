"""Random conversations in six families: what is replayed is what the engine saw, id for id."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from drpo_cli.environments.dialogue.dialogue import Dialogue, Start
from drpo_cli.types import Message
from support.dialogues import FAMILIES, Played, begin

PIECES = ["the", " end", "\n", "\n\n", "user\n", "é", "漢字", "🙂", "{", "}\n", "12", "\t", "is."]
MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool_response>")
CONTROLS = [*sorted({token for family in FAMILIES.values() for token in family.special}), *MARKUP]
WORDS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
OBSERVED = st.lists(st.sampled_from(PIECES + CONTROLS), max_size=6).map("".join)


class Turn(NamedTuple):
    """What the policy does, and what it then sees.

    calls   their arguments; a call that is not `valid` lacks its last brace
    ends    how it stops: with the family's end, another one, or by running out of tokens
    pieces  its tokens: those of the text with the prompt, of the text alone, or one per letter
    """

    content: str
    thinking: str | None
    calls: list[str]
    valid: bool
    ends: str
    pieces: str
    observed: list[str]


TURNS = st.lists(
    st.builds(
        Turn,
        content=WORDS,
        thinking=st.none() | WORDS.map(lambda text: f"so {text}."),
        calls=st.lists(WORDS, max_size=2),
        valid=st.sampled_from([True, True, True, False]),
        ends=st.sampled_from(["own", "own", "own", "other", "cut"]),
        pieces=st.sampled_from(["joint", "joint", "alone", "letters"]),
        observed=st.lists(OBSERVED, min_size=1, max_size=3),
    ),
    min_size=2,
    max_size=5,
)


def say(name: str, turn: Turn, tools: bool) -> str:
    """A response in the family's form, with the token that ends it."""
    family = FAMILIES[name]
    end = {"own": family.special[1], "other": (*family.ends, family.special[1])[0], "cut": ""}
    calls = turn.calls if tools else []
    key = "parameters" if name == "llama3" else "arguments"
    objects = [
        {"name": "look", key: {"x": text}, **({"id": f"abcdefgh{k}"} if name == "mistral" else {})}
        for k, text in enumerate(calls)
    ]
    spelled = [json.dumps(each, ensure_ascii=False) for each in objects]
    if not turn.valid:
        spelled = [text[:-1] for text in spelled]
    content, thinking = turn.content, turn.thinking
    if name in ("chatml", "qwen3"):
        tagged = [f"<tool_call>\n{text}\n</tool_call>" for text in spelled]
        thought = f"<think>\n{thinking}\n</think>\n\n" if name == "qwen3" and thinking else ""
        said = thought + "\n".join(filter(None, [content, *tagged]))
    elif name == "llama3":
        said = "; ".join(spelled) if calls else content
    elif name == "mistral":
        said = f"[TOOL_CALLS] [{', '.join(spelled)}]" if calls else " " + content
    elif name == "gpt_oss":
        parts = [f"<|channel|>analysis<|message|>{thinking}"] if thinking else []
        arguments = [json.dumps(each[key], ensure_ascii=False) for each in objects]
        parts += [
            "<|channel|>commentary to=functions.look <|constrain|>json<|message|>"
            + (text if turn.valid else text[:-1])
            for text in arguments
        ]
        if not calls:
            parts.append(f"<|channel|>final<|message|>{content}")
        said = "<|end|><|start|>assistant".join(parts)
        end["own"] = "<|call|>" if calls else "<|return|>"
    else:
        said = content
    return said + end[turn.ends] or "…"  # an engine samples one token at least


def tokens_of(played: Played, text: str, pieces: str) -> tuple[list[int], bool]:
    """The tokens of a response, and whether prompt and response have those of their whole text."""
    prompt_ids, encode = played.dialogue.prompt_ids, played.encode
    alone, whole = encode(text), encode(played.text + text)
    joint = whole[len(prompt_ids) :]
    if pieces == "joint" and (*prompt_ids, *joint) == tuple(whole):
        return joint, True
    if pieces == "letters":
        family = FAMILIES[played.name]
        control = "|".join(map(re.escape, (*family.special, *family.markup)))
        alone = [id for part in re.findall(f"{control}|.", text, re.DOTALL) for id in encode(part)]
    return alone, (*prompt_ids, *alone) == tuple(whole)


def play(name: str, turns: list[Turn], tools: bool, keeps: bool) -> Played:
    """Plays a conversation, with answers of tools to calls and messages of the user to others."""
    played = Played(name, begin(name, tools, "keep" if keeps else "template"))
    exact = True  # whether the whole text has the tokens of one encoding
    for turn in turns:
        said = say(name, turn, tools)
        ids, same = tokens_of(played, said, turn.pieces)
        exact = exact and same
        played.act(said, cut=turn.ends == "cut", ids=ids)
        calls: Any = played.dialogue.messages[-1].get("tool_calls", ())
        role = "tool" if calls else "user"
        observed = turn.observed[: len(calls) or None]
        observed += ["more"] * (len(calls) - len(observed))
        messages: list[Message] = [{"role": role, "content": text} for text in observed]
        played.observe(*messages)
        exact = exact or played.begins_row  # a new row has the tokens of its prompt
        if exact:
            assert played.dialogue.prompt_ids == tuple(played.encode(played.text))
    return played


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(turns=TURNS, tools=st.booleans(), keeps=st.booleans())
def test_what_is_replayed_is_what_the_engine_saw(
    name: str, turns: list[Turn], tools: bool, keeps: bool
) -> None:
    tools = tools and FAMILIES[name].tools
    played = play(name, turns, tools, keeps)
    rows = played.check()
    assert not keeps or len(rows) == 1
    assert sum(row.sampled_tokens for row in rows) == sum(len(ids) for _, ids in played.saw)
    harmless = [turn._replace(observed=["ok"] * len(turn.observed)) for turn in turns]
    assert controls(played) == controls(play(name, harmless, tools, keeps))


def controls(played: Played) -> list[list[int]]:
    """The control tokens of all prompts, in order: no observation adds one."""
    family = FAMILIES[played.name]
    ids = set(played.tokenizer.convert_tokens_to_ids([*family.special, *family.markup]))
    return [[id for id in prompt_ids if id in ids] for prompt_ids, _ in played.saw]


class Retokenises(Dialogue):
    """Encodes its whole text again after every observation."""

    def observe(self, messages: Sequence[Message]) -> None:
        super().observe(messages)
        row = self._row
        ids = self._tokens.encode(self._tokens.decode(self.prompt_ids))
        row.ids[:] = ids[len(row.prompt_ids) :]


class Splits(Dialogue):
    """Encodes every message of an observation apart."""

    def observe(self, messages: Sequence[Message]) -> None:
        before = len(self._row.ids)
        super().observe(messages)
        row = self._row
        text = self._tokens.decode(row.ids[before:])
        row.ids[before:] = [
            id for line in text.splitlines(True) for id in self._tokens.encode(line)
        ]


class Unescaped(Dialogue):
    """Takes observations as they are."""

    def __init__(self, tokens: Any, renderer: Any, messages: Any, start: Start) -> None:
        bare = copy(renderer)
        bare.spelling = replace(renderer.spelling, escape=str)
        super().__init__(tokens, bare, messages, start)


@pytest.mark.parametrize("mutant", [Retokenises, Splits, Unescaped])
@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_other_ways_to_make_the_tokens_are_found_out(
    mutant: type[Dialogue], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = test_what_is_replayed_is_what_the_engine_saw.hypothesis.inner_test

    def fails(turns: list[Turn]) -> bool:
        try:
            check(name, turns, tools=True, keeps=False)
        except AssertionError:
            return True
        return False

    once = settings(max_examples=100, phases=[Phase.generate], derandomize=True, database=None)
    monkeypatch.setattr("drpo_cli.environments.dialogue.chats.Dialogue", mutant)
    assert find(TURNS, fails, settings=once)
