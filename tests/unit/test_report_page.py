"""The page of a run: what models and users wrote is text, all sections are there, old runs too."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from drpo_cli.report import charts, page
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import RewardUsage
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import SavedRun
from drpo_cli.runs.spec import Role
from support.reports import HACKED, metrics_line, run_folder, sample_line, whole_run, write_steps

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "</td></tr></table></div><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "]]><!-- -->",
    "\x00\x08\u202e\ud800 half a pair",
    "$\\frac{1}{$",
)


class Tags(HTMLParser):
    """Collects the names of tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def section(text: str, name: str) -> str:
    """One section of a page, its tags taken off."""
    found = text.split(f"<h2 id={name}>")[1].split("<h2")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", found)).split())


def written(run: RunFolder) -> str:
    page.write(run)
    assert not list(run.path.glob("*.partial"))
    return run.report.read_text(encoding="utf-8")


def test_the_page_escapes_samples_and_says_what_happened(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.spec.write_text('name = "<b>"')
    run.versions.write_text("{}")
    Records(run.metrics).append(
        {"step": 0, "held_out": 0.25, "held_out_low": 0.2, "held_out_high": 0.3}
    )
    last = {"step": 9, "held_out": 0.5, "held_out_low": None, "held_out_high": None, "gap": None}
    Records(run.metrics).append(last)
    Records(run.samples).append({"step": 9, "prompt": SCRIPT, "completion": SCRIPT, "reward": 1.0})
    text = written(run)
    assert "base 25.0% [20.0%, 30.0%], best (step 9) 50.0%, last 50.0%." in text
    assert "Last − base: +25.0 points, of means" in text
    assert SCRIPT not in text and "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'; script-src 'sha256-" in text and "unsafe-eval" not in text
    style, script = re.findall(r"(?:style|script)-src ([^;]*)", text)[::-1]
    assert style == "'unsafe-inline'" and "unsafe" not in script


def test_a_page_of_a_run_without_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.spec.write_text("")
    run.versions.write_text("{}")
    text = written(run)
    assert "not evaluated after training yet" in text
    assert "No step was recorded." in section(text, "training")
    assert "No step was recorded." in section(text, "rewards")
    assert section(text, "alerts").endswith("None.")
    assert "Nothing was examined" in section(text, "suspicious")
    assert "No sample was recorded." in section(text, "samples")
    assert "No call of a reward failed." in section(text, "quarantine")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_stands_in_a_run_is_text_on_its_page(tmp_path: Path, hostile: str) -> None:
    name = hostile.encode("ascii", "ignore").decode().replace("\x00", "").replace("\x08", "")
    run = run_folder(tmp_path, {name: 1.0, "tidy": 0.0})
    failed = {"calls": 1, "seconds": 1.0, "slowest": 1.0, "failures": {"timeout": 1},
              "counts": {hostile: 2}}  # fmt: skip
    for step in range(1, 30):
        line = metrics_line(step, step, {name: -step, "tidy": 0.5})
        Records(run.metrics).append(line | {"grading": {name: failed}, "skipped_samples": 1})
    scores = {name: 1.0, "tidy": 0.0}
    lines = [sample_line(i, 0, hostile + str(i), 1.0 * i, scores) for i in range(1, 30)]
    Records(run.samples).extend(
        line | {"prompt": hostile, "answer": hostile, "prompt_id": hostile} for line in lines
    )
    Records(run.quarantine).append(
        {"step": 1, "reward": name, "reason": hostile, "detail": hostile, "prompt_id": hostile,
         "sample": None, "prompt": hostile, "completion": [hostile, hostile], "seconds": 1.0}
    )  # fmt: skip
    text = written(run)
    outside, *scripts = text.split("<script")
    allowed = {"a", "body", "button", "details", "div", "figcaption", "figure", "h1", "h2", "h3",
               "head", "header", "html", "i", "input", "label", "main", "mark", "meta", "nav",
               "option", "output", "p", "pre", "select", "style", "summary", "table", "tbody", "td",
               "th", "thead", "title", "tr"}  # fmt: skip
    parser = Tags()
    parser.feed(outside)
    assert parser.tags <= allowed
    assert not {name for name in parser.attributes if name.startswith("on")}
    assert len(scripts) == 3 and scripts[0].count("<") == 1  # its own end: data, BokehJS, our own
    for written_as in (("\ud800", "\\ud800"), ("\x00", "␀"), ("\x08", "␈"), ("\u202e", "[U+202E]")):
        hostile = hostile.replace(*written_as)
    assert str(escape(hostile)) in text


def test_the_table_of_rewards_adds_the_run_up(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"right": 2.0, "judge": 0.0})
    for step in range(1, 21):
        line = metrics_line(step, step / 10, {"right": step / 10})
        timeouts = {"timeout": 1, "crash": 1} if step == 7 else {"timeout": 2} if step == 9 else {}
        line["grading"]["judge"] = RewardUsage(
            calls=4,
            seconds=1.5,
            slowest=step / 8,
            failures=timeouts,
            counts={"prompt_tokens": 1000, "cost_usd": 0.0005},
        )
        Records(run.metrics).append(line | {"skipped_samples": int(step == 9)})
    found = section(written(run), "rewards")
    assert "total 0.15 1.95 right weight 2 0.15 1.95 160 16 0.2" in found
    assert "judge metric (weight 0) – – 80 30 2.5 3 timeout, 1 crash" in found
    assert "20,000 prompt_tokens, 0.01 cost_usd" in found
    assert "Samples skipped: 1; a reward failed" in found
    assert "took 2 s, 3.2% of the time" in found


