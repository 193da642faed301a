"""1 where the completion follows all verifiable instructions of its row, else 0: IFEval.

The row names them, and their arguments, as the data set google/IFEval does (arXiv 2311.07911):
`instruction_id_list = ["punctuation:no_comma", "length_constraints:number_words"]`, `kwargs = [{},
{"num_words": 300, "relation": "at least"}]`. Arguments that are null do not count. An empty
completion follows none. Of a completion with `</think>`, only what comes after it is looked at;
one that begins with `<think>` and never ends it follows none.

Languages are guessed by langdetect, which is often wrong about a few words. Words in capitals are
counted by nltk, and so are sentences, for which it needs its data `punkt_tab`: that is downloaded
when a row first asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from drpo_cli.errors import UserError
from drpo_cli.rewards._instructions import CHECKS, variants
from drpo_cli.settings import ParserSettings

IMPORTS = ("nltk", "langdetect")


class Config(ParserSettings):
    """Options of the checks."""

    names: Annotated[str, Field(min_length=1)] = "instruction_id_list"
    """Column with the names of a row's instructions."""
    arguments: Annotated[str, Field(min_length=1)] = "kwargs"
    """Column with the arguments of each of them."""
    measure: Literal["strict", "loose"] = "strict"
    """`loose` also accepts a completion that follows an instruction without its first line, its
    last, or its asterisks."""
    partial: bool = False
    """Score the share of instructions that are followed instead of all or nothing."""


class reward:
    """Needs the packages of `IMPORTS`, whatever the rows ask for: UserError without them."""

    def __init__(self, config: Config) -> None:
        for package in IMPORTS:
            if find_spec(package) is None:
                what = f"the reward `instructions` needs {package}, which is not installed"
                raise UserError(what, "pip install 'drpo[ifeval]'")
        self._config = config

    def __call__(self, completion: str, metadata: Mapping[str, Any]) -> float:
        """From 0 to 1. Raises UserError for a row whose instructions are missing or wrong."""
        asked, text = _read(metadata, self._config), _answer(completion)
        texts = list(variants(text)) if self._config.measure == "loose" else [text]
        followed = [
            any(one.strip() and CHECKS[name](one, **given) for one in texts)
            for name, given in asked
        ]
        return sum(followed) / len(followed) if self._config.partial else float(all(followed))


def _answer(completion: str) -> str:
    """The completion without its reasoning."""
    _, end, after = completion.rpartition("</think>")
    if end:
        return after.strip()
    return "" if completion.lstrip().startswith("<think>") else completion


def _read(metadata: Mapping[str, Any], config: Config) -> list[tuple[str, dict[str, Any]]]:
    """The names of a row's instructions, each with its arguments."""
    names, arguments = metadata.get(config.names), metadata.get(config.arguments)
    for column, value in ((config.names, names), (config.arguments, arguments)):
        if not isinstance(value, list) or not value:
            raise UserError(f"the row has no list {column!r} of instructions", "check the columns")
    assert isinstance(names, list) and isinstance(arguments, list)
    if len(names) != len(arguments):
        what = f"{len(names)} instructions, and {len(arguments)} times arguments"
        raise UserError(f"the row has {what}", "give each its own, {} for none")
    if unknown := [name for name in names if name not in CHECKS]:
        raise UserError(
            f"there is no instruction {unknown[0]!r}", f"name one of {', '.join(CHECKS)}"
        )
    asked = []
    for name, given in zip(names, arguments, strict=True):
        stated = {key: value for key, value in (given or {}).items() if value is not None}
        try:
            inspect.signature(CHECKS[name]).bind("", **stated)
        except TypeError as error:
            raise UserError(f"{name} cannot be checked with {stated}: {error}") from error
        asked.append((name, stated))
    return asked


_COMMAS = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
_BOTH = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "at least"}],
}
EXAMPLES = [
    ({"completion": "no comma", "metadata": _COMMAS, "config": Config()}, 1.0),
    ({"completion": "one, two", "metadata": _COMMAS, "config": Config()}, 0.0),
    ({"completion": "<think>a, b</think> no", "metadata": _COMMAS, "config": Config()}, 1.0),
    ({"completion": "no comma", "metadata": _BOTH, "config": Config()}, 0.0),
    ({"completion": "no comma", "metadata": _BOTH, "config": Config(partial=True)}, 0.5),
    ({"completion": "Sure, here:\nno", "metadata": _COMMAS, "config": Config()}, 0.0),
    (
        {"completion": "Sure, here:\nno", "metadata": _COMMAS, "config": Config(measure="loose")},
        1.0,
    ),
]
