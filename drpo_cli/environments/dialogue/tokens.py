"""Text to ids and back for one tokenizer; keeps text of others from becoming control tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, NamedTuple

from drpo_cli.chat_templates import naming
from drpo_cli.errors import UserError

ZERO_WIDTH = "\u200b"  # put into the text of a control token, so that it is not read as the token
BROKEN = "\ufffd"  # in place of what is not text, and of a control token of one character
SURROGATE = re.compile("[\ud800-\udfff]")
ANCHORS = ("\n", ".", ")", "x")
MOST_CONTROLS = 4  # behind a call: tokens that close it, and the end of the turn
SHORTEST = 3  # characters of a token of markup that a template writes, such as <b>


class Control(NamedTuple):
    """A special token in a text: where it begins, and which one it is."""

    at: int
    text: str
    id: int


class Tokens:
    """Encodes and decodes the texts of dialogues. `ends` are the ids that end a response."""

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._added = {token.content: id for id, token in added.items()}
        self._special = {token.content: id for id, token in added.items() if token.special}
        self._find_special = _any_of(self._special)
        # any token may end a response, also one of ordinary text, such as a line break
        self._controls = {**self._special, **{self.decode([id]): id for id in self.ends}}
        self._find_control = _any_of(self._controls)
        self._adds_space = _adds_space(tokenizer)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a whole text; with `special`, those around it, but no end of sequence."""
        with naming("the tokenizer cannot read the text of an episode"):
            ids: list[int] = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        end = self.tokenizer.eos_token_id
        if special and len(ids) > 1 and ids[-1] == end and self.encode(text)[-1:] != [end]:
            ids.pop()
        return ids

    def encode_after(self, text: str) -> list[int]:
        """The ids of a text that follows another.

        Some tokenizers put a space in front of a text. Another character in front keeps it away,
        if it does not become one token with the text.
        """
        for before in ANCHORS if self._adds_space else ():
            head, whole = self.encode(before), self.encode(before + text)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, with special tokens and every space."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def find_controls(self, text: str, start: int) -> list[Control]:
        """The first special tokens, or ends of a response, in a text from `start` on."""
        found = islice(self._find_control.finditer(text, start), MOST_CONTROLS)
        return [Control(one.start(), one[0], self._controls[one[0]]) for one in found]

    def without_special(self, text: str) -> str:
        """A text without the special tokens in it."""
        return self._find_special.sub("", text)

    def controls(self, template: str) -> dict[str, int]:
        """The tokens that text of others must not become: special ones, and a template's markup."""
        markup = {
            token: id
            for token, id in self._added.items()
            if len(token.strip()) >= SHORTEST and token in template
        }
        return {**self._special, **markup}


class Escape:
    """Keeps text of others from becoming control tokens: a zero-width space splits their text."""

    def __init__(self, tokens: Tokens, controls: dict[str, int]) -> None:
        self._tokens = tokens
        self._find = _any_of(controls)
        self._ids = frozenset(controls.values()) - {tokens.tokenizer.unk_token_id}

    def __call__(self, text: str) -> str:
        """The text, in which no control token is left, nor half a character (a lone surrogate).

        Raises UserError for a tokenizer that reads one all the same.
        """
        text = whole(text)
        if self._find.search(text) is None:
            return text
        while self._find.search(text) is not None:  # splitting one may leave another in its rest
            text = self._find.sub(_split, text)
        if self._ids & set(self._tokens.encode(text)):
            raise UserError(
                "an observation has the text of a control token, and the tokenizer reads it as one "
                f"whatever is put into it: {text[:80]!r}",
                "remove it from the observation in the environment or the tool",
            )
        return text


def whole(text: str) -> str:
    """A text with U+FFFD in place of half characters (lone surrogates), which have no tokens."""
    return SURROGATE.sub(BROKEN, text)


def _split(found: re.Match[str]) -> str:
    token = found[0]
    return BROKEN if len(token) == 1 else token[0] + ZERO_WIDTH + token[1:]


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _adds_space(tokenizer: Any) -> bool:
    ids = tokenizer("x", add_special_tokens=False).input_ids
    first = tokenizer.convert_ids_to_tokens(ids[:1])
    return bool(first) and str(first[0]).startswith("\u2581")
