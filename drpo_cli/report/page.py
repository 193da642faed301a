"""`drpo report` and `report.html`: what runs did, as one page that opens from disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli

from drpo_cli.errors import UserError, os_message
from drpo_cli.report import environments, held_out, rewards, samples, training
from drpo_cli.report.charts import Panel, Shade, colour, draw
from drpo_cli.report.html import Table, read_asset, render, save
from drpo_cli.runs import suspicion
from drpo_cli.runs.alerts import Alert
from drpo_cli.runs.flat import flatten
from drpo_cli.runs.folder import RunFolder, open_folder
from drpo_cli.runs.saved import SavedRun
from drpo_cli.spec.model import SECTIONS

TEMPLATE = "report/templates/page.html.jinja"
PARTS = (
    "alerts", "differences", "training", "rewards", "environments", "suspicious", "samples",
    "quarantine", "spec", "versions",
)  # fmt: skip
ALARM = "#d03030"
COMPARISON = "comparison.html"
OWN = frozenset({"run.name", "run.folder"})
"""Keys that differ between any two runs."""


def report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page and returns its path.

    The path is `out`, else report.html in the folder of a single run, else comparison.html here.
    Raises UserError for a folder without a run, or where the page cannot be written.
    """
    folders = [open_folder(path) for path in paths]
    if out is None:
        out = folders[0].report if len(folders) == 1 else Path(COMPARISON)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", f"name a file, such as {out / COMPARISON}")
    if not out.absolute().parent.is_dir():
        raise UserError(
            f"--out {out}: the folder {out.parent} does not exist", "create it, or name another"
        )
    text = render_page(folders)
    try:
        save(out, text)
    except OSError as error:
        then = "try again, or write it elsewhere with --out FILE.html. An older page is unchanged."
        raise UserError(os_message(error, out, then) or f"{out}: {error}; {then}") from error
    return out


def write(folder: RunFolder) -> None:
    """Writes a run's own page from its records so far; replaces an older one in one move.

    Raises OSError, as on a full disk.
    """
    save(folder.report, render_page([folder]))


def render_page(folders: Sequence[RunFolder]) -> str:
    """Renders one page of these runs."""
    runs = [SavedRun(*pair) for pair in zip(folders, choose_names(folders), strict=True)]
    table = samples.describe_samples(runs)  # before the parts, whose notes depend on it
    parts = [_describe_run(place, run) for place, run in enumerate(runs)]
    difference = held_out.difference_panel(runs) if runs[1:] else None
    trained, rewarded = training.training_panels(runs), rewards.rewards_panels(runs)
    played = environments.environments_panels(runs)
    panels = [*trained, *([difference] if difference else []), *rewarded, *played]
    absent = {"differences": not difference, "environments": not played}
    return render(
        TEMPLATE,
        ", ".join(run.name for run in runs),
        scripts=[_bokeh(), read_asset("page.js")],
        sections=[name for name in PARTS if not absent.get(name)],
        runs=parts,
        alerts=_alerts_table(runs),
        differences=None if difference is None else _describe_differences(runs, difference),
        thinned=training.describe_thinning(runs),
        training=trained,
        rewards=rewarded,
        environments=played,
        suspicion=suspicion,
        samples=table,
        plots=draw([panel for panel in panels if panel.has_data], _alert_shades(runs)),
    )


def choose_names(folders: Sequence[RunFolder]) -> list[str]:
    """Names for the runs: the last part of each path, or as many parts as make them distinct.

    The same folder twice gets a number.
    """
    paths = [folder.path.absolute() for folder in folders]
    depth, deepest = 1, max(len(path.parts) for path in paths)
    while depth < deepest and len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    found = [Path(*path.parts[-depth:]).as_posix() for path in paths]
    seen: Counter[str] = Counter()
    for i, name in enumerate(found):
        seen[name] += 1
        found[i] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return found


