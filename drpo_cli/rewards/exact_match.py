"""1 where the completion equals the reference answer, else 0."""

from __future__ import annotations

from drpo_cli.errors import UserError
from drpo_cli.settings import RewardSettings

INLINE = True


class Config(RewardSettings):
    """Options of the comparison."""

    strip: bool = True
    """Ignore white space around the completion and the answer."""


def needs_answer(config: Config) -> bool:
    """It compares with the answer."""
    return True


def reward(completion: str, answer: str | None, config: Config) -> float:
    """1.0 or 0.0. Raises UserError for a problem without an answer."""
    if answer is None:
        raise UserError("the problem has no answer to compare with", "check the source's fields")
    if config.strip:
        completion, answer = completion.strip(), answer.strip()
    return float(completion == answer)


EXAMPLES = [
    ({"completion": " 46\n", "answer": "46", "config": Config()}, 1.0),
    ({"completion": "47", "answer": "46", "config": Config()}, 0.0),
    ({"completion": " 46", "answer": "46", "config": Config(strip=False)}, 0.0),
]
