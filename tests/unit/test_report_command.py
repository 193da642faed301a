"""`drpo report`: where the page goes, what cannot be; of several runs, how they differ."""

from __future__ import annotations

import html
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from drpo_cli.errors import UserError
from drpo_cli.evaluate.compare import compare_pairs
from drpo_cli.evaluate.metrics import ProblemResult, summarise
from drpo_cli.report.held_out import (
    compare_ends,
    compare_last,
    compare_means,
    describe_run,
    format_difference,
)
from drpo_cli.report.page import choose_names, report
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import StepMetrics
from drpo_cli.runs.reader import read
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import SavedRun
from support.reports import run_folder, whole_run


def recorded(path: Path, seed: int, better: float = 0.0) -> SavedRun:
    return SavedRun(whole_run(path, 20, seed=seed, better=better), path.name)


def _problems(rates: tuple[float, ...]) -> list[ProblemResult]:
    right = [round(8 * rate) for rate in rates]
    return [
        ProblemResult(str(i), str(i), (1.0,) * n + (0.0,) * (8 - n), ("",) * 8)
        for i, n in enumerate(right)
    ]


def test_a_difference_is_that_of_eval_paired_by_problem(tmp_path: Path) -> None:
    base, run = recorded(tmp_path / "a", 1), recorded(tmp_path / "b", 2, better=0.2)
    evaluations = {one.name: summarise(_problems(one.held_out[-1].rates)) for one in (base, run)}
    (expected,) = compare_pairs(evaluations)
    found = compare_last(base, run)
    assert found.estimate == expected.estimate and found.pairs == 20
    assert found.estimate.low is not None and found.estimate.low < found.estimate.value
    assert "paired over 20 problems" in format_difference(found)
    over_all = compare_means(base, run)
    scores = [[each.score for each in one.held_out if each.step] for one in (base, run)]
    means = [sum(own) / len(own) for own in scores]
    assert over_all.estimate.value == pytest.approx(means[1] - means[0])
    assert over_all.pairs == 20 and over_all.estimate.low is not None


def test_without_single_scores_the_difference_is_of_means_and_says_so(tmp_path: Path) -> None:
    base, run = recorded(tmp_path / "a", 1), recorded(tmp_path / "b", 2)
    run.folder.held_out.unlink()
    run = SavedRun(run.folder, "b")
    for found in (compare_last(base, run), compare_means(base, run), compare_ends(run)):
        assert found.pairs == 0 and found.estimate.low is None
    ends = [each.score for each in run.held_out]
    assert compare_ends(run).estimate.value == pytest.approx(ends[-1] - ends[0])
    assert "of means" in describe_run(run) and "paired" not in describe_run(run)
    assert "paired over 20 problems" in describe_run(base)


def test_runs_of_other_problems_are_not_compared(tmp_path: Path) -> None:
    base, other = (whole_run(tmp_path / name, 20) for name in "ab")
    lines = read(other.metrics, StepMetrics)
    lines[0]["held_out_set"] = "other problems"
    other.metrics.unlink()
    Records(other.metrics).extend(lines)
    text = report([base.path, other.path], tmp_path / "page.html").read_text()
    assert "scored on other problems, or sampled differently: not compared" in text
    assert 'id="chart-difference"' not in text and 'id="chart-held-out"' in text


def test_one_page_of_several_runs_says_what_differs(tmp_path: Path) -> None:
    for name, delta in (("a", 0.2), ("b", 0.5)):
        run = whole_run(tmp_path / name, 20)
        table = {"run": {"name": name, "steps": 20}, "objective": {"type": "drpo", "delta": delta}}
        run.spec.write_text(tomli_w.dumps(table | {"reward": [{"type": "exact_match"}]}))
    (empty := run_folder(tmp_path / "empty")).spec.write_text("")
    text = html.unescape(
        report([tmp_path / "a", tmp_path / "b", empty.path], tmp_path / "page.html").read_text()
    )
    assert "<td>objective.delta</td><td>0.2</td><td>0.5</td><td>–</td>" in text
    assert "run.name" not in text
    assert "no step on which both were evaluated" in text
    assert "<b>empty</b> 0 steps; not evaluated after training yet." in text


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path: Path) -> None:
    def called(*paths: str) -> list[str]:
        return choose_names([RunFolder(tmp_path / path) for path in paths])

    assert called("x/one", "y/two") == ["one", "two"]
    assert called("x/one", "y/one", "y/two") == ["x/one", "y/one", "y/two"]
    assert called("x/one", "x/one") == ["one", "one (2)"]
    assert choose_names([RunFolder(Path("runs"))]) == ["runs"]


def test_where_the_page_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        run_folder(tmp_path / "runs" / name)
    assert report([Path("runs/a")]) == Path("runs/a/report.html")
    assert report([Path("runs/a"), Path("runs/b")]) == Path("comparison.html")
    assert Path("comparison.html").is_file()
    assert report([Path("runs/a")], Path("x.html")) == Path("x.html")


@pytest.mark.parametrize(
    ("run", "out", "expected"),
    [
        ("nowhere", None, "nowhere does not exist; name the folder of a run"),
        ("runs", None, "runs is not a run folder: it has no spec.toml; runs inside it: runs"),
        ("runs/a", "runs", "--out runs is a folder"),
        ("runs/a", "no/such.html", "--out no/such.html: the folder no does not exist; create it"),
    ],
)
def test_what_is_no_run_or_no_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, out: str | None, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "runs" / "a")
    with pytest.raises(UserError) as error:
        report([Path(run)], Path(out) if out else None)
    assert str(error.value).startswith(expected)


def test_keys_that_are_not_at_their_defaults_are_marked(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    run.spec.write_text(
        '[run]\nname = "<x>"\nseed = 0\n[train]\nlearning_rate = 0.5\nschedule = "cosine"\n'
        '[[reward]]\ntype = "exact_match"\nweight = 2.0\n'
    )
    text = html.unescape(report([run.path]).read_text())
    marked = [part.split("</mark>")[0] for part in text.split("<mark>")[1:]]
    assert marked == [
        'name = "<x>"',
        "learning_rate = 0.5",
        'schedule = "cosine"',
    ]


def test_a_full_disk_leaves_the_old_page_and_one_message(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run", 20)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    assert dead.wait() == 0
    left = run.path / f"report.html.{dead.pid}.partial"  # by a writer that was killed
    left.write_text("half a page")
    old = report([run.path]).read_text(encoding="utf-8")
    code = (
        "import resource, signal, sys; from drpo_cli.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "sys.argv = ['drpo', 'report', sys.argv[1]]\nmain()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert (
        ran.stderr.count("report.html: the file would be larger than allowed") == 1
        and "Traceback" not in ran.stderr
    )
    assert run.report.read_text(encoding="utf-8") == old
    assert not list(run.path.glob("*.partial"))
