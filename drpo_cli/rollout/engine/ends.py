"""What ends a response: the model's end-of-sequence tokens, and what the spec adds.

Three files of a model folder name ends of sequence, and they often differ: the tokenizer's, the
configuration and `generation_config.json`. All count, with every engine. Nothing else is read of
`generation_config.json`: the spec alone says how responses are sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drpo_cli import pretrained
from drpo_cli.errors import UserError
from drpo_cli.settings import ModelSettings, RolloutSettings

GENERATION = "generation_config.json"
NEUTRAL = Path(__file__).parent / "neutral"
"""A folder with a `generation_config.json` that sets nothing, for engines that insist on one."""


@dataclass(frozen=True)
class Ends:
    """Tokens and texts of which each ends a response.

    ids    a response includes such a token, and its text does not
    texts  a response includes their tokens, and its text ends before them
    """

    ids: frozenset[int]
    texts: tuple[str, ...] = ()


def find_ends(options: RolloutSettings, model: ModelSettings, tokenizer: Any) -> Ends:
    """The ends of a model's sequences, with `stop` and `stop_token_ids` of the spec.

    A special token in `stop` counts as its id, because the text of a response has no special
    tokens. Raises UserError for ids that the model does not have, and for unreadable files.
    """
    config = load_config(model)
    text_config = config.get_text_config()
    ids = {
        *_ids(tokenizer.eos_token_id, f"the tokenizer of {model.path}"),
        *_ids(getattr(config, "eos_token_id", None), f"{model.path}/config.json"),
        *_ids(getattr(text_config, "eos_token_id", None), f"{model.path}/config.json"),
        *_ids(_generation(model.path).get("eos_token_id"), f"{model.path}/{GENERATION}"),
    }
    vocabulary = text_config.vocab_size
    if wrong := [one for one in options.stop_token_ids if one >= vocabulary]:
        raise UserError(
            f"rollout.stop_token_ids: {model.path} has no token {wrong[0]}",
            f"its ids go from 0 to {vocabulary - 1}",
        )
    special = _special_tokens(tokenizer)
    for stop in options.stop:
        if stop not in special and (inside := next((s for s in special if s in stop), None)):
            raise UserError(
                f"rollout.stop: {stop!r} contains the special token {inside!r}, which is never in "
                "the text of a response",
                "write the token alone, or the text without it",
            )
    ids |= {*options.stop_token_ids, *(special[stop] for stop in options.stop if stop in special)}
    texts = tuple(stop for stop in options.stop if stop not in special)
    return Ends(frozenset(one for one in ids if 0 <= one < vocabulary), texts)


@cache
def read_generation(path: str) -> bytes | None:
    """The `generation_config.json` of a model folder or hub id as it is; None if it has none.

    A process reads it once: a run saves the one that it started with. Raises UserError for a file
    that is not a JSON object.
    """
    from transformers.utils.hub import cached_file

    file = Path(path) / GENERATION
    if not Path(path).is_dir():
        found = cached_file(
            path,
            GENERATION,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if found is None:
            return None
        file = Path(found)
    try:
        content = file.read_bytes()
        if not isinstance(json.loads(content), dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"model.path: {file} cannot be read as JSON: {error}",
            "correct the file, or delete it: drpo reads only the ends of sequence there",
        ) from error
    return content


def _generation(path: str) -> dict[str, Any]:
    content = read_generation(path)
    found: dict[str, Any] = {} if content is None else json.loads(content)
    return found


def load_config(model: ModelSettings) -> Any:
    """The model's configuration. Raises UserError where it does not load."""
    from transformers import AutoConfig

    code = model.trust_remote_code
    return pretrained.read(AutoConfig, model.path, "model.path", trust_remote_code=code)


def _ids(value: object, where: str) -> Iterator[int]:
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, int) and not isinstance(one, bool):
            yield one
        elif one is not None:
            raise UserError(
                f"model.path: {where}: eos_token_id is {value!r}",
                "make it a token id, or a list of them",
            )


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """The ids of the tokens that the text of a response leaves out."""
    added = tokenizer.added_tokens_decoder
    special = {str(token): one for one, token in added.items() if token.special}
    named = {
        token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens
    }
    return {**named, **special}
