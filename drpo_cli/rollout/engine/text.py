"""The text of a response: its tokens, decoded once, as they read after the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # stands for bytes that are not UTF-8
CONTEXT = 16  # tokens of the prompt's end that are decoded together with a response


def decode_response(tokenizer: Any, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
    """The text of the tokens `ids` after the prompt, without special tokens, with every space.

    The prompt's end is decoded along, because some tokenizers drop the space in front of the first
    token of a text. Bytes that are not UTF-8, such as a character cut short, become U+FFFD.
    """
    context = prompt_ids[-CONTEXT:]
    before = _decode(tokenizer, context)
    if not before or BROKEN in before:  # all its tokens are special, or it cuts a character
        context = prompt_ids
        before = _decode(tokenizer, context)
    whole = _decode(tokenizer, [*context, *ids])
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, ids)


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text
