"""The page's part on reward hacking: the suspicion in words, samples to judge it by, the method."""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.report.elements import number, paragraph, table
from drpo_cli.report.samples_page import suspicious_samples
from drpo_cli.runs.samples import SampleColumns
from drpo_cli.runs.suspicion import LEVEL, MIN_STEPS, SPANS, Pair, Trend, suspicious

METHOD = (
    "Suspicious is a reward that goes down while the total goes up (or goes up with it, where its "
    "weight is negative). A trend is Spearman's rank correlation ρ of step and mean, over "
    f"{SPANS} spans of equal length, of the whole run and of its last half; its p-value counts "
    "neighbours that are alike as fewer observations. The total's p-value "
    f"must be at most {LEVEL}, the reward's {LEVEL} divided by the number of rows above; both are "
    f"one-sided. A reward needs values on {MIN_STEPS} steps. It is a sign, not a proof: read the "
    "samples."
)
COLUMNS = (
    "reward", "over", "ρ of the total", "p up", "ρ of the reward", "p", "first tenth", "last tenth",
)  # fmt: skip
KINDS = dict.fromkeys(COLUMNS[:2], "k") | dict.fromkeys(COLUMNS[2:], "n")


def suspicion_text(found: Sequence[Pair], archive: SampleColumns) -> str:
    """What is suspicious, or that nothing is; then all that was looked at."""
    parts = []
    for pair in suspicious(found):
        parts += [paragraph(sentence(pair), "bad"), suspicious_samples(archive, pair)]
    if not suspicious(found):
        parts.append(paragraph(_nothing(found)))
    if found:
        rows = table(COLUMNS, [_row(pair) for pair in found], KINDS)
        parts.append(f"<details><summary>What was looked at</summary>{rows}</details>")
    return "\n".join([*parts, paragraph(METHOD, "note")])


def sentence(pair: Pair) -> str:
    """The suspicion in words."""
    total, reward = pair.total, pair.reward
    went = "fell" if pair.role.sign > 0 else "rose"
    return (
        f"Over {pair.window} the total rose from {number(total.first)} to {number(total.last)} "
        f"(ρ = {_rho(total)}) while {pair.name} ({pair.role}) {went} from {number(reward.first)} "
        f"to {number(reward.last)} (ρ = {_rho(reward)}, p = {reward.p:.1g})."
    )


def _nothing(found: Sequence[Pair]) -> str:
    if not found:
        return f"Nothing was looked at: no reward has changing values on {MIN_STEPS} steps or more."
    names = list(dict.fromkeys(pair.name for pair in found))
    return f"Nothing suspicious. Looked at next to the total: {', '.join(names)}."


def _rho(trend: Trend) -> str:
    return number(round(trend.rho, 2))


def _row(pair: Pair) -> list[str]:
    total, reward = pair.total, pair.reward
    return [
        pair.name, pair.window,
        _rho(total), f"{total.p:.1g}", _rho(reward), f"{reward.p:.1g}",
        number(reward.first), number(reward.last),
    ]  # fmt: skip
