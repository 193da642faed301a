"""The report in a real browser: it draws, searches, sorts, prints, and runs nothing it was told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.report import page as report_page
from drpo_cli.report.page import report
from drpo_cli.runs.records import Records
from support.browser import browser, needs_browser, opened
from support.reports import metrics_line, run_folder, sample_line, whole_run

pytestmark = needs_browser

# Colours of pixels that are on no grid line, axis or background: those of curves.
MARKS = """(figure) => {
  const bokeh = [...figure.querySelectorAll("*")].find((e) => e.shadowRoot);
  const found = [];
  const look = (root) => {
    for (const e of root.querySelectorAll("*")) {
      if (e.shadowRoot) look(e.shadowRoot);
      if (e.tagName === "CANVAS") found.push(e);
    }
  };
  look(bokeh.shadowRoot);
  let coloured = 0;
  for (const canvas of found) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) {
      const [r, g, b, a] = data.slice(i, i + 4);
      if (a > 40 && Math.max(r, g, b) - Math.min(r, g, b) > 60) coloured += 1;
    }
  }
  return coloured;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = whole_run(tmp_path_factory.mktemp("runs") / "demo", 100, samples=8)
    report_page.write(run)
    return run.report


def rows(page: Any) -> Any:
    return page.locator("#table tbody tr")


def column(page: Any, name: str) -> list[float]:
    """Shown values of a column of numbers."""
    heads = page.locator("#table th").all_inner_texts()
    at = next(i for i, head in enumerate(heads) if head.split()[0] == name)
    return [
        float(value)
        for value in page.locator(f"#table tbody td:nth-child({at + 1})").evaluate_all(
            "cells => cells.map((cell) => cell.dataset.value)"
        )
        if value
    ]


def test_it_opens_from_disk_without_a_word_and_draws(chromium: Any, run_page: Path) -> None:
    with opened(chromium, run_page) as (page, seen):
        charts = page.locator("figure:has(.chart)")
        assert charts.count() > 20
        page.wait_for_timeout(300)
        assert seen.requests == [run_page.resolve().as_uri()]
        assert seen.complaints == []  # before `MARKS`, of which the browser complains
        for i in range(charts.count()):
            figure = charts.nth(i)
            assert figure.evaluate(MARKS) > 50, figure.inner_text()
            assert figure.locator("details td").count() > 0
        entropy = page.locator("figure", has_text="entropy, nats")
        before = entropy.evaluate(MARKS)
        share = page.locator("figure", has_text="share of tokens")
        shown = share.evaluate(MARKS)
        share.get_by_role("button", name="converging").click()
        page.wait_for_timeout(300)
        assert 0 < share.evaluate(MARKS) < shown and entropy.evaluate(MARKS) == before


def test_samples_are_searched_sorted_and_filtered(chromium: Any, run_page: Path) -> None:
    with opened(chromium, run_page) as (page, _):
        count = page.locator("#count")
        assert rows(page).count() == 25 and count.inner_text() == "25 of 30 samples"
        page.get_by_role("button", name="Show more").click()
        assert rows(page).count() == 30 and page.locator("#more").is_hidden()
        for name in ("total", "length_bonus", "step"):
            head = page.locator("#table th", has_text=re.compile(f"^{name}"))
            head.get_by_role("button").click()
            values = column(page, name)
            assert head.get_attribute("aria-sort") == "descending"
            assert values == sorted(values, reverse=True) and len(set(values)) > 1
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == "ascending"
            assert column(page, name) == sorted(column(page, name))
        assert page.locator("#table th[aria-sort=ascending]").count() == 1
        page.get_by_label("Show").select_option("worst")
        worst = column(page, "total")
        assert worst == sorted(worst) and page.locator("th[aria-sort=ascending]").count() == 0
        page.get_by_label("Show").select_option("best")
        assert min(column(page, "total")) > max(worst)
        page.get_by_label("Show").select_option("changed")
        assert {abs(value) > 0 for value in column(page, "change")} == {True}
        page.get_by_label("Show").select_option("")
        page.get_by_label("Search").fill("STEP 100 sample 3")
        assert "1 of 1 samples" in count.inner_text()
        assert "step 100 sample 3: word" in rows(page).inner_text()
        page.get_by_label("Search").fill("nobody said this")
        assert rows(page).count() == 0 and "0 of 0" in count.inner_text()


