"""`report.html`: what a run did, as one page that opens from disk."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drpo_cli.report.archive import read_archive
from drpo_cli.report.charts import Panel, draw
from drpo_cli.report.elements import paragraph
from drpo_cli.report.quarantine_page import quarantine_section
from drpo_cli.report.records import read
from drpo_cli.report.rewards_page import rewards_section
from drpo_cli.report.roles import read_roles
from drpo_cli.report.samples_page import samples_section
from drpo_cli.report.suspicion import Pair, pairs, suspicious
from drpo_cli.report.suspicion_page import sentence, suspicion_section
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
LOG_SCALE = ("|π − μ|", "importance ratio r = π/μ", "mean |log π − log μ| after each sync")
SECTIONS = ("training", "rewards", "suspicious", "samples", "quarantine", "spec", "versions")
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
figure { background: white; margin: 1rem 0; }  figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; }  table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { padding: .25rem .6rem; }
th, td { text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }
pre, td { white-space: pre-wrap; overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.k { min-width: 8.5rem; }  .t { min-width: 12rem; }
.note { opacity: .75; font-size: .85rem; }
.bad { border-left: .25rem solid #c0392b; padding: .2rem .8rem; background: #c0392b1a; }
nav a { margin-right: 1rem; }
"""


def write(folder: RunFolder) -> None:
    """Writes the page from what the run recorded so far; replaces an older one in one move."""
    metrics, roles = read(folder.metrics), read_roles(folder.spec)
    archive, looked_at = read_archive(folder.samples), pairs(metrics, roles)
    body = "\n".join(
        [
            f"<h1>{html.escape(folder.path.name)}</h1>",
            paragraph(verdict(metrics)),
            *_warnings(looked_at),
            "<nav>" + "".join(f'<a href="#{name}">{name}</a>' for name in SECTIONS) + "</nav>",
            f"<h2 id=training>Training</h2><figure>{_charts(metrics)}</figure>",
            rewards_section(metrics, roles),
            suspicion_section(looked_at, archive),
            samples_section(archive, roles),
            quarantine_section(folder.quarantine),
            f"<h2 id=spec>Spec</h2><pre>{html.escape(folder.spec.read_text())}</pre>",
            "<h2 id=versions>Versions and hardware</h2>"
            f"<pre>{html.escape(_versions(folder.versions))}</pre>",
        ]
    )
    partial = folder.report.with_suffix(".partial")
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(folder.path.name)}</title><style>{STYLE}</style>{body}</html>\n"
    )
    # A completion may hold half a surrogate pair, which UTF-8 cannot
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
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


def _warnings(looked_at: Sequence[Pair]) -> list[str]:
    return [paragraph(f"Suspicious: {sentence(p)}", "bad") for p in suspicious(looked_at)]


def _rate(record: dict[str, Any]) -> str:
    interval = ""
    if record.get("held_out_low") is not None:
        interval = f" [{record['held_out_low']:.1%}, {record['held_out_high']:.1%}]"
    return f"{record['held_out']:.1%}{interval}"


def _charts(metrics: Sequence[dict[str, Any]]) -> str:
    panels = [
        Panel(
            title,
            {
                label: [(r["step"], r[key]) for r in metrics if r.get(key) is not None]
                for key, label in series.items()
            },
            log=title in LOG_SCALE,
        )
        for title, series in CHARTS
    ]
    return draw(panels)


def _versions(path: Path) -> str:
    return json.dumps(json.loads(path.read_text()), indent=1)
