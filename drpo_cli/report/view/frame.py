"""The view of one run within a rectangle: lines with priorities, the least important left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.text import Text

from drpo_cli.report.conversation import as_text
from drpo_cli.report.view.follow import Followed
from drpo_cli.report.view.text import (
    ASCII,
    BLOCKS,
    format_duration,
    format_number,
    head,
    head_and_tail,
    make_visible,
    measure_shares,
    sparkline,
    tail,
    time_bar,
    time_legend,
)
from drpo_cli.runs.metrics import EventRecord, SampleRecord

CURVES = (
    (2, "held_out", "held-out score"),
    (3, "reward", "reward"),
    (5, "shift_p99", "|π−μ| p99"),
    (5, "corrective_share", "corrective share"),
    (6, "entropy", "entropy"),
    (6, "response_length", "response length"),
    (6, "turns", "turns"),
)
OPTIONAL = {"turns"}  # curves of runs that record them
LABEL = 17  # cells of a line's name
LATEST = 26  # cells after a curve
STATE_STYLES = {"running": "bold green", "failed": "bold red", "stopped": "bold yellow"}
EVENTS = 3  # newest ones shown
ALERTS = 4
SAMPLES = 6  # priority
MOST_LINES = 4  # of one sample


@dataclass(frozen=True)
class Line:
    """A line of the view; on a small screen, those with the lowest numbers stay."""

    priority: int
    text: Text


@dataclass(frozen=True)
class Space:
    """How wide a line may be, in cells, and whether its terminal shows only ASCII."""

    width: int
    ascii_only: bool = False

    @property
    def label(self) -> int:
        """Cells of a line's name and the gap after it."""
        return min(LABEL, self.width // 2)

    @property
    def levels(self) -> str:
        """The characters of curves, from low to high."""
        return ASCII if self.ascii_only else BLOCKS


def draw_run(run: Followed, width: int, height: int, ascii_only: bool = False) -> list[Text]:
    """Draws a run as at most `height` lines of at most `width` cells."""
    space = Space(max(1, width), ascii_only)
    found = list(_lines(run, space))
    shown = _fit([*found, *_samples(run, space, 1)], height)
    free = height - len(shown)
    if free > 0:  # the samples may take what nothing else needs
        shown = _fit([*found, *_samples(run, space, min(MOST_LINES, 1 + free // 2))], height)
    for line in shown:
        line.truncate(space.width, overflow="ellipsis")
    return shown


def _fit(found: list[Line], height: int) -> list[Text]:
    # In the order of the screen; of equal priority the first ones
    order = sorted(range(len(found)), key=lambda i: found[i].priority)
    return [found[i].text for i in sorted(order[: max(0, height)])]


def _samples(run: Followed, space: Space, most: int) -> list[Line]:
    if run.samples is None:
        return []
    best = _sample("best", run.samples.best, space, most)
    if run.samples.best is run.samples.worst:
        return best
    return [*best, *_sample("worst", run.samples.worst, space, most)]


def _sample(name: str, record: SampleRecord, space: Space, most: int) -> list[Line]:
    reward = record.get("reward")
    label = f"{name} {format_number(reward)}".ljust(space.label - 1)
    if cell_len(label) >= space.width - 1 or space.width < 8:
        return [Line(SAMPLES, Text(label))]
    width = space.width - cell_len(label) - 1
    # The question is at the end of a prompt
    prompt = tail(make_visible(record["prompt"]), width * most // 3)
    arrow = " → "
    completion = make_visible(as_text(record) or record["completion"])
    room = max(0, width * most - most - cell_len(prompt) - len(arrow))
    text = prompt + arrow + head_and_tail(completion, room)
    chopped = chop_cells(text, max(2, width))[:most]
    heads = [label, *[" " * cell_len(label)] * (len(chopped) - 1)]
    return [
        Line(SAMPLES + (i > 0) * 4, Text.assemble(front, " ", (row, "dim")))
        for i, (front, row) in enumerate(zip(heads, chopped, strict=True))
    ]


def _lines(run: Followed, space: Space) -> Iterator[Line]:
    """Every line but those of samples, in the order of the screen."""
    yield Line(0, _header(run, space))
    yield Line(1, _progress(run, space))
    for priority, key, name in CURVES:
        if key in OPTIONAL and key not in run.last:
            continue
        yield Line(priority, _curve(run, key, name, space))
    yield from _rewards(run, space)
    yield from _environments(run, space)
    yield from _time(run, space)
    yield from _troubles(run, space)
    yield from _events(run, space)


def format_failures(calls: Counter[tuple[str, str]], samples: int, updates: int = 0) -> str:
    """`judge 3 timeout 1 crash, http 2 exception; 4 samples skipped`."""
    names = dict.fromkeys(name for name, _ in calls)
    parts = [
        " ".join([name, *(f"{n} {kind}" for (owner, kind), n in calls.items() if owner == name)])
        for name in names
    ]
    skipped = [_count(samples, "sample"), _count(updates, "update")]
    return "; ".join(part for part in (", ".join(parts), *skipped) if part)


def _count(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'} skipped" if count else ""


def _header(run: Followed, space: Space) -> Text:
    state = Text(run.state, STATE_STYLES.get(run.state, "bold"))
    left = Text(head(make_visible(run.name), space.width - len(state) - 1), "bold")
    room = space.width - left.cell_len - len(state)
    if room > 12:
        left.append("  " + head(make_visible(run.title), room - 4), "not bold")
    gap = max(1, space.width - left.cell_len - state.cell_len)
    return Text.assemble(left, " " * gap, state)


def _progress(run: Followed, space: Space) -> Text:
    parts = [f"step {run.done}/{run.total}"]
    if (elapsed := run.elapsed()) is not None:
        parts.append(f"{format_duration(elapsed)} elapsed")
    if (remaining := run.remaining()) is not None:
        parts.append(f"ETA {format_duration(remaining)}")
    if run.pace is not None:
        parts.append(f"{run.pace:.1f} s per step")
    text = parts[0]
    behind = "  " + "  ".join(parts[1:])
    room = space.width - len(text) - len(behind) - 2
    if room < 8:
        return Text(text + behind)
    share = min(1.0, run.done / run.total) if run.total else 0.0
    full = round(share * room)
    done, left = ("#", "-") if space.ascii_only else ("━", "─")
    return Text.assemble(text, "  ", (done * full, "green"), (left * (room - full), "dim"), behind)


def _curve(run: Followed, key: str, name: str, space: Space) -> Text:
    records: list[Any] = [r for r in run.metrics if key == "held_out" or r["step"] > 0]
    values: list[float | None] = [record.get(key) for record in records]
    if key == "held_out":
        values = [value for value in values if value is not None]
    line = _label(name, space)
    known = [value for value in values if value is not None]
    if not known:
        return line.append("–", "dim")
    first, latest = known[0], known[-1]
    arrow = "→" if latest == first else "↑" if latest > first else "↓"
    said = format_number(values[-1])
    if len(known) > 1:
        said += f" {arrow} from {format_number(first)}"
    room = space.width - space.label - LATEST - 1
    if room >= 4:
        curve = sparkline(values, room, space.levels)
        line.append(curve.ljust(room) + " ", "cyan")
    return line.append(said)


def _rewards(run: Followed, space: Space) -> Iterator[Line]:
    rewards = run.last.get("rewards", {})
    if [*rewards.values()] not in ([], [run.last.get("reward")]):
        means = ", ".join(
            f"{make_visible(name)} {format_number(value)}" for name, value in rewards.items()
        )
        yield Line(7, _label("rewards", space).append(means))


def _environments(run: Followed, space: Space) -> Iterator[Line]:
    for name, own in run.last.get("environments", {}).items():
        ends = ", ".join(f"{share or 0:.0%} {end}" for end, share in own.get("ends", {}).items())
        parts = [f"{name} {format_number(own.get('turns'))} turns: {ends}"]
        parts += _known("idle {:.0%}", run.last.get("idle_share"))
        parts += _known("{:.0%} of calls not parsed", own.get("unparsed_share"))
        parts += _known("{:.2f} s per answer", own.get("answer_s"))
        yield Line(7, _label("episodes", space).append(make_visible("; ".join(parts))))


def _known(form: str, value: float | None) -> list[str]:
    return [] if value is None else [form.format(value)]


def _time(run: Followed, space: Space) -> Iterator[Line]:
    if found := measure_shares(run.metrics):
        bar = time_bar(found, space.width - space.label)
        yield Line(7, Text.assemble(_label("time", space), bar))
        yield Line(8, Text("  " + time_legend(found), "dim"))
    rate = run.last.get("tokens_per_second")
    if rate is not None:
        said = ", ".join(
            f"{make_visible(name)} {value:,.0f}" for name, value in rate.items() if value
        )
        memory = run.last.get("peak_memory_gib")
        behind = f"   peak memory {memory:.1f} GiB" if memory else ""
        yield Line(8, _label("tokens/s", space).append(said + behind))


def _troubles(run: Followed, space: Space) -> Iterator[Line]:
    said = format_failures(run.failed, run.skipped["samples"], run.skipped["updates"])
    if said:
        parts = wrap(make_visible(f"{said} since the start"), max(1, space.width - space.label))
        for row, part in enumerate(parts[:2]):
            label = _label("" if row else "failures", space)
            yield Line(8 if row else 4, _styled(label.append(part), "red"))
    for note in run.notes:
        for row, part in enumerate(wrap(make_visible(note), space.width)[:3]):
            yield Line(4 if row == 0 else 8, Text(part, "yellow"))
    for alert in run.current_alerts()[-ALERTS:]:
        said = f"! {alert.kind} since step {alert.step}: {alert.reason}; {alert.suggestion}"
        for row, part in enumerate(wrap(make_visible(said), space.width)[:3]):
            yield Line(4 if row == 0 else 8, Text(part, "yellow"))


def _events(run: Followed, space: Space) -> Iterator[Line]:
    shown = run.events[-EVENTS:]
    place = f"{run.folder.path.resolve().parent}/"  # long, and known
    for age, event in zip(range(len(shown) - 1, -1, -1), shown, strict=True):
        style = "red" if event.get("state") == "failed" else "dim"
        yield Line(3 if age == 0 else 9, Text(format_event(event).replace(place, ""), style))


def format_event(event: EventRecord) -> str:
    """The text of an event, harmless to a terminal."""
    return make_visible(event["text"])


def _label(name: str, space: Space) -> Text:
    return Text(head(name, space.label - 1).ljust(space.label))


def _styled(text: Text, style: str) -> Text:
    text.stylize(style)
    return text
