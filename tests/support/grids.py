"""The runs of a grid of the built-in spec, and metrics as they would leave them."""

from __future__ import annotations

from pathlib import Path

from drpo_cli.runs.records import Records
from drpo_cli.spec import load
from drpo_cli.tools.compare import jobs
from drpo_cli.tools.compare.grid import make_cells, parse_axes, put_on_bases
from drpo_cli.tools.compare.jobs import Job, State
from support.specs import BUILT_IN, write

DONE = State("finished")


STEPS = ("run.steps=10",)


def grid(
    folder: Path,
    *vary: str,
    seeds: tuple[int, ...] = (0, 1, 2),
    set_: tuple[str, ...] = STEPS,
    bases: tuple[str, ...] = (),
) -> list[Job]:
    (folder / "rows.jsonl").write_text('{"question": "1+1", "target": "2"}\n')
    base = write(folder, BUILT_IN)
    chosen = put_on_bases(make_cells(parse_axes(vary), load(base, set_)), bases)
    specs = jobs.load_specs(base, set_, chosen, 1)
    return jobs.make_jobs(chosen, specs, seeds, folder / "out")


def record(job: Job, *scores: float | None, **last: object) -> None:
    """Metrics of a run evaluated every five steps."""
    job.folder.path.mkdir(parents=True, exist_ok=True)
    for i, score in enumerate(scores):
        own = last if i == len(scores) - 1 else {}
        Records(job.folder.metrics).append({"step": 5 * i, "held_out": score, **own})