def test_roles_are_the_specs(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(
        '[[reward]]\ntype = "exact_match"\n'
        '[[reward]]\ntype = "./r.py:tidy"\nweight = 0\n'
        '[[reward]]\ntype = "judge"\nname = "kind"\ngate = true\n'
    )
    roles = SavedRun(RunFolder(tmp_path)).roles
    assert roles == {
        "exact_match": Role("exact_match"),
        "tidy": Role("./r.py:tidy", weight=0),
        "kind": Role("judge", gate=True),
    }
    assert [str(role) for role in roles.values()] == ["weight 1", "metric (weight 0)", "gate"]
    assert [role.counts for role in roles.values()] == [True, False, True]


def ranked(text: str, view: str) -> list[str]:
    """Rows of the table of samples that a view has, in its order, as text."""
    rows = re.findall(r"<tr([^>]*)>(.*?)</tr>", text.split("<table id=table>")[1], flags=re.DOTALL)
    placed = [(re.search(rf'data-{view}="(\d+)"', own), row) for own, row in rows]
    found = sorted((int(at[1]), row) for at, row in placed if at)
    return [html.unescape(re.sub(r"<[^>]*>", " ", row)) for _, row in found]


def test_samples_are_ranked_and_equal_ones_shown_once(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    write_steps(run, HACKED, 3)
    tail = "end of it"
    Records(run.samples).extend(
        [
            *[sample_line(4, i, "best twice", 9.0, {"exact_match": 9.0}) for i in range(2)],
            sample_line(4, 2, "worst", -9.0, {"exact_match": -9.0, "length_bonus": 9.0}),
            sample_line(4, 3, "not scored", None, {"exact_match": None}),
            sample_line(4, 4, "x" * 5000 + tail, 8.0, {"exact_match": 8.0}),
        ]
    )
    text = written(run)
    highest, lowest = ranked(text, "best"), ranked(text, "worst")
    assert "best twice" in highest[0] and "line 26" in highest[0] and tail in highest[1]
    assert sum("best twice" in row for row in highest) == 1
    assert "4,209 characters left out" in highest[1] and "x" * 401 not in highest[1]
    assert "worst" in lowest[0] and "worst" in ranked(text, "counting")[0]
    assert any("skipped" in row and "not scored" in row for row in ranked(text, "newest"))
    assert not any("not scored" in row for row in highest + lowest)


def test_a_prompt_that_changed_is_shown_as_it_was_and_as_it_became(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"right": 1.0})
    totals = {"p0": (0.0, 0.2), "p1": (0.0, 1.0), "p2": (0.9, 0.0), "p3": (0.5, 0.5)}
    for step in (1, 2, 3):
        for i, (prompt, ends) in enumerate(totals.items()):
            for k, off in enumerate((-0.1, 0.0, 0.1)):  # the middle one is typical
                total = (0.0 if step == 2 else ends[step // 3]) + off
                line = sample_line(step, k, f"{prompt} at {step}: {k}", total, {"right": total})
                Records(run.samples).append(line | {"prompt": prompt, "prompt_id": f"w/{i}"})
    Records(run.samples).append(sample_line(3, 0, "seen once", 5.0, {"right": 5.0}))
    found = [re.findall(r"p\d at \d: \d", row)[0] for row in ranked(written(run), "changed")]
    expected = [f"{prompt} at {step}: 1" for prompt in ("p1", "p2", "p0") for step in (3, 1)]
    assert found == expected


def test_a_reward_of_negative_weight_agrees_when_it_goes_the_other_way(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"right": 1.0, "waste": -1.0})
    agreeing = [(x / 10, -x / 10) for x in range(-10, 11)]
    Records(run.samples).extend(
        sample_line(1, i, f"<{right} {waste}>", right - waste, {"right": right, "waste": waste})
        for i, (right, waste) in enumerate([*agreeing, (0.9, 0.9)])
    )
    assert "<0.9 0.9>" in ranked(written(run), "counting")[0]


def test_the_quarantine_is_counted_and_its_end_shown(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    Records(run.quarantine).extend(
        {"step": i, "reward": "judge" if i % 3 else "http", "reason": "timeout",
         "detail": "no answer", "prompt_id": f"p/{i}", "sample": None if i % 2 else 3,
         "prompt": "q", "answer": None, "seconds": 30.04,
         "completion": ["one", "two"] if i % 2 else f"said {i}"}
        for i in range(1, 31)
    )  # fmt: skip
    found = section(written(run), "quarantine")
    assert f"30 calls failed; all of them are in {run.quarantine}." in found
    assert "http timeout 10 judge timeout 20" in found
    assert "said 30" in found and "said 24" not in found
    assert "one ——— two" in found and "all samples" in found and "sample 3" in found
    assert "after 30.0 s" in found


def test_a_run_of_an_older_version_still_has_a_page(tmp_path: Path) -> None:
    """As version 0.1.0 wrote them: no grading, no skipped samples, no gates, fewer samples."""
    run = run_folder(tmp_path)
    for step in range(1, 40):
        line = {"step": step, "reward": 0.5, "rewards": {"exact_match": step / 50},
                "seconds": {"reward": 0.01, "step": 1.0}}  # fmt: skip
        Records(run.metrics).append(line)
        sample = {"step": step, "prompt_id": "a/1", "prompt": "1+1=", "answer": "2",
                  "completion": "2", "truncated": True, "reward": 1.0,
                  "rewards": {"exact_match": 1.0}}  # fmt: skip
        Records(run.samples).append(sample)
    text = written(run)
    assert "exact_match weight 1 0.04 0.76 – – –" in section(text, "rewards")
    assert "[truncated]" in section(text, "samples") and "answer: 2" in section(text, "samples")
    assert '"drpo": "0"' in section(text, "versions")


def test_lines_that_are_cut_short_or_broken_are_left_out_and_said(tmp_path: Path) -> None:
    run = whole_run(tmp_path, 20)
    whole = len(run.metrics.read_bytes().splitlines())
    with run.metrics.open("a") as file:
        file.write('not a record\n{"step": 21, "rew')
    with run.samples.open("ab") as file:
        file.write(
            b'{"step": 21, "prompt": "p"}\n{"step": 21, "prompt": "", "completion": "\xff"}\n'
        )
        file.write(b'{"step": 21, "prom')
    text = html.unescape(written(run))
    assert f"{whole - 1} steps. Held-out:" in text
    for name, lines in ((run.metrics.name, "1 line was"), (run.samples.name, "2 lines were")):
        assert f"the last line of {name} was cut off, as by a kill; it is left out" in text
        assert f"{name}: {lines} skipped (line " in text


def test_a_long_run_is_drawn_in_part_and_the_page_says_so(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    Records(run.metrics).extend(metrics_line(i, 0.5, {"exact_match": 0.5}) for i in range(1, 4502))
    text = section(written(run), "training")
    assert "has so many steps that one in 3 is drawn" in text
    assert "0.5 (step 4,501)" in text


def test_sources_and_a_warm_up_have_charts_of_their_own(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    for step in range(3):
        scores = {"easy.jsonl": 0.25 * step, "hard": 0.125}
        line = metrics_line(step, 0.5, {"exact_match": 0.5})
        Records(run.metrics).append({**line, "held_out": 0.2, "held_out_by_source": scores})
    Records(run.warm_up).extend({"step": i, "loss": 7.0 - i} for i in range(1, 5))
    text = section(written(run), "training")
    assert "held-out avg@k by source" in text and "easy.jsonl 0.0% (step 0)" in text
    assert "supervised warm-up: loss" in text and "6 (update 1)" in text and "3 (update 4)" in text


def test_a_page_of_1000_steps_can_be_mailed(tmp_path: Path) -> None:
    run = whole_run(tmp_path, 1000, samples=8, chars=3000)
    size = len(written(run).encode())
    assert 1_500_000 < size < 3_000_000


def test_alerts_are_listed_and_marked_on_the_charts(tmp_path: Path) -> None:
    run = whole_run(tmp_path, 200)
    text = written(run)
    found = section(text, "alerts")
    assert "still" in found and "entropy" in found
    plots = json.loads(text.split('id="plots">')[1].split("</script>")[0])
    models = json.dumps(plots["docs"]["charts"]["roots"])
    assert models.count("BoxAnnotation") >= len(plots["items"][0]["root_ids"]) > 20


def test_charts_zoom_with_those_over_the_same() -> None:
    line = [charts.Line("", [(1.0, 1.0), (9.0, 2.0)], charts.colour(0))]
    panels = [
        charts.Panel("a", "a", line),
        charts.Panel("b", "b", line),
        charts.Panel("c", "c", line, over="update"),
    ]
    drawn = charts.draw(panels, [(2.0, 3.0, charts.colour(1))])["docs"]["charts"]["roots"]
    ranges = [plot["attributes"]["x_range"]["id"] for plot in drawn]
    assert ranges[0] == ranges[1] != ranges[2]
    shaded = ["BoxAnnotation" in json.dumps(plot["attributes"]["center"]) for plot in drawn]
    assert shaded == [True, True, False]
