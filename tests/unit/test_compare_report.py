"""The report of a grid from the folders of its runs: states, results, tables, page, figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from drpo_cli.errors import UserError
from drpo_cli.runs.records import Records
from drpo_cli.spec import dump
from drpo_cli.tools.compare import command, figures, pages, tables
from drpo_cli.tools.compare.grid import Axis, parse_axes
from drpo_cli.tools.compare.jobs import Job, State, read_state
from drpo_cli.tools.compare.report import Report, make_report, read_report
from drpo_cli.tools.compare.results import read_result
from drpo_cli.tools.compare.rows import make_base_table, make_overviews, make_tables
from drpo_cli.tools.compare.summaries import choose_baseline
from support.grids import DONE, STEPS, grid, record

VARY = ("objective=drpo:delta=0.2,spo,none", "train.learning_rate=1e-3,5e-4")
LAG_BASE = (*STEPS, "eval.every=5", "train.updates_per_rollout=1")


def finished(folder: Path, *vary: str, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[Job, State]:
    found = grid(folder, *vary, seeds=seeds)
    for i, job in enumerate(found):
        record(job, 0.2, 0.3 + 0.01 * i, 0.4 + 0.02 * (i % 5))
    return dict.fromkeys(found, DONE)


def report(
    states: dict[Job, State],
    *vary: str,
    target: float | None = None,
    bases: tuple[str, ...] = (),
) -> Report:
    asked = parse_axes(vary)
    baseline = choose_baseline(None, asked)
    return make_report("grid", "drpo compare <run.toml>", asked, states, baseline, target, bases)


def test_a_folder_says_how_far_its_run_is(tmp_path: Path) -> None:
    (job,) = grid(tmp_path, "objective=drpo", seeds=(0,))
    assert read_state(job).status == "not started"
    job.folder.path.mkdir(parents=True)
    job.folder.spec.write_text(dump(job.spec))
    assert read_state(job).status == "unfinished"
    for step in (5, 10):
        assert read_state(job).status == "unfinished"
        saved = job.folder.checkpoints / f"step-{step:06d}"
        saved.mkdir(parents=True)
        (saved / "complete.json").write_text(f'{{"step": {step}}}')
    record(job, 0.1, 0.1)
    assert read_state(job).status == "failed" and "remove" in read_state(job).reason
    Records(job.folder.metrics).append({"step": 10, "held_out": 0.2})
    assert read_state(job) == DONE


@pytest.mark.parametrize(
    ("state", "scores", "last", "collapsed"),
    [
        (DONE, (0.2, 0.6, 0.31), {}, False),
        (DONE, (0.2, 0.6, 0.29), {}, True),
        (DONE, (0.6, 0.4, 0.29), {}, True),  # the untrained model counts
        (DONE, (0.2, 0.3, 0.3), {"skipped_updates": 4}, True),
        (DONE, (0.2, 0.3, 0.3), {"skipped_updates": 3}, False),
        (State("unfinished"), (0.2, 0.6, 0.1), {}, None),
        (State("failed", "the disk is full"), (0.2, 0.6), {}, None),
        (State("failed", "mean |log π − log μ| is nan, the noise floor"), (0.2,), {}, True),
    ],
)
def test_what_counts_as_a_collapse(
    tmp_path: Path,
    state: State,
    scores: tuple[float | None, ...],
    last: dict[str, object],
    collapsed: bool | None,
) -> None:
    (job,) = grid(tmp_path, "objective=drpo", seeds=(0,))
    record(job, *scores, **last)
    assert read_result(job, state).collapsed is collapsed


def test_runs_on_other_problems_are_not_compared(tmp_path: Path) -> None:
    one, other = found = grid(tmp_path, "objective=drpo,spo", seeds=(0,))
    for job in found:
        Records(job.folder.metrics).path.parent.mkdir(parents=True)
    Records(one.folder.metrics).append({"step": 0, "held_out": 0.2, "held_out_set": "a"})
    Records(other.folder.metrics).append({"step": 0, "held_out": 0.2, "held_out_set": "b"})
    with pytest.raises(UserError, match="were scored on different held-out problems"):
        report(dict.fromkeys(found, DONE), "objective=drpo,spo")


def test_json_holds_every_run_and_cell(tmp_path: Path) -> None:
    states = finished(tmp_path, *VARY)
    broken = list(states)[1]
    states[broken] = State("failed", "the <disk> is full")
    command.write_report(report(states, *VARY, target=0.45), tmp_path)
    found = json.loads((tmp_path / "compare.json").read_text())
    assert found["axes"]["objective"] == ["drpo:delta=0.2", "spo", "none"]
    assert len(found["runs"]) == 18 and len(found["cells"]) == 6
    assert found["runs"][1]["reason"] == "the <disk> is full"
    assert "final" not in found["runs"][1]
    first = found["runs"][0]
    assert (first["final"], first["best_step"], first["time_to_target"]) == (0.4, 10, None)
    assert first["area"] == pytest.approx((0.25 * 5 + 0.35 * 5) / 10)
    assert found["cells"][0]["point"] == {
        "objective": "drpo:delta=0.2",
        "train.learning_rate": "0.001",
    }
    assert {d["baseline"] for d in found["differences"]} == {
        "drpo:delta=0.2, learning_rate=0.001",
        "drpo:delta=0.2, learning_rate=0.0005",
    }


def test_the_page_needs_no_script_and_escapes(tmp_path: Path) -> None:
    states = finished(tmp_path, *VARY)
    states[next(iter(states))] = State("failed", "the <script> is full")
    command.write_report(report(states, *VARY), tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "the &lt;script&gt; is full" in text
    assert "default-src 'none'" in text
    assert text.count("<svg") == 2
    assert "17 finished, 1 failed" in text
    assert not list(tmp_path.glob("*.partial"))


def test_figures_follow_the_theme_and_come_as_png_too(tmp_path: Path) -> None:
    command.write_report(report(finished(tmp_path, *VARY), *VARY), tmp_path)
    for name in ("curves", "sensitivity"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert "currentColor" in text and "#010203" not in text
        assert "prefers-color-scheme:dark" in text
        assert "spo" in text
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.parametrize("labels", [["drpo"], ["ppo_clip:epsilon_high=0.28"] * 8, ["x" * 60] * 3])
@pytest.mark.parametrize("panels", [1, 3])
def test_the_legend_fits_the_figure(labels: list[str], panels: int) -> None:
    axis = Axis("train.learning_rate", tuple(map(str, range(panels))))
    figure, drawn = figures._make_panels([axis], labels)
    for _ in labels:
        next(iter(drawn.values())).plot([0, 1], [0, 1])
    figures._add_legend(figure, labels)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width


def test_names_of_others_are_plain_text_in_figures_and_page(tmp_path: Path) -> None:
    vary = ("model.path=$x^$,_y,</script><b>z\x1bc,a\\b", "train.learning_rate=1e-3,5e-4")
    command.write_report(report(finished(tmp_path, *vary), *vary), tmp_path)
    for name in ("curves", "sensitivity"):
        drawn = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text(encoding="utf-8"))
        texts = {element.text for element in drawn.iter() if element.tag.endswith("text")}
        assert {"$x^$", "_y", "</script><b>z\\u001bc", "a\\b"} <= texts
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>z" not in page and "</script>" not in page


def test_sensitivity_needs_a_second_key_of_numbers(tmp_path: Path) -> None:
    vary = ("objective=drpo,spo", "advantage=group_mean,rloo")
    command.write_report(report(finished(tmp_path, *vary), *vary), tmp_path)
    assert (tmp_path / "curves.svg").is_file()
    assert not (tmp_path / "sensitivity.svg").exists()


def test_with_one_seed_no_interval_is_shown_and_a_note_explains_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(finished(tmp_path, *VARY, seeds=(0,)), *VARY, target=0.4)
    command.write_report(found, tmp_path)
    tables.print_tables(found)
    shown, table = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    for text in (shown, table.replace("one seed", "")):
        assert not re.search(r"\[[-+\d]", text)
        assert "no interval is printed" in " ".join(text.split())
    assert "fill-opacity" not in (tmp_path / "curves.svg").read_text()  # no band
    cells_found = json.loads((tmp_path / "compare.json").read_text())["cells"]
    assert all(cell["final"]["low"] is None for cell in cells_found)


def test_the_table_as_markdown(tmp_path: Path) -> None:
    states = finished(tmp_path, "objective=drpo,spo")
    states[list(states)[-1]] = State("failed", "a | b")
    text = tables.to_markdown(report(states, "objective=drpo,spo", target=0.44))
    assert "| objective | runs | final | best | area | steps to 44 % | collapsed |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| spo | 2 of 3, 1 failed")]
    assert "44.0 [18.6, 69.4]" in row and "– (1 of 2)" in row
    assert "| spo | 2 | a \\| b |" in text
    assert "- best: Highest held-out avg@k" in text
    assert "Difference from objective=drpo" in text


def test_tokens_are_counted_by_mu_over_all_steps_and_runs(tmp_path: Path) -> None:
    jobs_ = grid(tmp_path, "objective=drpo,spo", seeds=(0, 1))
    half = {"token_share": 0.5, "masked_share": 0.0, "corrective_share": 0.5}
    rare = {"token_share": 0.5, "masked_share": 0.25, "corrective_share": 0.0}
    for job in jobs_[:2]:  # seed 0 of both
        record(job, 0.2)
        for step, (trained, by_mu) in enumerate(
            [(200.0, {"0": rare, "0.1": half}), (120.0, {"0.1": half})]
        ):
            values = {"step": step + 1, "trained_tokens": trained, "by_mu": by_mu}
            Records(job.folder.metrics).append(values)
        Records(job.folder.metrics).append({"step": 10, "held_out": 0.4})
    for job in jobs_[2:]:
        record(job, 0.2, 0.3, 0.4)
    found = report(dict.fromkeys(jobs_, DONE), "objective=drpo,spo")
    table = next(table for table in make_tables(found) if table.name == "tokens")
    assert table.header[1:] == (
        "μ ≥ 0.1",
        "masked / pulled back",
        "μ < 0.1",
        "masked / pulled back",
    )
    assert {row[1:] for row in table.rows} == {("61.5", "0.0 / 50.0", "38.5", "25.0 / 0.0")}
    again = tmp_path / "compare.json"
    again.write_text(found.to_json())
    assert make_tables(read_report(again)) == make_tables(found)
    assert "negative one" in found.definitions()["masked / pulled back"]


def test_with_a_lag_curves_count_updates(tmp_path: Path) -> None:
    vary = ("objective=drpo,spo", "lag=1,5")
    states = dict.fromkeys(grid(tmp_path, *vary, set_=LAG_BASE), DONE)
    for job in states:
        job.folder.path.mkdir(parents=True)
        for step, score in ((0, 0.2), (5, 0.5), (10, 0.6)):
            Records(job.folder.metrics).append({"step": step // job.cell.lag, "held_out": score})
    found = report(states, *vary, target=0.5)
    command.write_report(found, tmp_path)
    assert {result.curve for result in found.results} == {((0, 0.2), (5, 0.5), (10, 0.6))}
    assert {row.reached and row.reached.median for row in found.summaries} == {5}
    text = tables.to_markdown(found)
    assert "| updates to 50 % |" in text and "steps to" not in text
    assert "- lag: A rollout is 0 to lag − 1 optimizer updates old" in text
    drawn = (tmp_path / "curves.svg").read_text()
    assert ">update<" in drawn and ">step<" not in drawn


BASES = ("models/one", "models/two", "models/three")


def test_a_report_over_base_models(tmp_path: Path) -> None:
    """spo ends 10 points below drpo on average; by how much depends on the base model."""
    vary = ("objective=drpo,spo", "train.learning_rate=1e-3,5e-4")
    jobs_found = grid(tmp_path, *vary, seeds=(0, 1), bases=BASES)
    assert len(jobs_found) == 2 * 2 * 3 * 2
    assert jobs_found[0].folder.path.name == "drpo-learning_rate0.001-one-seed0"
    assert jobs_found[0].label == "drpo, learning_rate=0.001 on one, seed 0"
    assert {job.spec.model.path for job in jobs_found} == set(BASES)
    for job in jobs_found:
        place = BASES.index(job.cell.base)
        lower = (0.08, 0.1, 0.12)[place] if job.cell.value("objective") == "spo" else 0
        record(job, 0.2, 0.3, 0.4 + 0.1 * place + 0.01 * job.seed - lower)
    found = report(dict.fromkeys(jobs_found, DONE), *vary, bases=BASES)
    text = tables.to_markdown(found)
    half = 100 * 4.3027 * 0.02 / 3**0.5  # t of 2 degrees of freedom, not of 5
    interval = f"-10.0 [{-10 - half:.1f}, {-10 + half:.1f}]"
    assert interval in text and "with 95 % intervals over base models" in text
    assert "| spo | 0.001 | 6 | -10.0 [" in text
    (spread,) = [table for table in make_tables(found) if table.name == "spread"]
    assert spread.rows[2] == ("spo", "0.001", "8.0", "0.7", "2.0", "0.0")
    assert "paired by base model and seed" in text and "- base models: The mean of a base" in text
    assert "| objective | learning_rate | base model | before | seed 0 | seed 1 |" in text
    assert "| spo | 0.001 | three | 20.0 | 48.0 | 49.0 |" in text
    command.write_report(found, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "4 cells × 3 base models × 2 seeds = 24 runs" in page


def test_a_base_model_is_listed_with_the_runs_that_finished(tmp_path: Path) -> None:
    first, *others = jobs_found = grid(tmp_path, "objective=drpo", seeds=(0, 1), bases=BASES[:2])
    record(first, 0.2, 0.4)
    states = {**dict.fromkeys(jobs_found, State("failed", "no luck")), first: DONE}
    found = report(states, "objective=drpo", bases=BASES[:2])
    (table,) = make_base_table(found)
    assert table.rows == (("drpo", "one", "20.0", "40.0", "–"), ("drpo", "two", "–", "–", "–"))
    assert len(others) == 3


def test_the_report_can_be_made_again_from_its_json_alone(tmp_path: Path) -> None:
    states = finished(tmp_path, *VARY)
    states[list(states)[4]] = State("failed", "no | such luck")
    first = report(states, *VARY, target=0.44)
    command.write_report(first, tmp_path)
    again = read_report(tmp_path / "compare.json")
    assert again == first
    assert tables.to_markdown(again) == (tmp_path / "table.md").read_text()
    other = read_report(tmp_path / "compare.json", baseline="spo", target=0.3)
    assert (other.baseline.value, other.target) == ("spo", 0.3)
    (tmp_path / "other.json").write_text('{"runs": []}')
    with pytest.raises(UserError, match="is not a compare"):
        read_report(tmp_path / "other.json")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_report(tmp_path / "none.json")


def test_scores_are_kept_with_six_digits(tmp_path: Path) -> None:
    (job,) = grid(tmp_path, "objective=drpo", seeds=(0,))
    record(job, 1 / 3, 2 / 3, 1 / 7)
    command.write_report(report({job: DONE}, "objective=drpo"), tmp_path)
    text = (tmp_path / "compare.json").read_text()
    assert '"curve": [[0, 0.333333], [5, 0.666667], [10, 0.142857]]' in text
    assert '"area": 0.452381' in text


def test_the_overview_has_a_row_per_method_and_marks_clear_differences(tmp_path: Path) -> None:
    """spo ends about 10 points below drpo at every seed, none now and then."""
    final = {
        "drpo:delta=0.2": (0.4, 0.42, 0.44),
        "spo": (0.3, 0.33, 0.34),
        "none": (0.38, 0.43, 0.42),
    }
    states = dict.fromkeys(grid(tmp_path, *VARY), DONE)
    for job in states:
        record(job, 0.2, 0.3, final[job.cell.value("objective")][job.seed])
    overview, collapsed, reached, *_ = make_overviews(report(states, *VARY, target=0.3))
    assert overview.header == ("objective", "learning_rate 0.001", "learning_rate 0.0005")
    drpo, spo, none = overview.rows
    assert drpo == ("drpo:delta=0.2", "42.0 [37.0, 47.0]", "42.0 [37.0, 47.0]")
    assert spo[1] == spo[2] == "32.3 [27.2, 37.5] ↓"
    assert collapsed.rows[1] == ("spo", "0 of 3", "0 of 3")
    assert reached.title.startswith("Steps to 30 %: median, and runs that reached it")
    assert reached.rows[1] == ("spo", "5 (3 of 3)", "5 (3 of 3)")
    assert none[0] == "none" and not none[1].endswith(("↑", "↓"))


def test_a_grid_of_one_key_needs_no_overview(tmp_path: Path) -> None:
    found = report(finished(tmp_path, "objective=drpo,spo"), "objective=drpo,spo")
    assert tables.make_page_tables(found) == make_tables(found)


def test_a_page_gets_its_tables_from_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.write_report(report(finished(tmp_path, *VARY), *VARY), tmp_path)
    page = tmp_path / "docs" / "study.md"
    page.parent.mkdir()
    begin = "<!-- compare: ../compare.json {} -->\n"
    ends = "old\n<!-- /compare -->\n"
    page.write_text(f"# A\n{begin.format('overview')}{ends}B\n{begin.format('cells')}{ends}")
    assert pages.main([str(page), "--check"]) == 1
    assert "is not what its compare.json files give" in capsys.readouterr().err
    assert pages.main([str(page)]) == 0
    text = page.read_text()
    assert "old" not in text and text.count("**Held-out avg@k, %, with 95 % intervals") == 1
    assert "| objective | learning_rate 0.001 | learning_rate 0.0005 |" in text
    assert pages.main([str(page), "--check"]) == 0
    page.write_text(begin.format("reached") + ends)
    assert pages.main([str(page)]) == 2
    assert "has no table reached; name one of overview, collapsed" in capsys.readouterr().err
    page.write_text(begin.format("cells"))
    assert pages.main([str(page)]) == 2 and "has 1 markers" in capsys.readouterr().err
