r"""1 where the completion matches a regular expression, or captures the answer, else 0.

Without `group` a match anywhere in the completion scores 1. With it, the group of the *last*
match is compared with the reference answer, white space around both ignored:
`pattern = '<answer>(.*?)</answer>'`, `group = 1`. The syntax is that of Python's `re`; start the
pattern with `(?s)` to let a dot match line breaks. With a pattern such as `(a+)+$` some completions
take for ever: a match of more than a second of CPU time scores 0 and is counted as `timed_out`.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from drpo_cli.errors import UserError
from drpo_cli.rewards._time import limited
from drpo_cli.settings import ParserSettings

counts: Counter[str] = Counter()


class Config(ParserSettings):
    """Options of the match."""

    pattern: Annotated[str, Field(min_length=1)]
    """The regular expression; in TOML put it between single quotes, which keep backslashes."""
    group: Annotated[int, Field(ge=0)] | None = None
    """Compare this group of the last match with the answer; 0 is the whole match."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _has_group(self) -> Config:
        groups = re.compile(self.pattern).groups
        if self.group is not None and self.group > groups:
            raise ValueError(f"group = {self.group}, but the pattern has {groups} groups")
        return self


def needs_answer(config: Config) -> bool:
    """With `group` it compares with the answer."""
    return config.group is not None


def reward(completion: str, answer: str | None, config: Config) -> float:
    """1.0 or 0.0. Raises UserError when `group` is set and the problem has no answer."""
    if config.group is not None and answer is None:
        raise UserError("the problem has no answer to compare with", "check the source's fields")
    try:
        with limited():
            return _score(completion, answer, config)
    except TimeoutError:
        counts["timed_out"] += 1
        return 0.0


reward.counts = counts  # type: ignore[attr-defined]


def _score(completion: str, answer: str | None, config: Config) -> float:
    if config.group is None or answer is None:
        return float(re.search(config.pattern, completion) is not None)
    last = deque(re.finditer(config.pattern, completion), maxlen=1)
    return float(any((match[config.group] or "").strip() == answer.strip() for match in last))


_BOXED = Config(pattern=r"\\boxed\{(.*?)\}", group=1)
EXAMPLES = [
    ({"completion": "so #### 4", "answer": None, "config": Config(pattern=r"#### \d+$")}, 1.0),
    ({"completion": "four", "answer": None, "config": Config(pattern=r"\d")}, 0.0),
    ({"completion": r"\boxed{3}, no: \boxed{ 4 }", "answer": "4", "config": _BOXED}, 1.0),
    ({"completion": r"\boxed{4}, no: \boxed{3}", "answer": "4", "config": _BOXED}, 0.0),
    ({"completion": "4", "answer": "4", "config": _BOXED}, 0.0),
]
