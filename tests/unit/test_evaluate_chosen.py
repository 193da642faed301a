"""Whether a checkpoint was chosen for its score on the problems that it is scored on."""

from pathlib import Path

import pytest

from drpo_cli.runs.checkpoints import write_marker
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec, dump, load
from drpo_cli.step import choice
from drpo_cli.step.evaluate import problems_id
from drpo_cli.tools.scoring import count_choices
from drpo_cli.types import Prompt
from support.specs import SMALLEST, write

HELD_OUT = [Prompt(f"p{i}", f"{i}+1=", (i,), str(i + 1), {}) for i in range(3)]
SCORES = {0: 0.1, 10: 0.3, 20: 0.7, 30: 0.9, 40: 0.4}


def make_run(spec: Spec, folder: Path, every: int, problems: str | None = None) -> RunFolder:
    """A run that evaluated every 10 steps and saved a checkpoint every `every` steps."""
    run = RunFolder(folder)
    folder.mkdir()
    run.spec.write_text(dump(spec).replace("every = 77", f"every = {every}"))
    for step, score in SCORES.items():
        first = {} if step else {"held_out_set": problems or problems_id(spec, HELD_OUT)}
        Records(run.metrics).append({"step": step, "held_out": score, **first})
        if step and step % every == 0:
            checkpoint = run.checkpoints / f"step-{step:06d}"
            checkpoint.mkdir(parents=True)
            write_marker(checkpoint, {"step": step, "score": score}, {})
    return run


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return load(write(tmp_path, SMALLEST), ["checkpoint.every=77"])


def test_the_best_checkpoint_is_chosen_of_those_that_were_saved(spec: Spec, tmp_path: Path) -> None:
    run = make_run(spec, tmp_path / "each", every=10)
    found = {
        path.name[-2:]: count_choices(path, HELD_OUT, spec) for path in run.checkpoints.iterdir()
    }
    assert found == {"10": 0, "20": 0, "30": 4, "40": 0}
    run = make_run(spec, tmp_path / "every-other", every=20)
    found = {
        path.name[-2:]: count_choices(path, HELD_OUT, spec) for path in run.checkpoints.iterdir()
    }
    assert found == {"20": 2, "40": 0}


def test_a_run_and_its_last_checkpoint_are_not_chosen(spec: Spec, tmp_path: Path) -> None:
    run = make_run(spec, tmp_path / "run", every=40)
    assert count_choices(run.checkpoints / "step-000040", HELD_OUT, spec) == 0
    run = make_run(spec, tmp_path / "other", every=10)
    assert count_choices(run.path, HELD_OUT, spec) == 0
    assert count_choices(tmp_path, HELD_OUT, spec) == 0


def test_on_other_problems_a_checkpoint_is_not_chosen(spec: Spec, tmp_path: Path) -> None:
    run = make_run(spec, tmp_path / "run", every=10)
    best = run.checkpoints / "step-000030"
    assert count_choices(best, HELD_OUT, spec) == 4
    assert count_choices(best, HELD_OUT[1:], spec) == 0
    (tmp_path / "link").symlink_to(best)
    assert count_choices(tmp_path / "link", HELD_OUT, spec) == 4
    older = make_run(spec, tmp_path / "older", every=10, problems="of another version")
    assert count_choices(older.checkpoints / "step-000030", HELD_OUT, spec) == 0
    older.spec.write_text("unknown = 1\n[checkpoint]\nevery = 10\n")
    assert count_choices(older.checkpoints / "step-000030", HELD_OUT, spec) == 0


def test_a_model_exported_from_the_best_checkpoint_says_so(spec: Spec, tmp_path: Path) -> None:
    run = make_run(spec, tmp_path / "run", every=10)
    model = tmp_path / "model"
    model.mkdir()
    choice.write_note(run.checkpoints / "step-000020", model)
    assert not any(model.iterdir()), "only a chosen one has a note"
    choice.write_note(run.checkpoints / "step-000030", model)
    assert count_choices(model, HELD_OUT, spec) == 4
    assert count_choices(model, HELD_OUT[1:], spec) == 0
    (model / choice.NOTE).write_text("[]")
    assert count_choices(model, HELD_OUT, spec) == 0
