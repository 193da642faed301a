"""Alerts: what is wrong with a run by its metrics, since when, why, and what to do.

An alert begins where its rule holds on most of a few steps in a row, and ends after some steps on
which it does not; shorter interruptions belong to it. Its text is that of the step where it began,
so that the live view, the log and the report show the same.

A rule ignores a step whose record lacks its key. What is normal differs by orders of magnitude
between models and tasks, so most rules compare a run with its own first steps, or with itself some
steps ago. The limits raise no alert on the healthy ones of about a thousand recorded CPU runs:
quickstart, study, and both with other objectives and rates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from drpo_cli.runs.alert_base import Rule
from drpo_cli.runs.alert_rules import RULES

GRACE = 5  # steps in a row without the rule that end an alert


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong, over a range of steps.

    kind        the rule's name
    step        the first step
    until       the last step; None while it holds
    reason      what was measured when it began
    suggestion  what to do, in settings of the spec
    """

    kind: str
    step: int
    until: int | None
    reason: str
    suggestion: str

    def __str__(self) -> str:
        return f"alert: {self.kind} since step {self.step}: {self.reason}; {self.suggestion}"


class Watch:
    """Finds alerts in records as they come, in the order of steps."""

    def __init__(self, metrics: Iterable[Mapping[str, Any]] = ()) -> None:
        self._last = -math.inf
        self._episodes = [_Episodes(rule()) for rule in RULES]
        for record in metrics:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> list[Alert]:
        """Adds the next step's metrics; returns the alerts that begin with it.

        Ignores a record without a step, or with an earlier one.
        """
        step = record.get("step")
        if not isinstance(step, int) or step <= self._last:
            return []
        self._last = step
        return [new for one in self._episodes if (new := one.add(step, record)) is not None]

    def alerts(self) -> list[Alert]:
        """All alerts so far, in the order of the steps where they began."""
        return sorted((a for one in self._episodes for a in one.found), key=lambda a: a.step)


def alerts(metrics: Iterable[Mapping[str, Any]]) -> list[Alert]:
    """The alerts of a run, by all its records in the order of steps."""
    return Watch(metrics).alerts()


class _Episodes:
    """The ranges of steps on which one rule holds."""

    def __init__(self, rule: Rule):
        self.found: list[Alert] = []
        self._rule = rule
        self._recent: deque[int | None] = deque(maxlen=rule.of)
        self._open = False
        self._missed = 0
        self._last = 0

    def add(self, step: int, record: Mapping[str, Any]) -> Alert | None:
        reason = self._rule.judge(record)
        if reason is None:
            return None
        if self._open:
            self._extend(step, holds=bool(reason))
            return None
        self._recent.append(step if reason else None)
        held = [s for s in self._recent if s is not None]
        if not reason or len(held) < self._rule.held:
            return None
        self._open, self._missed, self._last = True, 0, step
        begun = Alert(self._rule.kind, held[0], None, reason, self._rule.suggestion)
        self.found.append(begun)
        return begun

    def _extend(self, step: int, holds: bool) -> None:
        now = self.found[-1]
        if holds:
            self._missed, self._last = 0, step
            self.found[-1] = replace(now, until=None)
            return
        self._missed += 1
        if now.until is None:
            self.found[-1] = replace(now, until=self._last)
        if self._missed == GRACE:
            self._open = False
            self._recent.clear()
