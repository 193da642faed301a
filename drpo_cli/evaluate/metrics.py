"""avg@k, pass@k and maj@k of sampled responses, each with a 95 % interval over problems.

The interval resamples problems, not responses: the k responses to one problem share a prompt and
are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from drpo_cli.errors import UserError

SEED = 0
RESAMPLES = 9999
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Numbers closer than this count as equal: they are sums of rounded numbers."""


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % interval, which is None for a single problem."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ProblemResult:
    """The scores of one problem.

    id           the prompt's id
    prompt_hash  a hash of the prompt's text, which distinguishes two problems of the same id
    scores       total reward of each of the k responses
    texts        what maj@k votes on, one text per response: its answer where one can be extracted,
                 else the whole response
    """

    id: str
    prompt_hash: str
    scores: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The scores of k responses to each problem, and their summary.

    summary   `avg@k`, `maj@k`, and `pass@j` for j = 2, 4, 8 … and k, each in [0, 1]
    unscored  responses that count as wrong because a reward failed on them
    """

    k: int
    threshold: float
    problems: tuple[ProblemResult, ...]
    summary: dict[str, Estimate]
    unscored: int = 0

    def avg_by_problem(self) -> dict[str, float]:
        """Share of right responses, by problem id."""
        return {p.id: _mean(right_samples(p, self.threshold)) for p in self.problems}

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON values."""
        values: dict[str, Any] = _json().dump_python(self, mode="json")
        return values

    def to_json(self) -> str:
        """The evaluation as JSON text; `from_json` returns an equal evaluation."""
        return _json().dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str) -> Evaluation:
        """Reads the evaluation in `text`. Raises UserError when it holds none."""
        try:
            return _json().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole text"
            raise UserError(
                f"not an evaluation written by `drpo eval --json`: {where}: {first['msg']}"
            ) from error


def _json() -> TypeAdapter[Evaluation]:
    return TypeAdapter(Evaluation)


def summarise(
    problems: Sequence[ProblemResult], threshold: float = 1.0, unscored: int = 0
) -> Evaluation:
    """Summarises results; a response is right when its score is at least `threshold`.

    Raises ValueError for no problems, repeated ids, or unequal numbers of responses.
    """
    counts = {len(p.scores) for p in problems} | {len(p.texts) for p in problems}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every problem needs the same number of scores and texts: {counts}")
    if len({p.id for p in problems}) != len(problems):
        raise ValueError("problem ids must be distinct")
    (k,) = counts

    rights = [right_samples(p, threshold) for p in problems]
    votes = [majority(r, p.texts) for r, p in zip(rights, problems, strict=True)]
    summary = {
        f"avg@{k}": estimate([_mean(r) for r in rights]),
        **{f"pass@{j}": estimate([pass_at(r, j) for r in rights]) for j in _pass_sizes(k)},
        f"maj@{k}": estimate(votes),
    }
    return Evaluation(k, threshold, tuple(problems), summary, unscored)


def pass_at(rights: Sequence[bool], k: int) -> float:
    """Estimates pass@k, unbiased, from n ≥ k responses, c of them right (arXiv 2107.03374, Eq. 1).

    1 − C(n − c, k) / C(n, k)
    """
    n, wrong = len(rights), len(rights) - sum(rights)
    return 1 - math.comb(wrong, k) / math.comb(n, k)


def majority(rights: Sequence[bool], texts: Sequence[str]) -> float:
    """Computes how right the most frequent text is, in [0, 1] (arXiv 2203.11171).

    Texts that differ only in white space are equal. Texts that tie for the first place count
    equally, which is the expected value of breaking the tie at random.
    """
    votes: dict[str, list[bool]] = {}
    for right, text in zip(rights, texts, strict=True):
        votes.setdefault(" ".join(text.split()), []).append(right)
    most = max(len(vote) for vote in votes.values())
    return _mean([_mean(vote) for vote in votes.values() if len(vote) == most])


def estimate(values: Sequence[float], lowest: float = 0.0, highest: float = 1.0) -> Estimate:
    """Computes the mean of one value per problem, each in [lowest, highest], and its 95 % interval.

    The interval is the percentile bootstrap over problems with a fixed seed. If all n values are
    equal, resampling shows no spread. Then the interval assumes that a share u of all problems
    differs, and by as much as the bounds allow; u is the upper end of Wilson's interval for 0 of n.
    A single problem has no interval.
    """
    mean = _mean(values)
    if len(values) == 1:
        return Estimate(mean, None, None)
    if max(values) - min(values) < ROUNDING:
        unseen = _upper_share(len(values))
        return Estimate(mean, mean - unseen * (mean - lowest), mean + unseen * (highest - mean))
    return Estimate(mean, *_bootstrap(values))


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    interval = bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=500,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _upper_share(n: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(0, n).proportion_ci(CONFIDENCE, method="wilson").high)


def _pass_sizes(k: int) -> list[int]:
    return sorted({2**i for i in range(1, k.bit_length()) if 2**i <= k} | {k})


def right_samples(problem: ProblemResult, threshold: float) -> list[bool]:
    """For each response, whether it is right: its total reward is at least the threshold."""
    return [is_right(score, threshold) for score in problem.scores]


def is_right(total: float, threshold: float) -> bool:
    """Whether a response with this total reward is right."""
    # A total of weighted rewards that should add up to the threshold may miss it by rounding.
    return total >= threshold - ROUNDING


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