def test_the_keyboard_is_enough(chromium: Any, run_page: Path) -> None:
    with opened(chromium, run_page) as (page, _):
        focused = "document.activeElement.textContent || document.activeElement.id"
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "Skip to the report"
        assert page.locator(".skip").bounding_box()["x"] > 0
        reached, outlined = [], set()
        for _ in range(400):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(focused))
            outlined.add(page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
            if reached[-1] == "disagreement":
                break
        assert outlined == {"solid"}
        order = ["alerts", "versions", "Dark or light", "masked", "search", "disagreement"]
        assert [name for name in reached if name in order] == order
        page.keyboard.press("Enter")
        values = column(page, "disagreement")
        assert values == sorted(values, reverse=True)
        page.get_by_label("Search").focus()
        page.keyboard.type("prompt 7")
        assert 0 < rows(page).count() < 25


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_follow_the_system_and_the_button(
    chromium: Any, run_page: Path, scheme: str, tmp_path: Path
) -> None:
    bright = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128"
    ink = "() => getComputedStyle(document.querySelector('.chart')).getPropertyValue('--text')"
    with opened(chromium, run_page, color_scheme=scheme) as (page, seen):
        assert page.evaluate(bright) == (scheme == "light")
        first, before = page.screenshot(path=tmp_path / f"{scheme}.png"), page.evaluate(ink)
        page.get_by_role("button", name="Dark or light").click()
        page.wait_for_timeout(300)
        assert page.evaluate(bright) == (scheme == "dark") and page.evaluate(ink) != before
        assert page.screenshot() != first
        page.set_viewport_size({"width": 360, "height": 740})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert seen.complaints == []


def test_what_a_model_wrote_is_text_and_never_runs(chromium: Any, tmp_path: Path) -> None:
    hostile = [
        "<script>alert(1)</script>",
        "</script><script>alert(2)</script>",
        "<img src=x onerror=alert(3)>",
        '"><svg onload=alert(4)>',
        "\u202ertl \u2066bidi\u2069 \x00\x08\x1b[31m \ud800 \u2028",
        "{{7*7}}",
        "$$\\href{javascript:alert(5)}{x}$$",
        "@step{safe}",
    ]
    names = hostile[:4] + hostile[5:]
    run = run_folder(tmp_path / "a<script>alert(6)<", dict.fromkeys(names, 1.0))
    run.spec.write_text(f"# {hostile[0]}\n" + run.spec.read_text())
    for step in range(1, 30):
        Records(run.metrics).append(metrics_line(step, step, dict.fromkeys(names, -step)))
    Records(run.samples).extend(
        sample_line(1, i, text, 1.0 * i, dict.fromkeys(names, 0.1 * i)) | {"prompt": text}
        for i, text in enumerate(hostile)
    )
    report_page.write(run)
    with opened(chromium, run.report) as (page, seen):
        page.get_by_label("Show").select_option("")
        shown = rows(page).all_text_contents()
        visible = "[U+202E]rtl [U+2066]bidi[U+2069] ␀␈␛[31m \\ud800 \u2028"
        for text in (*hostile[:4], visible, *hostile[5:]):
            assert any(text in row for row in shown), text
        page.get_by_label("Search").fill("onerror=alert(3)")
        assert rows(page).count() == 1
        figure = page.locator("figure", has_text=hostile[2]).first
        figure.scroll_into_view_if_needed()
        box = figure.locator(".chart").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
        page.wait_for_timeout(300)
        tooltip = page.locator(".bk-tooltip-row-label", has_text=hostile[2])
        assert tooltip.count() == 1  # BokehJS writes names as text too
        assert page.locator("script").count() == 3 and page.locator("img, svg").count() == 0
        assert page.title() == "a<script>alert(6)<"
        assert len(seen.requests) == 1 and seen.complaints == []


def test_a_script_that_got_in_all_the_same_would_not_run(chromium: Any, run_page: Path) -> None:
    planted = run_page.with_name("planted.html")
    text = run_page.read_text(encoding="utf-8")
    planted.write_text(text.replace("<main", "<script>window.ran = 1</script><main", 1))
    with opened(chromium, planted) as (page, seen):
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in said for said in seen.complaints)


def test_it_prints_light_with_everything_open_and_whole(
    chromium: Any, run_page: Path, tmp_path: Path
) -> None:
    with opened(chromium, run_page, color_scheme="dark") as (page, seen):
        page.evaluate("window.seen = null")
        page.evaluate(
            "addEventListener('afterprint', () => {}); addEventListener('beforeprint', () => {"
            " window.seen = {open: document.querySelectorAll('details:not([open])').length,"
            " pictures: document.querySelectorAll('.chart img').length,"
            " theme: document.documentElement.dataset.theme}})"
        )
        printed = page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
        charts = page.locator(".chart").count()
        assert page.evaluate("window.seen") == {"open": 0, "pictures": charts, "theme": "light"}
        assert printed.startswith(b"%PDF") and printed.count(b"/Subtype /Image") >= charts
        assert page.locator(".chart img").count() == 0  # and back again
        assert page.locator("details[open]").count() == 0
        assert page.locator("html[data-theme]").count() == 0
        assert seen.complaints == []


def test_several_runs_in_one_page(chromium: Any, tmp_path: Path) -> None:
    for name, better in (("base", 0.0), ("better", 0.2), ("third", 0.0)):
        whole_run(tmp_path / name, 60, seed=len(name), better=better)
    out = report([tmp_path / name for name in ("base", "better", "third")], tmp_path / "all.html")
    with opened(chromium, out) as (page, seen):
        assert page.locator(".verdict").count() == 3
        held_out = page.locator("figure:has(#chart-held-out)")
        assert [b.split()[0] for b in held_out.locator("button").all_inner_texts()] == [
            "base",
            "better",
            "third",
        ] * 2
        swatches = "nodes => [...new Set(nodes.map((node) => node.style.background))]"
        own = page.locator(".verdict .swatch").evaluate_all(swatches)
        assert own == held_out.locator(".swatch").evaluate_all(swatches) and len(own) == 3
        page.wait_for_timeout(300)
        assert "paired over 20 problems" in page.locator("table").nth(1).inner_text()
        page.get_by_label("Run").select_option("better")
        assert set(page.locator("#table tbody td:first-child").all_inner_texts()) == {"better"}
        assert seen.complaints == []
        assert held_out.evaluate(MARKS) > 100
