"""`report.html`: what a run did, as one page that opens from disk."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drpo_cli.report.records import read
from drpo_cli.run_folder import RunFolder

CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("held-out avg@k", {"held_out": ""}),
    ("training reward", {"reward": ""}),
    ("|π − μ|", {f"shift_{q}": q for q in ("p50", "p90", "p99", "max")}),
    ("importance ratio r = π/μ", {f"ratio_{q}": q for q in ("p01", "p50", "p99", "max")}),
    ("gradient weight w", {f"weight_{q}": q for q in ("min", "p01", "p50", "p99", "max")}),
    (
        "share of tokens",
        {f"{kind}_share": kind for kind in ("diverging", "converging", "corrective", "masked")},
    ),
    (
        "share of gradient mass |A r w|",
        {f"{kind}_mass": kind for kind in ("diverging", "converging", "corrective")},
    ),
    (
        "effective sample size, groups without a signal",
        {"effective_sample_size": "sample size", "zero_advantage_groups": "groups"},
    ),
    ("entropy, nats", {"entropy": ""}),
    ("mean |log π − log μ| after each sync", {"gap": "gap", "gap_floor": "noise floor"}),
)
COLORS = ("#1f5fa8", "#c8641e", "#3d8f5f", "#8a4fa0", "#8c8c8c")
LOG_SCALE = ("|π − μ|", "importance ratio r = π/μ", "mean |log π − log μ| after each sync")
NEWEST_SAMPLES = 16
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
figure { background: white; margin: 1rem 0; }  figure svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; }  td, th { padding: .2rem .6rem; }
th, td { text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }
pre, td { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write(folder: RunFolder) -> None:
    """Writes the page from what the run recorded so far; replaces an older one in one move."""
    metrics = read(folder.metrics)
    samples = read(folder.samples)[-NEWEST_SAMPLES:]
    body = "\n".join(
        [
            f"<h1>{html.escape(folder.path.name)}</h1>",
            f"<p>{html.escape(verdict(metrics))}</p>",
            f"<figure>{_charts(metrics)}</figure>",
            "<h2>Newest samples</h2>" + _table(samples, ("step", "prompt", "completion", "reward")),
            f"<h2>Spec</h2><pre>{html.escape(folder.spec.read_text())}</pre>",
            f"<h2>Versions and hardware</h2><pre>{html.escape(_versions(folder.versions))}</pre>",
        ]
    )
    partial = folder.report.with_suffix(".partial")
    partial.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(folder.path.name)}</title><style>{STYLE}</style>{body}</html>\n"
    )
    partial.rename(folder.report)


def verdict(metrics: Sequence[dict[str, Any]]) -> str:
    """One line: how far the run went and what it did to the held-out score."""
    scored = [record for record in metrics if "held_out" in record]
    last = metrics[-1]["step"] if metrics else 0
    if len(scored) < 2:
        return f"{last} steps; not evaluated after training yet."
    best = max(scored, key=lambda record: record["held_out"])
    parts = [("base", scored[0]), (f"best (step {best['step']})", best), ("last", scored[-1])]
    return f"{last} steps. Held-out: " + ", ".join(f"{name} {_rate(r)}" for name, r in parts) + "."


def _rate(record: dict[str, Any]) -> str:
    interval = ""
    if record.get("held_out_low") is not None:
        interval = f" [{record['held_out_low']:.1%}, {record['held_out_high']:.1%}]"
    return f"{record['held_out']:.1%}{interval}"


def _charts(metrics: Sequence[dict[str, Any]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 15))
    # A fixed layout: a fitted one takes longer than many a run's step.
    figure.subplots_adjust(left=0.06, right=0.98, top=0.98, bottom=0.02, hspace=0.25, wspace=0.15)
    for axes, (title, series) in zip(figure.subplots(5, 2).flat, CHARTS, strict=True):
        for color, (key, label) in zip(COLORS, series.items(), strict=False):
            points = [(r["step"], r[key]) for r in metrics if r.get(key) is not None]
            x, y = [x for x, _ in points], [y for _, y in points]
            axes.plot(x, y, color=color, linewidth=1.2, label=label)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        if title in LOG_SCALE and any(r.get(key) for r in metrics for key in series):
            axes.set_yscale("log")
        if len(series) > 1:
            axes.legend(fontsize=8, loc="best")
    image = io.StringIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    text = image.getvalue()
    return text[text.index("<svg") :]


def _table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in columns)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(str(row[name]))}</td>" for name in columns) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _versions(path: Path) -> str:
    return json.dumps(json.loads(path.read_text()), indent=1)
