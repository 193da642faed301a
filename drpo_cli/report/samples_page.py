"""The page's part on samples: the ends of the ranking, where rewards disagree, the newest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from drpo_cli.report.archive import Archive, Floats, disagreement, standardized
from drpo_cli.report.elements import escaped, number, paragraph, shortened, table
from drpo_cli.report.roles import Roles, role_of
from drpo_cli.report.suspicion import Pair

SHOWN = 8
SHOWN_OF_A_SUSPICION = 4
KINDS = {"rewards": "t", "from": "k", "prompt": "t", "completion": "t"}
STANDARDIZED = (
    "Each reward is standardized over all samples of the run: less its mean, divided by its "
    "standard deviation, with its sign turned where its weight is negative. The disagreement of a "
    "sample is the largest of these values less the smallest."
)


def samples_section(archive: Archive, roles: Roles) -> str:
    """Every ranking, each under its heading; equal completions are shown once."""
    if not len(archive):
        return "<h2 id=samples>Samples</h2>" + paragraph("No sample was recorded.")
    once, totals_N = archive.texts_N, archive.totals_N
    newest = archive.top(archive.steps_N, SHOWN, archive.prompts_N)
    return "\n".join(
        [
            "<h2 id=samples>Samples</h2>",
            paragraph(
                f"From the {len(archive):,} samples of {archive.path.name}; line N is "
                f"`sed -n Np {archive.path}`. In a ranking, equal completions are shown once, the "
                "newest of those that rank alike.",
                "note",
            ),
            "<h3>Highest total</h3>" + samples_table(archive, archive.top(totals_N, SHOWN, once)),
            "<h3>Lowest total</h3>" + samples_table(archive, archive.top(-totals_N, SHOWN, once)),
            *_disagreements(archive, roles),
            "<h3>Newest, one a prompt</h3>" + samples_table(archive, newest),
        ]
    )


def samples_table(
    archive: Archive, which: Iterable[int], ranked_by: Mapping[str, Floats] | None = None
) -> str:
    """The samples with their texts shortened; `ranked_by` adds columns of numbers, [N] each."""
    which, extra = list(which), ranked_by or {}
    if not which:
        return paragraph("None.")
    rows = [
        [*(number(float(column_N[i])) for column_N in extra.values()), *_cells(record)]
        for i, record in zip(which, archive.records(which), strict=True)
    ]
    columns = (*extra, "total", "rewards", "prompt", "completion", "from")
    return table(columns, rows, dict.fromkeys((*extra, "total"), "n") | KINDS)


def suspicious_samples(archive: Archive, pair: Pair) -> str:
    """Samples of the last tenth of steps that are far out in both: a high total, a bad reward."""
    values_N = archive.by_reward.get(pair.name)
    if values_N is None:
        return ""
    steps = np.unique(archive.steps_N)
    recent_N = archive.steps_N >= steps[-max(1, len(steps) // 10)]
    bad_N = -pair.role.sign * standardized(values_N)
    contrast_N = np.minimum(standardized(archive.totals_N), bad_N)
    which = archive.top(
        np.where(recent_N, contrast_N, np.nan), SHOWN_OF_A_SUSPICION, archive.texts_N
    )
    return samples_table(archive, which)


def _disagreements(archive: Archive, roles: Roles) -> list[str]:
    columns = {
        name: role_of(roles, name).sign * standardized(values_N)
        for name, values_N in archive.by_reward.items()
    }
    counting = [name for name in columns if role_of(roles, name).counts]
    found = []
    if len(counting) > 1:
        found.append(_disagreement("Rewards that count disagree most", columns, counting, archive))
    if len(columns) > max(1, len(counting)):
        title = "Rewards disagree most, metrics included"
        found.append(_disagreement(title, columns, list(columns), archive))
    return [*found, *([paragraph(STANDARDIZED, "note")] if found else [])]


def _disagreement(
    title: str, columns: Mapping[str, Floats], names: Sequence[str], archive: Archive
) -> str:
    spread_N = disagreement([columns[name] for name in names])
    which = archive.top(spread_N, SHOWN, archive.texts_N)
    return f"<h3>{escaped(title)}</h3>" + samples_table(archive, which, {"disagreement": spread_N})


def _cells(record: Mapping[str, Any]) -> list[str]:
    total = record.get("reward")
    rewards = record.get("rewards") or {}
    scores = "\n".join(f"{number(value)} {name}" for name, value in rewards.items())
    answer = record.get("answer")
    prompt = shortened(str(record["prompt"]))
    asked = prompt if answer is None else f"{prompt}\n\nanswer: {shortened(str(answer))}"
    cut = "\n[truncated]" if record.get("truncated") else ""
    origin = [f"step {record['step']}", str(record.get("prompt_id", "")), f"line {record['line']}"]
    return [
        "skipped" if total is None else number(total),
        scores,
        asked,
        shortened(str(record["completion"])) + cut,
        "\n".join(part for part in origin if part),
    ]
