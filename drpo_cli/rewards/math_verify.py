r"""1 where the completion's final answer equals the reference mathematically, else 0.

math-verify extracts the last LaTeX or plain expression of the completion and compares it with the
reference answer by SymPy: `\frac{1}{2}`, `0.5` and `1/2` are one answer. A completion that does
not parse, or not in time, scores 0; a reference answer that does not parse stops the run. A
reference without `$` or `\boxed` is read as LaTeX, as if it were in a box.

The time-outs use signals, which work on the main thread only.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from drpo_cli.errors import UserError
from drpo_cli.settings import Count, RewardSettings


class Config(RewardSettings):
    """Options of the comparison."""

    decimals: Annotated[int, Field(ge=0, le=15)] = 6
    """Decimal places to which numbers must agree."""
    strict: bool = True
    """Variable names count, and a set is not a tuple."""
    timeout_seconds: Count = 5
    """Longest time to parse one answer, and to compare one pair of expressions, in seconds."""


def reward(completion: str, answer: str | None, config: Config) -> float:
    """1.0 or 0.0. Raises UserError for an answer that is missing or does not parse."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("math_verify works on the main thread only: its time-outs use signals")
    if answer is None:
        raise UserError("the problem has no answer to compare with; check the source's fields")
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError(f"{error}; install it with: pip install math-verify") from error
    gold = _parse_answer(answer, config.timeout_seconds)
    found = parse(completion, parsing_timeout=config.timeout_seconds)
    return float(
        verify(
            gold,
            found,
            float_rounding=config.decimals,
            strict=config.strict,
            timeout_seconds=config.timeout_seconds,
        )
    )


@lru_cache(maxsize=4096)  # the samples of a group share their reference
def _parse_answer(answer: str, timeout_seconds: int) -> list[Any]:
    from math_verify import parse

    bare = "$" not in answer and "\\boxed" not in answer
    text = f"\\boxed{{{answer}}}" if bare else answer
    parsed = parse(text, parsing_timeout=timeout_seconds)
    if not parsed:
        raise UserError(
            f"math-verify cannot parse the reference answer {answer!r}; mend the row, or use "
            "exact_match or regex for answers that are not mathematics"
        )
    return parsed


EXAMPLES = [
    ({"completion": r"so \boxed{\frac12}", "answer": "0.5", "config": Config()}, 1.0),
    ({"completion": "The answer is $x^2 + 2x$.", "answer": "x(x+2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{(1, 2)}", "answer": "(1,2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config()}, 0.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config(decimals=2)}, 1.0),
    ({"completion": "no idea", "answer": "1", "config": Config()}, 0.0),
]
