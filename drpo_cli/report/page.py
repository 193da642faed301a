"""`report.html`: what runs did, as one page that opens from disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from drpo_cli.report.alerts_page import alerts_section, shades
from drpo_cli.report.charts import figures
from drpo_cli.report.document import document, save
from drpo_cli.report.elements import escaped, paragraph
from drpo_cli.report.held_out import difference_panel
from drpo_cli.report.plots import drawn
from drpo_cli.report.quarantine_page import quarantine_text
from drpo_cli.report.rewards_page import rewards_panels, rewards_text
from drpo_cli.report.runs_page import differences_section, head
from drpo_cli.report.samples_page import samples_section
from drpo_cli.report.spec_page import spec_text, versions_text
from drpo_cli.report.suspicion_page import suspicion_text
from drpo_cli.report.training_page import thinning, training_panels
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.saved import SavedRun

HOW = (
    "Every chart has the steps on its horizontal axis, and all of them zoom together: drag across "
    "one, and reset with the tool at its right. A click on a name hides its line. Coloured spans "
    "are steps with an alert."
)


def write(folder: RunFolder) -> None:
    """Writes a run's own page from what it recorded so far; replaces an older one in one move.

    Raises OSError when the disk does not take it.
    """
    save(folder.report, page_of([folder]))


def page_of(folders: Sequence[RunFolder]) -> str:
    """The text of one page of these runs."""
    runs = [SavedRun(*pair) for pair in zip(folders, names(folders), strict=True)]
    for run in runs:
        run.sample_columns  # noqa: B018  # read first, so that the notes are complete
    title = ", ".join(run.name for run in runs)
    training, rewards = training_panels(runs), rewards_panels(runs)
    difference = [difference_panel(runs)] if runs[1:] else []
    panels = [panel for panel in (*training, *difference, *rewards) if panel.drawn]
    sections = [
        f"<h1>{escaped(title)}</h1>",
        head(runs),
        alerts_section(runs),
        *(differences_section(runs, panel) for panel in difference),
        f"<h2 id=training>Training</h2>{paragraph(HOW, 'note live')}",
        *(paragraph(text, "note") for text in thinning(runs)),
        figures(training) if training else paragraph("No step was recorded."),
        f"<h2 id=rewards>Rewards</h2>{_each(runs, rewards_text)}{figures(rewards)}",
        "<h2 id=suspicious>Suspicious</h2>"
        + _each(runs, lambda run: suspicion_text(run.pairs, run.sample_columns)),
        samples_section(runs),
        "<h2 id=quarantine>Quarantine</h2>"
        + _each(runs, lambda run: quarantine_text(run.folder.quarantine)),
        f"<h2 id=spec>Spec</h2>{_each(runs, spec_text)}",
        f"<h2 id=versions>Versions and hardware</h2>{_each(runs, versions_text)}",
    ]
    body = f"{_top(differences=bool(difference))}<main id=main>{''.join(sections)}</main>"
    return document(title, body, drawn(panels, shades(runs)))


def names(folders: Sequence[RunFolder]) -> list[str]:
    """What the runs are called: their folders' names, with as much of the path as tells them apart.

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


def _top(differences: bool) -> str:
    sections = ["alerts", *(["differences"] if differences else []), "training", "rewards",
                "suspicious", "samples", "quarantine", "spec", "versions"]  # fmt: skip
    links = "".join(f'<a href="#{name}">{name}</a>' for name in sections)
    return (
        '<a class="skip" href="#main">Skip to the report</a>'
        f'<header><nav aria-label="Sections">{links}</nav>'
        '<button type=button id=theme class="live">Dark or light</button></header>'
    )


def _each(runs: Sequence[SavedRun], part: Callable[[SavedRun], str]) -> str:
    """A part of each run, folded away under its name where there are several."""
    if len(runs) == 1:
        return part(runs[0])
    return "".join(
        f"<details><summary>{escaped(run.name)}</summary>{part(run)}</details>" for run in runs
    )
