"""avg@k, pass@k, pass^k, G-Pass@k and maj@k of sampled responses, with 95 % intervals.

The unit of an interval is the problem, not the response: the k responses to one problem share a
prompt and are not independent. Problems with the same prompt count as one unit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from drpo_cli.errors import UserError

CONFIDENCE = 0.95
UPPER = (1 + CONFIDENCE) / 2
POWER = 0.8
ONE_MORE = 0.25
"""The largest variance of a share in [0, 1]."""
HALF = 0.5
"""The τ of G-Pass@k in the summary: at least half of the responses are right."""
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
    truncated    how many of the responses ran out of tokens
    """

    id: str
    prompt_hash: str
    scores: tuple[float, ...]
    texts: tuple[str, ...]
    truncated: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The scores of k responses to each problem, and their summary.

    summary    `avg@k`, `maj@k`, and `pass@j`, `pass^j`, `G-Pass@j_0.5` and, for even j, `mG-Pass@j`
               for j = 2, 4, 8 … and k, each in [0, 1]
    unscored   responses that count as wrong because a reward failed on them
    chosen_of  evaluations on these problems of which the model had the highest score and was chosen
               for it, which makes its score optimistic; 0 if it was not chosen so
    """

    k: int
    threshold: float
    problems: tuple[ProblemResult, ...]
    summary: dict[str, Estimate]
    unscored: int = 0
    chosen_of: int = 0

    @property
    def truncated(self) -> float:
        """Share of the responses that ran out of tokens."""
        return _mean([problem.truncated / self.k for problem in self.problems])

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
        """Reads the evaluation in `text`, of this version or an older one.

        The summary is computed again from the scores: older versions have fewer metrics, and other
        intervals. Raises UserError when the text holds no evaluation.
        """
        try:
            found = _json().validate_json(text)
            again = summarise(found.problems, found.threshold)
            return replace(found, k=again.k, summary=again.summary)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole text"
            raise UserError(
                f"not an evaluation written by `drpo eval --json`: {where}: {first['msg']}"
            ) from error
        except ValueError as error:
            raise UserError(f"not an evaluation written by `drpo eval --json`: {error}") from error


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
    prompts = [p.prompt_hash for p in problems]
    values = {f"avg@{k}": [_mean(r) for r in rights]}
    for j in _pass_sizes(k):
        values[f"pass@{j}"] = [at_least(1, r, j) for r in rights]
        values[f"pass^{j}"] = [at_least(j, r, j) for r in rights]
        values[f"G-Pass@{j}_{HALF}"] = [at_least(math.ceil(HALF * j), r, j) for r in rights]
        if j % 2 == 0:  # for an odd number the paper's sum gives less than 1 to a perfect model
            values[f"mG-Pass@{j}"] = [mean_g_pass(r, j) for r in rights]
    values[f"maj@{k}"] = [majority(r, p.texts) for r, p in zip(rights, problems, strict=True)]
    summary = {name: estimate(each, prompts) for name, each in values.items()}
    return Evaluation(k, threshold, tuple(problems), summary, unscored)


def at_least(wanted: int, rights: Sequence[bool], k: int) -> float:
    """Estimates how likely at least `wanted` of k responses are right, from n ≥ k, c of them right.

    Σ_{j ≥ wanted} C(c, j) · C(n − c, k − j) / C(n, k)

    The share of the subsets of k responses for which it holds, which is unbiased. With 1 it is
    pass@k (arXiv 2107.03374, Eq. 1), with k pass^k (arXiv 2406.12045), with ⌈τk⌉ G-Pass@k_τ
    (arXiv 2412.13147).
    """
    n, right = len(rights), sum(rights)
    ways = sum(math.comb(right, j) * math.comb(n - right, k - j) for j in range(wanted, k + 1))
    return ways / math.comb(n, k)


def mean_g_pass(rights: Sequence[bool], k: int) -> float:
    """Estimates mG-Pass@k for an even k: the mean of G-Pass@k_τ over τ from 1/2 to 1.

    (2 / k) Σ_{i = k/2 + 1}^{k} G-Pass@k_{i/k}  (arXiv 2412.13147)
    """
    return _mean([at_least(wanted, rights, k) for wanted in range(k // 2 + 1, k + 1)])


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


def estimate(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """Computes the mean of one share in [0, 1] per problem, and its 95 % interval.

    clusters  what each problem asks: problems of the same cluster count as one; each its own, if
              not given

    The interval is Wilson's, with Student's t for the normal quantile, for as many independent
    answers, right or wrong, as give the mean this spread. Of N problems with mean p, and variance
    s² between them, these are

        N · (p · (1 − p) + 1 / 4N) / (s² + 1 / 4N)

    where p · (1 − p) is the largest variance that shares of this mean can have. The added terms
    stand for one more problem, which varies as much as a share can. Without them the few problems
    that differ from the rest would alone decide the width near 0 and 1.

    A single cluster has no interval.
    """
    mean = _mean(values)
    if (found := _spread(values, clusters)) is None:
        return Estimate(mean, None, None)
    count, spread = found
    answers = count * (mean * (1 - mean) + ONE_MORE / count) / spread
    weight = _student(UPPER, count) ** 2 / answers
    middle = (mean + weight / 2) / (1 + weight)
    half = math.sqrt(weight * mean * (1 - mean) + weight**2 / 4) / (1 + weight)
    return Estimate(mean, max(0.0, middle - half), min(1.0, middle + half))


def estimate_difference(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> tuple[Estimate, float | None]:
    """Computes the mean of one difference in [−1, 1] per problem, and its 95 % interval.

    The interval is that of Student's t, cut at the bounds; the variance between N problems has
    1 / 4N added, as in `estimate`: one more problem, which differs by 1/2. A single cluster has no
    interval.

    Returns also the smallest difference that as many problems with the same spread would show in 80
    of 100 cases, as an interval without 0: (t_0.975 + t_0.8) standard errors.
    """
    mean = _mean(values)
    if (found := _spread(values, clusters)) is None:
        return Estimate(mean, None, None), None
    count, spread = found
    error, quantile = math.sqrt(spread / count), _student(UPPER, count)
    low, high = max(-1.0, mean - quantile * error), min(1.0, mean + quantile * error)
    return Estimate(mean, low, high), (quantile + _student(POWER, count)) * error


def _spread(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[int, float] | None:
    """The number N of clusters, and N times the variance of the mean, with one more problem added.

    None for a single cluster. Without clusters, N times that variance is the variance of values.
    """
    mean = _mean(values)
    sums: dict[Hashable, float] = {}
    for cluster, value in zip(clusters or range(len(values)), values, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if (count := len(sums)) == 1:
        return None
    squares = math.fsum(each**2 for each in sums.values())
    variance = count / (count - 1) * squares / len(values) ** 2  # of the mean
    return count, count * variance + ONE_MORE / count


def _student(share: float, count: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, share))


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
