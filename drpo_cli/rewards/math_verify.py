r"""1 where the completion's final answer equals the reference mathematically, else 0.

math-verify extracts the last LaTeX or plain expression of the completion and compares it with the
reference answer by SymPy: `\frac{1}{2}`, `0.5` and `1/2` are equal. A reference without `$` or
`\boxed` is read as LaTeX, as if it were in a box.

math-verify turns every error into "not equal". Here each such 0 is counted: `no_answer` (it finds
no answer in the completion), `timed_out` and `errors`. Its time-outs are signals, which work only
on the main thread; on another one nothing would ever be equal, so that is refused. They do not
interrupt one long operation on integers, such as `\frac{3^{5000000}}{2^{8000000}+1}`; such a call
is killed at `timeout_s`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from drpo_cli.errors import UserError
from drpo_cli.settings import Count, ParserSettings

IMPORTS = ("math_verify",)


class Config(ParserSettings):
    """Options of the comparison."""

    decimals: Annotated[int, Field(ge=0, le=15)] = 6
    """Decimal places in which numbers must agree."""
    strict: bool = True
    """Variable names count, and a set is not a tuple."""
    timeout_seconds: Count = 5
    """Longest time to parse one answer, and to compare one pair of expressions, in seconds. Keep it
    below a third of `timeout_s`, which otherwise ends most calls first."""


def needs_answer(config: Config) -> bool:
    """It compares with the answer."""
    return True


class reward:
    """`counts` has the zeros that are not wrong answers."""

    def __init__(self, config: Config) -> None:
        try:
            import math_verify  # noqa: F401
        except ImportError as error:
            raise UserError(str(error), "install it with: pip install math-verify") from error
        self._config = config
        self.counts: Counter[str] = Counter()

    def __call__(self, completion: str, answer: str | None) -> float:
        """1.0 or 0.0. Raises UserError for an answer that is missing or does not parse."""
        from math_verify import parse, verify

        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "math_verify works on the main thread only: its time-outs use signals"
            )
        if answer is None:
            raise UserError(
                "the problem has no answer to compare with", "check the source's fields"
            )
        limit = self._config.timeout_seconds
        gold = _parse_answer(answer, limit)
        counted = self.counts.total()
        with self._count_logs():
            found = parse(completion, parsing_timeout=limit)
            equal = verify(
                gold,
                found,
                float_rounding=self._config.decimals,
                strict=self._config.strict,
                timeout_seconds=limit,
            )
        if not found and self.counts.total() == counted:
            self.counts["no_answer"] += 1
        return float(equal)

    @contextmanager
    def _count_logs(self) -> Iterator[None]:
        """Counts what math-verify only logs: time-outs as warnings, its errors at debug level."""
        logger, handler = logging.getLogger("math_verify"), _CountingHandler(self.counts)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False  # its warning would print the whole completion
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _CountingHandler(logging.Handler):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        self._counts["timed_out" if record.levelno >= logging.WARNING else "errors"] += 1


@lru_cache(maxsize=4096)  # the samples of a group share their reference
def _parse_answer(answer: str, timeout_seconds: int) -> list[Any]:
    from math_verify import parse

    bare = "$" not in answer and "\\boxed" not in answer
    text = f"\\boxed{{{answer}}}" if bare else answer
    parsed: list[Any] = parse(text, parsing_timeout=timeout_seconds)
    if not parsed:
        raise UserError(
            f"math-verify cannot parse the reference answer {answer!r}",
            "fix the row, or use exact_match or regex for answers that are not mathematics",
        )
    return list(parsed)


EXAMPLES = [
    ({"completion": r"so \boxed{\frac12}", "answer": "0.5", "config": Config()}, 1.0),
    ({"completion": "The answer is $x^2 + 2x$.", "answer": "x(x+2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{(1, 2)}", "answer": "(1,2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config()}, 0.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config(decimals=2)}, 1.0),
    ({"completion": "no idea", "answer": "1", "config": Config()}, 0.0),
]