def _describe_run(place: int, run: SavedRun) -> dict[str, Any]:
    """What the page says of one run."""
    suspicions = [
        (rewards.describe_pair(pair), samples.suspicious_samples(run.sample_columns, pair))
        for pair in suspicion.suspicious(run.pairs)
    ]
    return {
        "name": run.name,
        "colour": colour(place),
        "verdict": held_out.describe_run(run),
        "warnings": [f"Suspicious: {text}" for text, _ in suspicions],
        "rewards": rewards.describe_rewards(run),
        "environments": environments.describe_environments(run),
        "suspicions": suspicions,
        "not_suspicious": rewards.describe_nothing(run.pairs),
        "examined": rewards.examined_table(run.pairs),
        "quarantine": rewards.describe_quarantine(run),
        "spec": list(_mark_lines(run.spec_text.splitlines())),
        "versions": json.dumps(run.versions, indent=1) if run.versions else "",
        "notes": run.notes,  # last: each file that is read may add one
    }


def _alerts_table(runs: Sequence[SavedRun]) -> Table:
    """The alerts of each run, in the order of steps."""
    names = [[run.name] if runs[1:] else [] for run in runs]
    rows = [
        [*name, _describe_steps(alert, run), alert.kind, alert.reason, alert.suggestion]
        for run, name in zip(runs, names, strict=True)
        for alert in run.alerts
    ]
    columns = (*(["run"] if runs[1:] else []), "steps", "alert", "reason", "what to do")
    kinds = dict.fromkeys(("run", "steps", "alert"), "k") | {"reason": "t", "what to do": "t"}
    return Table(columns, rows, kinds)


def _describe_steps(alert: Alert, run: SavedRun) -> str:
    if alert.until is None:
        return f"{alert.step} to {run.last_step}, still"
    return f"{alert.step} to {alert.until}" if alert.until > alert.step else str(alert.step)


def _alert_shades(runs: Sequence[SavedRun]) -> list[Shade]:
    """Spans with any alert, for the charts: in red, or in the colours of several runs."""
    shades: list[Shade] = []
    for place, run in enumerate(runs):
        spans = sorted((a.step, run.last_step if a.until is None else a.until) for a in run.alerts)
        merged: list[tuple[int, int]] = []
        for first, last in spans:
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        shades += [(*span, colour(place) if runs[1:] else ALARM) for span in merged]
    return shades


def _describe_differences(runs: Sequence[SavedRun], panel: Panel) -> dict[str, Any]:
    base = runs[0]
    rows = [[f"{run.name} − {base.name}", *_compare_scores(base, run)] for run in runs[1:]]
    columns = ("runs", "at the last step of both", "over all steps of both", "steps")
    return {
        "scores": Table(columns, rows, {"steps": "n"}),
        "panels": [panel] if panel.has_data else [],
        "spec": Table(("key", *(run.name for run in runs)), _differing_keys(runs)),
    }


def _compare_scores(base: SavedRun, run: SavedRun) -> list[str]:
    if not held_out.same_problems(base, run):
        return ["–", "scored on other problems, or sampled differently: not compared", "0"]
    steps = held_out.common_steps(base, run)
    if not steps:
        return ["–", "no step on which both were evaluated", "0"]
    last = held_out.format_difference(held_out.compare_last(base, run))
    means = held_out.format_difference(held_out.compare_means(base, run))
    return [f"step {steps[-1]}: {last}", means, str(len(steps))]


def _differing_keys(runs: Sequence[SavedRun]) -> list[list[str]]:
    """A row for each key that differs between specs: the key, then each run's value."""
    specs = [
        {key: json.dumps(v, ensure_ascii=False, default=str) for key, v in flatten(run.spec)}
        for run in runs
    ]
    keys = list(dict.fromkeys(key for spec in specs for key in spec))
    rows = [[key, *(spec.get(key, "–") for spec in specs)] for key in keys if key not in OWN]
    return [row for row in rows if len(set(row[1:])) > 1]


def _mark_lines(lines: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each line, and whether its key is not at its default; each key has a line of its own."""
    section = ""
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.strip("[]")
        yield line, _is_set(section, stripped)


def _is_set(section: str, line: str) -> bool:
    key, equals, text = line.partition("=")
    settings = SECTIONS.get(section)
    field = settings.model_fields.get(key.strip()) if settings and equals else None
    if field is None:
        return False
    try:
        value = tomli.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):  # a value of several lines, or a broken one
        return True
    default = field.get_default(call_default_factory=True)
    return field.is_required() or json.dumps(value, default=str) != json.dumps(default, default=str)


def _bokeh() -> str:
    from bokeh.resources import Resources

    script: str = Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0]
    return script
