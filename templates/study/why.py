"""Prints means of a grid's per-step metrics.

`python why.py runs/lag "lag=16" by_mu.0.masked_share by_mu.0.1.masked_share`
The first argument is the grid's folder, the second selects cells by a part of their labels, the
others are keys of metrics.jsonl, with dots for keys inside; without keys it shows a few that differ
between the methods.
"""

import json
import sys
from pathlib import Path
from statistics import fmean

KEYS = [
    "shift_p99",
    "ratio_p99",
    "effective_sample_size",
    "masked_share",
    "corrective_share",
    "grad_norm",
]


def main(grid: Path, part: str, keys: list[str]) -> None:
    """Prints one row per cell: the mean of each key over all steps of all its finished runs."""
    runs = json.loads((grid / "compare.json").read_text())["runs"]
    cells = {run["cell"]: [] for run in runs if part in run["cell"]}
    for run in runs:
        if run["cell"] in cells and run["status"] == "finished":
            lines = (grid / run["folder"] / "metrics.jsonl").read_text().splitlines()
            cells[run["cell"]] += [json.loads(line) for line in lines[1:]]
    print("| cell |", " | ".join(keys), "|")
    for cell, steps in cells.items():
        found = ([v for step in steps if (v := look_up(step, key)) is not None] for key in keys)
        print(f"| {cell} |", " | ".join(f"{fmean(v):.3g}" if v else "–" for v in found), "|")


def look_up(step: dict, key: str) -> float | None:
    """The value of a key, in which a range of μ such as `0.01` has a dot of its own."""
    if key in step:
        return step[key]
    for name, inside in step.items():
        if isinstance(inside, dict) and key.startswith(f"{name}."):
            return look_up(inside, key.removeprefix(f"{name}."))
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "", sys.argv[3:] or KEYS)
