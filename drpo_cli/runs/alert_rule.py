"""What a rule behind the alerts is, and what it remembers of a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

SMOOTHED = 5  # steps whose median stands for "now": one odd step changes nothing
BASELINE = 5  # first steps whose median stands for how the run began
BACK = 20  # steps between "now" and what a thing that runs away is compared with


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
        """Why the rule holds at this step, "" where it does not, None where it cannot be said."""


class ShareAbove(Rule):
    """A metric beyond a limit that is the same for every run."""

    key: str
    limit: float
    words: str
    form = ".0%"

    def judge(self, record: Mapping[str, Any]) -> str | None:
        """Compares the step's own value."""
        value = number(record.get(self.key))
        if value is None:
            return None
        return f"{value:{self.form}} {self.words}" if value > self.limit else ""


class Recent:
    """A metric's median over the last steps, over the first ones, and over those some steps ago.

    first   None until enough steps have it
    now     nan before the first value
    before  None until `BACK` steps lie between
    """

    def __init__(self, key: str):
        self.key = key
        self.first: float | None = None
        self.now = math.nan
        self.before: float | None = None
        self._values: deque[float] = deque(maxlen=BACK + SMOOTHED)

    def add(self, record: Mapping[str, Any]) -> float | None:
        """Takes a step's value; returns `first` where this step has a value and comes after it."""
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
    """A finite number of a record; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON's whole numbers have no end
        return None
