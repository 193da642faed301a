r"""1 where the completion's final answer equals the reference mathematically, else 0.

The answer is what the last `\boxed{…}` holds (`_math_text.py`); a last box that is empty or never
closed holds none. Without a box, math-verify extracts the last LaTeX or plain expression. It
compares by SymPy: `\frac{1}{2}`, `0.5` and `1/2` are equal. A reference is read as if it were in a
box. Words, letters of choices and numbers with a base (`204_5`) are compared as texts; currency
signs are dropped, and so are units, except two known ones that differ. Pairs of answers, also those
that it gets wrong, are in tests/corpus/math.

math-verify turns every error into "not equal". Here each such 0 is counted: `no_answer` (it finds
no answer in the completion), `timed_out` and `errors`. Its time-outs are signals that come once,
and Python ignores one that comes while it deletes an object; so ours, which come again, stand in
for them. Signals work only on the main thread; on another one, it is refused. They do not
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
from drpo_cli.rewards import _math_text
from drpo_cli.rewards._time import limited
from drpo_cli.settings import Count, ParserSettings

IMPORTS = ("math_verify",)


class Config(ParserSettings):
    """Options of the comparison."""

    decimals: Annotated[int, Field(ge=0, le=15)] = 6
    """Decimal places in which numbers must agree."""
    strict: bool = True
    """Variable names count, and a set is not a tuple."""
    timeout_seconds: Count = 5
    """Longest CPU time to parse one answer, and to compare it, in seconds. Keep it below a third of
    `timeout_s`, which otherwise ends most calls first."""


def needs_answer(config: Config) -> bool:
    """It compares with the answer."""
    return True


class reward:
    """`counts` has the zeros that are not wrong answers."""

    def __init__(self, config: Config) -> None:
        try:
            from math_verify import grader, parser
        except ImportError as error:
            raise UserError(str(error), "install it with: pip install math-verify") from error
        # It would warn once that it has no time-outs, and a warning counts as a time-out here
        grader.TIMEOUT_WARNING_SHOWN = parser.TIMEOUT_WARNING_SHOWN = True
        self._config = config
        self.counts: Counter[str] = Counter()

    def __call__(self, completion: str, answer: str | None) -> float:
        """1.0 or 0.0. Raises UserError for an answer that is missing or does not parse."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "math_verify works on the main thread only: its time-outs use signals"
            )
        if answer is None:
            raise UserError(
                "the problem has no answer to compare with", "check the source's fields"
            )
        from math_verify.errors import TimeoutException

        counted = self.counts.total()
        with self._count_logs():
            try:
                equal = self._is_equal(answer, completion)
            except TimeoutException:  # it came where math-verify expects none
                equal = False
                self.counts["timed_out"] += self.counts.total() == counted
        if equal is None and self.counts.total() == counted:
            self.counts["no_answer"] += 1
        return float(equal or False)

    def _is_equal(self, answer: str, completion: str) -> bool | None:
        """Whether the completion has the answer; None where it has none."""
        gold = _parse_answer(answer, self._config.timeout_seconds)
        text = _math_text.plain(completion)
        boxes = _math_text.find_boxes(text)
        if not boxes:
            return self._compare(gold, text)
        last = boxes[-1].content
        if last is None or not last.strip():
            return None
        if (final := _math_text.final_answer(text[boxes[-1].end :])) is not None:
            equal = self._compare(gold, final)
            if equal is not None:
                return equal
        last = _math_text.without_marks(last)
        known = _math_text.compare(_bare(answer), last, self._config.strict)
        if known is not None:
            return known
        equal = self._compare(gold, _boxed(last))
        several = _math_text.several_boxes(text, boxes)
        if not equal and len(several) > 1 and _is_collection(gold):
            return self._compare(gold, _boxed(", ".join(several)))
        return equal

    def _compare(self, gold: list[Any], text: str) -> bool | None:
        from math_verify import verify
        from math_verify.errors import TimeoutException

        limit = self._config.timeout_seconds
        found = _parse(text, limit)
        with limited(limit, TimeoutException):
            equal: bool = verify(
                gold,
                found,
                float_rounding=self._config.decimals,
                strict=self._config.strict,
                allow_set_relation_comp=True,
                timeout_seconds=None,
            )
        if not found:
            return None
        return equal and not _differ_in_size(gold[0], found[0], self._config.decimals)

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
    text = _bare(answer)
    parsed = _parse(text if "$" in text.replace("\\$", "") else _boxed(text), timeout_seconds)
    if not parsed:
        raise UserError(
            f"math-verify cannot parse the reference answer {answer!r}",
            "fix the row, or use exact_match or regex for answers that are not mathematics",
        )
    return parsed


def _parse(text: str, timeout_seconds: int) -> list[Any]:
    """What math-verify reads in the text; empty if that is nothing, or takes too long."""
    from math_verify import parse
    from math_verify.errors import TimeoutException

    with limited(timeout_seconds, TimeoutException):
        return list(parse(text, parsing_timeout=None))


def _bare(answer: str) -> str:
    """What the reference's boxes hold, or the formula that it is; prose stays as it is."""
    text = _math_text.plain(answer)
    boxes = _math_text.find_boxes(text)
    if boxes and boxes[-1].content is not None:
        text = ", ".join(_math_text.several_boxes(text, boxes))
    return _math_text.without_marks(text)


def _boxed(answer: str) -> str:
    return f"\\boxed{{{_math_text.to_latex(answer)}}}"


def _is_collection(gold: list[Any]) -> bool:
    return type(gold[0]).__name__ in ("FiniteSet", "Tuple")


def _differ_in_size(gold: Any, found: Any, decimals: int) -> bool:
    """Whether two numbers differ that are equal only because both are rounded to 0."""
    if gold == found or not all(getattr(one, "is_number", False) for one in (gold, found)):
        return False
    size, other = (abs(one.evalf(decimals + 5)) for one in (gold, found))
    if not (size.is_Float and other.is_Float and 0 < min(size, other) < 10**-decimals):
        return False
    return bool(abs(size - other) > min(size, other) * 10**-decimals)


EXAMPLES = [
    ({"completion": r"so \boxed{\frac12}", "answer": "0.5", "config": Config()}, 1.0),
    ({"completion": "The answer is $x^2 + 2x$.", "answer": "x(x+2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{(1, 2)}", "answer": "(1,2)", "config": Config()}, 1.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config()}, 0.0),
    ({"completion": r"\boxed{1/3}", "answer": "0.33", "config": Config(decimals=2)}, 1.0),
    ({"completion": "no idea", "answer": "1", "config": Config()}, 0.0),
]
