"""Every cell is checked before anything runs, and belongs to one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plan import make_plan
from drpo_cli.spec import Spec, dump, load
from drpo_cli.tools.compare import jobs
from drpo_cli.tools.compare.grid import make_cells, parse_axes
from support.specs import BUILT_IN, write


def specs(folder: Path, *vary: str, set_: tuple[str, ...] = (), world: int = 1) -> list[Spec]:
    (folder / "rows.jsonl").write_text('{"question": "1+1", "target": "2"}\n')
    path = write(folder, BUILT_IN)
    cells = make_cells(parse_axes(vary), load(path, set_))
    return jobs.load_specs(path, set_, cells, world)


def refused(folder: Path, *vary: str, set_: tuple[str, ...] = (), world: int = 1) -> str:
    with pytest.raises(UserError) as caught:
        specs(folder, *vary, set_=set_, world=world)
    return str(caught.value)


def test_each_cell_gets_its_spec(tmp_path: Path) -> None:
    found = specs(tmp_path, "objective=drpo:delta=0.3,spo", "run.steps=5,6", set_=("model.path=m",))
    assert [(s.objective.type, s.run.steps, s.model.path) for s in found] == [
        ("drpo", 5, "m"),
        ("drpo", 6, "m"),
        ("spo", 5, "m"),
        ("spo", 6, "m"),
    ]
    assert found[0].objective.config.model_dump()["delta"] == 0.3


def test_all_problems_are_reported_at_once_each_under_its_cell(tmp_path: Path) -> None:
    lines = refused(
        tmp_path, "objective=drpo:delta=-1,drop", "train.learning_rate=1e-3,-1"
    ).splitlines()
    assert len([line for line in lines if line.startswith("drop, learning_rate=0.001: ")]) == 1
    assert any("drpo:delta=-1, learning_rate=-1: --set train.learning_rate" in x for x in lines)
    assert len(lines) == 6


def test_a_problem_of_every_cell_is_reported_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "objective=drpo,spo", set_=("train.betas=3",))
    assert message.startswith("--set train.betas=3")
    assert len(message.splitlines()) == 1


def test_the_arithmetic_of_every_cell_is_checked(tmp_path: Path) -> None:
    message = refused(
        tmp_path, "rollout.prompts_per_step=8,9", set_=("train.updates_per_rollout=1",), world=2
    )
    assert message.startswith("prompts_per_step=9: ") and "2 processes cannot share" in message


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("eval.problems=10,20", "eval.problems (10 and 20)"),
        ("eval.every=5,10", "eval.every"),
        ("reward[0].weight=1,2", "reward"),
        ("data[0].digits=2,3", "differ in what they are evaluated on: data;"),
        ("data[0].digits=2,3", "[[eval.data]]"),
        ("rollout.temperature=0.7,1.0", "set eval.temperature, which otherwise follow"),
        ("rollout.max_new_tokens=8,16", "set eval.max_new_tokens"),
        ('rollout.stop=["a"],["b"]', "rollout.stop"),
    ],
)
def test_runs_that_are_evaluated_differently_are_refused(
    tmp_path: Path, vary: str, said: str
) -> None:
    message = refused(tmp_path, vary)
    assert said in message
    assert "a comparison of runs on different evaluation sets" in message


@pytest.mark.parametrize(
    "vary",
    [
        "rollout.samples_per_prompt=4,8",
        "model.path=one,two",
        "run.steps=5,10",
        "advantage=group_mean,rloo",
    ],
)
def test_what_changes_only_training_may_vary(tmp_path: Path, vary: str) -> None:
    assert len(specs(tmp_path, vary)) == 2


def test_training_may_vary_once_evaluation_is_pinned(tmp_path: Path) -> None:
    pinned = ("eval.temperature=1.0", "eval.max_new_tokens=8")
    vary = ("rollout.temperature=0.7,1.0", "rollout.max_new_tokens=8,16")
    assert len(specs(tmp_path, *vary, set_=pinned)) == 4
    skips = (*pinned, 'data[1].too_long="skip"')
    assert "room for the prompt" in refused(tmp_path, vary[1], set_=skips)


def test_jobs_go_seed_by_seed_into_folders_of_their_own(tmp_path: Path) -> None:
    chosen = make_cells(parse_axes(["objective=drpo,spo"]))
    found = jobs.make_jobs(chosen, specs(tmp_path, "objective=drpo,spo"), (3, 4), tmp_path / "out")
    assert [(job.cell.label, job.seed) for job in found] == [
        ("drpo", 3),
        ("spo", 3),
        ("drpo", 4),
        ("spo", 4),
    ]
    assert found[0].spec.run.seed == 3
    assert found[0].folder.path == tmp_path / "out" / "drpo-seed3"
    assert found[0].spec.run.folder / found[0].spec.run.name == found[0].folder.path


def test_a_folder_of_the_same_spec_is_continued_and_of_another_refused(tmp_path: Path) -> None:
    chosen = make_cells(parse_axes(["objective=drpo,spo"]))
    (job, *_) = jobs.make_jobs(
        chosen, specs(tmp_path, "objective=drpo,spo"), (0,), tmp_path / "out"
    )
    job.folder.path.mkdir(parents=True)
    job.folder.spec.write_text(dump(job.spec))
    again = specs(tmp_path, "objective=drpo,spo")
    assert len(jobs.make_jobs(chosen, again, (0, 1), tmp_path / "out")) == 4
    changed = specs(tmp_path, "objective=drpo,spo", set_=("train.warmup_updates=3",))
    with pytest.raises(UserError) as caught:
        jobs.make_jobs(chosen, changed, (0,), tmp_path / "out")
    message = str(caught.value)
    assert "train.warmup_updates is 0 there, 3 here" in message
    assert "give --out another folder" in message
    job.folder.spec.write_text("[run]\n")
    with pytest.raises(UserError, match=r"its spec\.toml does not load"):
        jobs.make_jobs(chosen, again, (0,), tmp_path / "out")


ONE_UPDATE = ("train.updates_per_rollout=1", "run.steps=32", "eval.every=8")


def test_a_lag_keeps_minibatch_samples_updates_and_evaluations(tmp_path: Path) -> None:
    keys = ("checkpoint.every=6", "rollout.prompts_per_step=2", "train.schedule=linear")
    found = specs(tmp_path, "lag=1,4,8", "objective=drpo,spo", set_=(*ONE_UPDATE, *keys))
    plans = [make_plan(spec, 1) for spec in found]
    assert [spec.train.updates_per_rollout for spec in found] == [1, 1, 4, 4, 8, 8]
    assert [spec.run.steps for spec in found] == [32, 32, 8, 8, 4, 4]
    assert {plan.sequences_per_update for plan in plans} == {2 * 8}
    assert {plan.total_updates for plan in plans} == {32}
    assert {
        spec.run.steps * plan.sequences_per_step for spec, plan in zip(found, plans, strict=True)
    } == {512}
    assert {spec.eval.every * spec.train.updates_per_rollout for spec in found} == {8}
    assert {spec.train.minibatches for spec in found} == {"groups"}
    assert [spec.checkpoint.every for spec in found] == [6, 6, 1, 1, 1, 1]


def test_a_lag_divides_the_warm_up_of_a_critic(tmp_path: Path) -> None:
    keys = ("critic.warmup_steps=8", "advantage.type=gae", *ONE_UPDATE)
    found = specs(tmp_path, "lag=1,4", set_=(*keys, "advantage={type='gae'}"))
    assert [spec.critic.warmup_steps for spec in found if spec.critic] == [8, 2]


@pytest.mark.parametrize(
    ("vary", "set_", "said"),
    [
        ("lag=1,4", (), "train.updates_per_rollout is 4 in the base spec, and must be 1"),
        ("lag=3", ("eval.every=9",), "lag=3: run.steps is 32, which does not divide by 3"),
        ("lag=16", (), "eval.every is 8, which does not divide by 16; make it a multiple of every"),
        ("lag=0", (), "lag=0: is not a number of updates; write lag=1,4,16"),
        ("lag=4x", (), "lag=4x: is not a number"),
        ("lag=4,04", (), "names 4 twice"),
    ],
)
def test_a_lag_that_cannot_be_is_refused(
    tmp_path: Path, vary: str, set_: tuple[str, ...], said: str
) -> None:
    base = ONE_UPDATE[1:] if "updates_per_rollout" in said else ONE_UPDATE
    assert said in refused(tmp_path, vary, set_=(*base, *set_))


@pytest.mark.parametrize(
    "other",
    [
        "train.updates_per_rollout=1,2",
        "rollout.prompts_per_step=2,4",
        "run.steps=16,32",
        "objective=drpo,rloo",
    ],
)
def test_what_a_lag_sets_may_not_vary_as_well(tmp_path: Path, other: str) -> None:
    with pytest.raises(UserError, match=r"--vary .*: sets .*, and so does --vary .*; vary one"):
        specs(tmp_path, "lag=1,4", other, set_=ONE_UPDATE)
