"""The page's first part: a verdict of each run and, of several, how they differ."""

from __future__ import annotations

from collections.abc import Sequence

from drpo_cli.report.charts import figures
from drpo_cli.report.curves import Panel, colour
from drpo_cli.report.elements import escaped, paragraph, table
from drpo_cli.report.held_out import (
    common_steps,
    compare_last,
    compare_means,
    describe_run,
    format_difference,
    same_problems,
)
from drpo_cli.report.spec_page import differing_keys
from drpo_cli.report.suspicion_page import sentence
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.suspicion import suspicious

PAIRED = (
    "Paired: problem by problem, so that what is hard for both does not widen the interval. "
    "Intervals are 95 %, and not widened for the number of runs."
)


def head(runs: Sequence[SavedRun]) -> str:
    """The verdict of each run, and what needs a look before anything else."""
    if len(runs) == 1:
        return "\n".join([paragraph(describe_run(runs[0]), "verdict"), *_warnings(runs[0])])
    parts = []
    for place, run in enumerate(runs):
        swatch = f'<i class="swatch" style="background:{colour(place)}"></i>'
        text = f"<b>{escaped(run.name)}</b> {escaped(describe_run(run))}"
        parts += [f'<p class="verdict">{swatch}{text}</p>', *_warnings(run)]
    return "\n".join(parts)


def differences_section(runs: Sequence[SavedRun], panel: Panel) -> str:
    """Scores and specs of the runs against those of the first one."""
    base = runs[0]
    rows = [[f"{run.name} − {base.name}", *_compared(base, run)] for run in runs[1:]]
    columns = ("runs", "at the last step of both", "over all steps of both", "steps")
    keys = differing_keys(runs)
    return "\n".join(
        [
            f"<h2 id=differences>Differences from {escaped(base.name)}</h2>",
            table(columns, rows, {"steps": "n"}),
            paragraph(PAIRED, "note"),
            figures([panel]) if panel.drawn else "",
            "<h3>What differs in the specs</h3>",
            table(("key", *(run.name for run in runs)), keys)
            if keys
            else paragraph("Nothing but the name and the folder."),
        ]
    )


def _compared(base: SavedRun, run: SavedRun) -> list[str]:
    if not same_problems(base, run):
        return ["–", "scored on other problems, or sampled otherwise: not compared", "0"]
    steps = common_steps(base, run)
    if not steps:
        return ["–", "no step on which both were evaluated", "0"]
    last = f"step {steps[-1]}: {format_difference(compare_last(base, run))}"
    return [last, format_difference(compare_means(base, run)), str(len(steps))]


def _warnings(run: SavedRun) -> list[str]:
    found = [f"Suspicious: {sentence(pair)}" for pair in suspicious(run.pairs)]
    said = [paragraph(text, "note") for text in run.notes]
    return [*said, *(paragraph(text, "bad") for text in found)]
