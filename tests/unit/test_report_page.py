"""The page of a run: what models and users wrote is text, all sections are there, old runs too."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from drpo_cli.report import page
from drpo_cli.report.records import Records
from drpo_cli.report.roles import Role, read_roles
from drpo_cli.run_folder import RunFolder
from support.reports import HACKED, metrics_line, run_folder, sample_line, write_steps

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "</td></tr></table></div><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "]]><!-- -->",
    "\x00\x08\u202e\ud800 half a pair",
    "$\\frac{1}{$",
)


def section(text: str, name: str) -> str:
    """One section of a page, its tags taken off."""
    found = text.split(f"<h2 id={name}>")[1].split("<h2")[0]
    found = re.sub(r"<svg.*?</svg>", " ", found, flags=re.DOTALL)
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
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<svg" in text
    assert "default-src 'none'" in text


def test_a_page_of_a_run_without_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.spec.write_text("")
    run.versions.write_text("{}")
    text = written(run)
    assert "not evaluated after training yet" in text
    assert "No step was recorded." in section(text, "rewards")
    assert "Nothing was looked at" in section(text, "suspicious")
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
    outside = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)  # matplotlib names its texts in some
    allowed = {"a", "body", "br", "details", "div", "figure", "h1", "h2", "h3", "html", "meta",
               "nav", "p", "pre", "style", "summary", "table", "td", "th", "title", "tr",
               "svg", "defs", "g", "path", "use", "clippath", "rect", "metadata"}  # fmt: skip
    tags = set(re.findall(r"<([a-zA-Z][^\s>/]*)", outside))
    assert {tag.lower() for tag in tags if ":" not in tag} <= allowed
    assert not re.search(r"<[^>]*\son[a-z]+=", outside)
    assert html.escape(hostile.replace("\ud800", "\\ud800")) in text


def test_the_table_of_rewards_adds_the_run_up(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"right": 2.0, "judge": 0.0})
    for step in range(1, 21):
        line = metrics_line(step, step / 10, {"right": step / 10})
        timeouts = {"timeout": 1, "crash": 1} if step == 7 else {"timeout": 2} if step == 9 else {}
        judge = {"calls": 4, "seconds": 1.5, "slowest": step / 8, "failures": timeouts,
                 "counts": {"prompt_tokens": 1000, "cost_usd": 0.0005}}  # fmt: skip
        line["grading"]["judge"] = judge
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
    roles = read_roles(spec)
    assert roles == {
        "exact_match": Role("exact_match"),
        "tidy": Role("./r.py:tidy", weight=0),
        "kind": Role("judge", gate=True),
    }
    assert [str(role) for role in roles.values()] == ["weight 1", "metric (weight 0)", "gate"]
    assert [role.counts for role in roles.values()] == [True, False, True]


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
    headings = text.split("<h3>")
    parts = {part.split("</h3>")[0]: part for part in headings[1:]}
    highest = parts["Highest total"]
    assert highest.count("best twice") == 1 and "line 26" in highest
    assert highest.index("best twice") < highest.index(tail)
    assert "4,209 characters left out" in highest and "x" * 401 not in highest
    assert "best twice" not in parts["Lowest total"] and "worst" in parts["Lowest total"]
    assert "worst" in parts["Rewards that count disagree most"]
    assert "skipped" in parts["Newest, one a prompt"] and "not scored" in text
    assert "not scored" not in highest + parts["Lowest total"]


def test_a_reward_of_negative_weight_agrees_when_it_goes_the_other_way(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {"right": 1.0, "waste": -1.0})
    agreeing = [(x / 10, -x / 10) for x in range(-10, 11)]
    Records(run.samples).extend(
        sample_line(1, i, f"<{right} {waste}>", right - waste, {"right": right, "waste": waste})
        for i, (right, waste) in enumerate([*agreeing, (0.9, 0.9)])
    )
    part = written(run).split("<h3>Rewards that count disagree most</h3>")[1].split("<h3>")[0]
    first_row = part.split("<tr>")[2]
    assert "&lt;0.9 0.9&gt;" in first_row


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
