"""What is wrong with a run, read off its metrics: since when, why, and what to do.

An alert begins where its rule held on most of a few steps in a row, and ends where it has not held
for as long; shorter interruptions belong to it. What it says is what was known when it began, so
that a live view, the log and the report tell the same.

A rule has nothing to say of a step whose record lacks its key. What is normal differs by orders of
magnitude between models and tasks, so most rules compare a run with its own first steps, or with
itself some steps ago. The limits leave the healthy ones of about a thousand recorded CPU runs in
peace: quickstart, study, and both with other objectives and rates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drpo_cli.runs import alerts_policy, alerts_reward
from drpo_cli.runs.alert_rule import Rule

RULES = (*alerts_policy.RULES, *alerts_reward.RULES)
GRACE = 5  # steps in a row without the rule that end an alert


@dataclass(frozen=True)
class Alert:
    """One thing that is wrong, over a stretch of steps.

    kind        the rule's name
    step        where it began
    until       the last step it held; None while it holds
    reason      what was seen, with the figures, when it began
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
    """Alerts over records as they come, in the order of steps; `alerts` folds it."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._episodes = [_Episodes(rule()) for rule in RULES]

    def add(self, record: Mapping[str, Any]) -> list[Alert]:
        """Takes the next step's metrics; returns the alerts that begin with it.

        A record without a step, or one that goes back, is passed over.
        """
        step = record.get("step")
        if not isinstance(step, int) or step <= self._last:
            return []
        self._last = step
        return [new for one in self._episodes if (new := one.add(step, record)) is not None]

    def alerts(self) -> list[Alert]:
        """All alerts so far, in the order of the steps where they began."""
        return sorted((a for one in self._episodes for a in one.found), key=lambda a: a.step)


def alerts(metrics: Sequence[Mapping[str, Any]]) -> list[Alert]:
    """The alerts of a run, given all its records in the order of steps."""
    return watched(metrics).alerts()


def watched(metrics: Iterable[Mapping[str, Any]]) -> Watch:
    """A watch that has seen these records, and may be given more."""
    watch = Watch()
    for record in metrics:
        watch.add(record)
    return watch


class _Episodes:
    """The stretches of steps on which one rule holds."""

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
            self._go_on(step, holds=bool(reason))
            return None
        self._recent.append(step if reason else None)
        held = [s for s in self._recent if s is not None]
        if not reason or len(held) < self._rule.held:
            return None
        self._open, self._missed, self._last = True, 0, step
        begun = Alert(self._rule.kind, held[0], None, reason, self._rule.suggestion)
        self.found.append(begun)
        return begun

    def _go_on(self, step: int, holds: bool) -> None:
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
