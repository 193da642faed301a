"""The page's part on failed calls: how many, of what, and the last few."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drpo_cli.report.elements import paragraph, shortened, table
from drpo_cli.runs.records import read_with_offsets

SHOWN = 5
KINDS = {"reward": "k", "reason": "k", "from": "k"} | dict.fromkeys(
    ("detail", "prompt", "completion"), "t"
)


def quarantine_text(path: Path) -> str:
    """Failed calls by reward and reason, and the last ones with their texts shortened."""
    counts: Counter[tuple[str, str]] = Counter()
    last: deque[dict[str, Any]] = deque(maxlen=SHOWN)
    for _, record in read_with_offsets(path) if path.is_file() else ():
        counts[str(record["reward"]), str(record["reason"])] += 1
        last.append(record)
    if not counts:
        return paragraph("No call of a reward failed.")
    rows = [(*key, f"{count:,}") for key, count in sorted(counts.items())]
    columns = ("reward", "reason", "detail", "prompt", "completion", "from")
    return "\n".join(
        [
            paragraph(f"{counts.total():,} calls failed; all of them are in {path}."),
            table(("reward", "reason", "calls"), rows, {"calls": "n"}),
            "<h3>The last ones</h3>",
            table(columns, [_cells(record) for record in reversed(last)], KINDS),
        ]
    )


def _cells(record: Mapping[str, Any]) -> list[str]:
    completion = record.get("completion")
    whole = isinstance(completion, list)
    texts = completion if isinstance(completion, list) else [completion]
    sample = "all samples" if whole else f"sample {record.get('sample')}"
    return [
        str(record["reward"]),
        f"{record['reason']}\nafter {record.get('seconds') or 0:.1f} s",
        shortened(str(record.get("detail", ""))),
        shortened(str(record.get("prompt", ""))),
        shortened("\n———\n".join(map(str, texts))),
        f"step {record.get('step')}\n{record.get('prompt_id')}\n{sample}",
    ]
