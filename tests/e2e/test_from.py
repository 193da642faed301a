"""`drpo train --from`: a run that begins with the weights of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from drpo_cli.runs.checkpoints import latest
from drpo_cli.runs.folder import RunFolder
from support.command import drpo, drpo_here, records

pytestmark = pytest.mark.engine


def test_a_run_begins_with_the_weights_of_another(small: Path) -> None:
    first, second = (RunFolder(small.parent / "runs" / name) for name in ("small", "second"))
    every = ("--set", "eval.every=1", "--set", "checkpoint.every=1")
    assert drpo("train", small, *every).returncode == 0
    scores = [record["held_out"] for record in records(first.metrics)]

    new = ("--set", "run.name=second", "--set", "run.steps=1")
    refused = drpo_here("train", small, *new, "--from", f"{first.path}@7")
    assert refused.returncode == 2 and "a step that was saved (1, 2)" in refused.stderr
    refused = drpo_here("train", small, *new, "--from", small.parent / "model")
    assert refused.returncode == 2 and "nor a run folder with one" in refused.stderr
    assert not second.path.exists(), "nothing is left of a run that cannot begin"

    done = drpo("train", small, *new, "--from", f"{first.path}@1")
    assert done.returncode == 0, done.stdout + done.stderr
    # the same problems and the same seed: the score is that of the weights after the step
    assert records(second.metrics)[0]["held_out"] == scores[1]
    assert json.loads(second.versions.read_text())["from"] == f"{first.path}, step 1"
    assert f"begins with the weights of {first.path}, step 1" in second.events.read_text()

    shutil.rmtree(first.path)  # the new run does not need it
    more = ("--set", "run.name=second", "--set", "run.steps=2", "--resume")
    refused = drpo_here("train", small, "--set", "run.name=second", "--from", first.path)
    assert refused.returncode == 2 and "holds a run that is not finished" in refused.stderr
    for other in (small.parent, f"{first.path}@2"):
        refused = drpo_here("train", small, *more, "--from", other)
        assert (
            refused.returncode == 2 and f"began with the weights of {first.path}" in refused.stderr
        )
    done = drpo("train", small, *more, "--from", f"{first.path}@1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [record["step"] for record in records(second.metrics)] == [0, 1, 2]
    assert f'path = "{second.path}/start"' in second.spec.read_text()
    assert drpo("eval", second.path, "--samples", 1).returncode == 0


def test_a_run_takes_over_moments_and_place_in_the_data(small: Path, tmp_path: Path) -> None:
    runs = {name: RunFolder(small.parent / "runs" / name) for name in ("small", "branch", "bare")}
    longer = ("--set", "run.steps=3", "--set", "checkpoint.every=2")
    assert drpo("train", small, *longer).returncode == 0
    origin = f"{runs['small'].path}@2"
    for name, keep in (("branch", ("--keep", "data,optimizer")), ("bare", ())):
        new = ("--set", f"run.name={name}", "--set", "run.steps=1")
        done = drpo("train", small, *new, "--from", origin, *keep)
        assert done.returncode == 0, done.stdout + done.stderr
    prompts = {name: prompts_of(run) for name, run in runs.items()}
    assert prompts["branch"][1] == prompts["small"][3]
    assert prompts["bare"][1] == prompts["small"][1] != prompts["small"][3]
    # two updates per step: AdamW's own count of them goes into its moments' correction
    found = {name: updates_of(run, tmp_path / f"{name}.pt") for name, run in runs.items()}
    assert found == {"small": {6.0}, "branch": {4.0 + 2.0}, "bare": {2.0}}
    text = f"begins with the weights, optimizer and place in the data of {runs['small'].path}"
    assert f"{text}, step 2; new: steps" in runs["branch"].events.read_text()
    assert json.loads(runs["branch"].versions.read_text())["kept"] == ["optimizer", "data"]
    rates = [records(run.metrics)[-1]["learning_rate"] for run in runs.values()]
    assert len(set(rates)) == 1  # a constant one: the schedule is the new run's own

    shutil.rmtree(runs["small"].path)
    more = ("--set", "run.name=branch", "--set", "run.steps=2", "--resume")
    refused = drpo_here("train", small, *more, "--from", origin)
    assert refused.returncode == 2 and "kept optimizer, data" in refused.stderr
    done = drpo("train", small, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert updates_of(runs["branch"], tmp_path / "more.pt") == {8.0}


def prompts_of(run: RunFolder) -> dict[int, set[str]]:
    """The ids of each step's prompts."""
    found: dict[int, set[str]] = {}
    for line in records(run.samples):
        found.setdefault(line["step"], set()).add(line["prompt_id"])
    return found


def updates_of(run: RunFolder, scratch: Path) -> set[float]:
    """How many updates the moments in the newest checkpoint have seen."""
    dcp_to_torch_save(latest(run.path) / "state", scratch)
    states = torch.load(scratch)["optimizer"]["state"].values()
    return {float(state["step"]) for state in states}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--keep", "data"), "--keep: has no effect without --from"),
        (("--keep", "moments", "--from", "runs/a"), "--keep moments: is not kept"),
    ],
)
def test_what_cannot_be_kept_is_refused(small: Path, words: tuple[str, ...], said: str) -> None:
    done = drpo_here("train", small, *words)
    assert done.returncode == 2 and said in done.stderr


def test_moments_of_other_weights_are_not_kept(small: Path) -> None:
    assert drpo("train", small).returncode == 0
    run = small.parent / "runs" / "small"
    new = ("--set", "run.name=new", "--from", run, "--keep", "optimizer")
    for table, said in (
        ("lora={rank=2}", "adapters are merged into the weights"),
        ("sft={updates=1}", "[sft] trains the weights before the first step"),
    ):
        done = drpo_here("train", small, *new, "--set", table)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    done = drpo("train", small, "--set", "run.name=new", "--set", "data[0].digits=2", "--from", run,
                "--keep", "data")  # fmt: skip
    assert done.returncode == 2 and "--keep data: the checkpoint was made with" in done.stderr


def test_only_a_new_run_begins_elsewhere(small: Path) -> None:
    assert drpo("train", small).returncode == 0
    run = small.parent / "runs" / "small"
    done = drpo_here("train", small, "--resume", "--set", "run.steps=3", "--from", run)
    assert done.returncode == 2 and "began without it, and has weights of its own" in done.stderr
