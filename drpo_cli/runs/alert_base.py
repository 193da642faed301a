"""What all rules of alerts are made of: a judgement per step, and medians of a metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

SMOOTHED = 5  # steps whose median stands for "now": one odd step changes nothing
BASELINE = 5  # first steps whose median stands for how the run began
BACK = 20  # steps between "now" and the value that a runaway metric is compared with


class Rule(ABC):
    """One kind of alert: judges a step's metrics by those of the steps before.

    kind        its name
    suggestion  what to do about it
    held, of    an alert begins where `held` of the last `of` judged steps say so
    """

    kind: str
    suggestion: str
    held, of = 4, 5

    @abstractmethod
    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Says why the rule holds at this step; "" where it does not, None where it cannot tell."""


class Above(Rule):
    """A metric above a limit that is the same for every run."""

    key: str
    limit: float
    words: str
    form = ".0%"

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares the step's own value with the limit."""
        value = number(record.get(self.key))
        if value is None:
            return None
        return f"{value:{self.form}} {self.words}" if value > self.limit else ""


class Runaway(Rule):
    """A metric that is several times as large as `BACK` steps ago, and above a least value."""

    key: str
    factor: float
    words: str
    form: str

    def __init__(self) -> None:
        self._recent = Recent(self.key)

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares the metric with its own value some steps ago."""
        self._recent.add(record)
        before, now = self._recent.before, self._recent.now
        if number(record.get(self.key)) is None or before is None:
            return None
        if now < self.factor * before or now < self.least(before):
            return ""
        values = f"{before:{self.form}} to {now:{self.form}}"
        return f"{self.words.format(values)} within about {BACK} steps"

    @abstractmethod
    def least(self, before: float) -> float:
        """The least value that is an alert."""


class Recent:
    """A metric's median over the last steps, over the first steps, and over those some steps ago.

    first   None until enough steps have it
    now     nan before the first value
    before  None until there are `BACK` steps in between
    """

    def __init__(self, key: str):
        self.key = key
        self.first: float | None = None
        self.now = math.nan
        self.before: float | None = None
        self._values: deque[float] = deque(maxlen=BACK + SMOOTHED)

    def add(self, record: Mapping[str, Any]) -> float | None:
        """Adds a step's value; returns `first` where this step has a value and comes after it."""
        value = number(record.get(self.key))
        if value is None:
            return None
        first = self.first
        self._values.append(value)
        known = list(self._values)
        self.now = median(known[-SMOOTHED:])
        if len(known) == BASELINE and first is None:
            self.first = median(known)
        if len(known) == BACK + SMOOTHED:
            self.before = median(known[:SMOOTHED])
        return first


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's integers may be of any size
        return None
