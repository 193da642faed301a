"""`python -m benchmarks.report_time RUN_DIR`: time and memory of the page of a long run.

The run of `make demo` is enough: its steps are repeated up to `--steps`, each with the first
`--samples` of its samples, and `drpo report` runs on the result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records, read


def lengthen(run: RunFolder, path: Path, steps: int, samples: int) -> RunFolder:
    """Copies the run with its steps repeated, and `samples` samples per step."""
    longer = RunFolder(path)
    shutil.copy(run.spec, longer.spec)
    shutil.copy(run.versions, longer.versions)
    base, *lines = read(run.metrics)
    by_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for sample in read(run.samples):
        by_step[sample["step"]].append(sample)
    taken = list(zip(range(1, steps + 1), itertools.cycle(lines), strict=False))
    Records(longer.metrics).extend([base, *(line | {"step": step} for step, line in taken)])
    for step, line in taken:
        own = itertools.islice(itertools.cycle(by_step[line["step"]]), samples)
        Records(longer.samples).extend(sample | {"step": step} for sample in own)
    return longer


def seconds(run: RunFolder, times: int) -> Iterator[float]:
    """Yields the wall time of the command, after one run that does not count."""
    for attempt in range(times + 1):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "drpo_cli", "report", run.path], check=True, capture_output=True
        )
        if attempt:
            yield time.perf_counter() - began


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = lengthen(RunFolder(asked.run), Path(folder), asked.steps, asked.samples)
        took = sorted(seconds(run, 5))
        found = {
            "steps": asked.steps,
            "samples per step": asked.samples,
            "samples.jsonl, MB": round(run.samples.stat().st_size / 1e6),
            "seconds, median": round(statistics.median(took), 2),
            "least, most": [round(took[0], 2), round(took[-1], 2)],
            "page, MB": round(run.report.stat().st_size / 1e6, 2),
            "peak memory, MB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000,
        }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
