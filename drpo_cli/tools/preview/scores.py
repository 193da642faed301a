"""What trying the rewards showed, as numbers: the same for the terminal and for JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drpo_cli.rewards.grading.grader import Graded
from drpo_cli.tools.preview.completions import as_line
from drpo_cli.types import Group


@dataclass(frozen=True)
class Sample:
    """One completion, numbered from 1, and its scores.

    rewards       by name; None where the reward failed, no key where it does not score the prompt
    total         None when a failed reward leaves no total
    milliseconds  by reward
    has_answer    whether the completion contains the reference answer; None without an answer
    """

    number: int
    group: Group
    index: int
    rewards: Mapping[str, float | None]
    total: float | None
    milliseconds: Mapping[str, float]
    has_answer: bool | None

    @property
    def completion(self) -> str:
        """The text that was scored."""
        return self.group.rollouts_G[self.index].text


@dataclass(frozen=True)
class Agreement:
    """Samples by two questions: (has the reference answer, total is at least the threshold)."""

    threshold: float
    cells: Mapping[tuple[bool, bool], tuple[Sample, ...]]

    def count(self, has_answer: bool, high: bool) -> int:
        """The number of samples in one cell."""
        return len(self.cells[has_answer, high])


def collect_samples(groups_P: Sequence[Group], graded: Graded) -> list[Sample]:
    """The samples of all groups in order, with their scores."""
    found: list[Sample] = []
    for group, scores, seconds in zip(groups_P, graded.scores_P, graded.seconds_P, strict=True):
        for i, rollout in enumerate(group.rollouts_G):
            found.append(
                Sample(
                    number=len(found) + 1,
                    group=group,
                    index=i,
                    rewards={name: value_G[i] for name, value_G in scores.by_reward.items()},
                    total=None if i in scores.skipped else scores.total_G[i],
                    milliseconds={name: 1000 * took_G[i] for name, took_G in seconds.items()},
                    has_answer=contains(rollout.text, group.prompt.answer),
                )
            )
    return found


def contains(text: str, answer: str | None) -> bool | None:
    """Whether the text has the answer, not as part of a longer word or number."""
    if answer is None or not answer.strip():
        return None
    wanted = re.escape(answer.strip())
    return re.search(rf"(?<!\w){wanted}(?!\w)", text) is not None


def distribution(values: Iterable[float | None]) -> dict[str, float]:
    """Count, mean, quartiles and share of zeros of the values that are not None; {} if none."""
    kept = np.array([value for value in values if value is not None])
    if not kept.size:
        return {}
    low, first, median, third, high = np.percentile(kept, (0, 25, 50, 75, 100)).tolist()
    return {
        "count": kept.size,
        "mean": float(kept.mean()),
        "min": low,
        "q1": first,
        "median": median,
        "q3": third,
        "max": high,
        "zeros": float((kept == 0).mean()),
    }


def compare_with_answers(samples: Sequence[Sample], threshold: float) -> Agreement:
    """Sorts the samples that have a reference answer and a total into the four cells."""
    cells: dict[tuple[bool, bool], list[Sample]] = {
        (has_answer, high): [] for has_answer in (True, False) for high in (True, False)
    }
    for sample in samples:
        if sample.has_answer is not None and sample.total is not None:
            cells[sample.has_answer, sample.total >= threshold].append(sample)
    return Agreement(threshold, {key: tuple(found) for key, found in cells.items()})


def as_dict(samples: Sequence[Sample], graded: Graded, agreement: Agreement) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "samples": [
            {
                "sample": sample.number,
                **as_line(sample.group, sample.index),
                "rewards": dict(sample.rewards),
                "reward": sample.total,
                "milliseconds": dict(sample.milliseconds),
                "has_answer": sample.has_answer,
            }
            for sample in samples
        ],
        "rewards": {
            name: {
                **distribution(sample.rewards.get(name) for sample in samples),
                "calls": usage.calls,
                "seconds": usage.seconds,
                "slowest": usage.slowest,
                "failures": dict(usage.failures),
                "counts": dict(usage.counts),
            }
            for name, usage in graded.usage.items()
        },
        "total": distribution(sample.total for sample in samples),
        "agreement": {
            "threshold": agreement.threshold,
            "answer_high": agreement.count(True, True),
            "answer_low": agreement.count(True, False),
            "no_answer_high": agreement.count(False, True),
            "no_answer_low": agreement.count(False, False),
        },
        "quarantine": list(graded.quarantine),
    }
