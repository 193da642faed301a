"""The score that a reasoning-gym task gives to a completion, from 0 to 1.

For rows of the data source with the same name. Most tasks give part of the credit for part of the
answer; an answer that the task's scorer cannot read scores 0.

Some scorers (`countdown`, `n_queens`, integration, …) would evaluate the answer as Python code.
Here they get what is a literal or plain arithmetic; anything else, and a number of absurd size,
they cannot read, which `counts` has as `refused`. A scorer that computes for longer than 0.8
seconds scores 0, counted as `stopped`; one that takes more than 1 GiB cannot read the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from drpo_cli.gym import scores
from drpo_cli.settings import ParserSettings

IMPORTS = ("reasoning_gym",)


class Config(ParserSettings):
    """Options of the scoring."""

    tag: Annotated[str, Field(pattern=r"^\w+$")] | None = None
    """Score only the text of the last `<tag>…</tag>`; the whole completion when not set."""


def reward(completion: str, metadata: Mapping[str, Any], config: Config) -> float:
    """The task's own score. Raises UserError for a problem of another source."""
    return scores.score(completion, metadata, config.tag)


vars(reward)["counts"] = scores.counts

_FACTORS = {"question": "Factorize 6.", "answer": "2 × 3", "metadata": {"factors": [2, 3]}}
_FACTORIZE = {"task": "prime_factorization", "options": {}, "entry": _FACTORS}
_ROW = {"task": "chain_sum", "options": {}, "entry": {"question": "2 + 2 = ?", "answer": "4"}}
EXAMPLES = [
    ({"completion": " 4\n", "metadata": _ROW, "config": Config()}, 1.0),
    ({"completion": "5", "metadata": _ROW, "config": Config()}, 0.0),
    ({"completion": "<a>5</a> <a>4</a>", "metadata": _ROW, "config": Config(tag="a")}, 1.0),
    ({"completion": "4", "metadata": _ROW, "config": Config(tag="a")}, 0.0),
    ({"completion": "six", "metadata": _FACTORIZE, "config": Config()}, 0.0),
]
