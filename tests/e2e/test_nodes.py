"""`drpo train` on two machines: the run is that of one machine, and survives the loss of a node."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.runs.folder import RunFolder
from support import namespaces
from support.command import drpo, records, reproducible
from support.models import tiny_model
from support.namespaces import Machine, wait

WHY_NOT = namespaces.refusal()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

SPEC = """
[run]
name = "run"
steps = 3
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 6
context_length = 32
[[reward]]
type = "./rewards.py:variety"
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
problems = 4
samples_per_prompt = 2
[checkpoint]
every = 1
"""
ODD = ("--set", "rollout.prompts_per_step=3")
REWARD = "def variety(completion):\n    return len(set(completion)) / 10\n"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps on a random model."""
    folder = tmp_path_factory.mktemp("nodes")
    tiny_model(folder / "model")
    (folder / "rewards.py").write_text(REWARD)
    (folder / "run.toml").write_text(SPEC)
    return folder / "run.toml"


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines."""
    with namespaces.two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def expected(spec: Path) -> list[dict[str, Any]]:
    """The metrics of the run on one machine with two processes."""
    done = drpo("train", spec, "--nproc", 2, *named("whole"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return reproducible(folder_of(spec, "whole").metrics)


def named(name: str) -> tuple[str, str]:
    return "--set", f'run.name="{name}"'


def folder_of(spec: Path, name: str) -> RunFolder:
    return RunFolder(spec.parent / "runs" / name)


def start(
    machines: tuple[Machine, Machine], spec: Path, *arguments: object, port: int, **more: Any
) -> list[subprocess.Popen[str]]:
    """Starts node 0 and node 1 of a run."""
    where = f"{machines[0].address}:{port}"
    return [
        machine.start(
            *("train", spec, "--nodes", 2, "--node-rank", rank, "--rendezvous", where),
            *arguments,
            *more.get(f"of_{rank}", ()),
            hidden=more.get("hidden") if rank else None,
        )
        for rank, machine in enumerate(machines)
    ]


def test_two_machines_train_as_one_does(
    machines: tuple[Machine, Machine], spec: Path, expected: list[dict[str, Any]]
) -> None:
    (zero, shown, said), (one, beside, said_beside) = wait(
        start(machines, spec, *named("both"), port=29501)
    )
    assert (zero, one) == (0, 0), said + said_beside
    run = folder_of(spec, "both")
    assert reproducible(run.metrics) == expected
    assert any(line["grad_norm"] > 0 for line in expected[1:])
    assert "starting 2 processes on 2 nodes" in shown and "step 3/3" in shown
    assert f"node 1 of 2, 10.77.0.2: {run.path}\n" in beside
    assert beside.endswith("node 1 of 2: finished\n") and "step" not in beside
    assert not run.in_use()


def test_a_lost_node_is_named_and_the_run_continues_without_it(
    machines: tuple[Machine, Machine], spec: Path, expected: list[dict[str, Any]]
) -> None:
    run = folder_of(spec, "lost")
    nodes = start(machines, spec, *named("lost"), port=29502)
    until = time.monotonic() + namespaces.PATIENCE_S
    while not any(record["step"] >= 1 for record in records(run.metrics)):
        assert time.monotonic() < until and nodes[0].poll() is None
        time.sleep(0.02)
    machines[1].kill()
    (zero, _, said), (one, _, _) = wait(nodes)
    assert (zero, one) == (1, -9)
    assert "node 1 (10.77.0.2) is lost" in said
    alone = machines[0].start("train", spec, *named("lost"), "--nproc", 2, "--resume")
    ((code, _, said),) = wait([alone])
    assert code == 0, said
    assert reproducible(run.metrics) == expected


@pytest.mark.parametrize(
    ("options", "port", "said"),
    [
        (
            {"of_1": ("--set", "run.seed=7")},
            29503,
            "differ: run.seed is 7, there 0; start all nodes with the same spec",
        ),
        (
            {"of_1": ("--nproc", 2)},
            29504,
            "runs 2 processes, node 0",
        ),
        (
            {"of_0": ODD, "of_1": ODD},
            29505,
            "rollout.prompts_per_step: is 3, which 2 processes cannot share evenly",
        ),
    ],
)
def test_nodes_that_disagree_are_told_in_one_message(
    machines: tuple[Machine, Machine], spec: Path, options: Any, port: int, said: str
) -> None:
    ended = wait(start(machines, spec, *named("other"), port=port, **options))
    for code, _, err in ended:
        assert code == 2 and said in err and err.count(said) == 1 and "Traceback" not in err
    assert not folder_of(spec, "other").exists()


def test_a_run_folder_that_is_not_shared_is_refused(
    machines: tuple[Machine, Machine], spec: Path
) -> None:
    (spec.parent / "runs").mkdir(exist_ok=True)
    ended = wait(start(machines, spec, *named("apart"), port=29506, hidden=spec.parent / "runs"))
    for code, _, err in ended:
        assert code == 2 and err.count("error:") == 1
        assert "node 1 (" in err and "does not see" in err and "set run.folder to a folder" in err


def test_a_rendezvous_that_nobody_answers_ends_in_time(
    machines: tuple[Machine, Machine], spec: Path
) -> None:
    where = ("--nodes", 2, "--rendezvous", "10.77.0.1:29507", "--join-timeout", 3)
    lone = [
        machine.start("train", spec, *where, "--node-rank", rank)
        for machine, rank in zip(machines, (1, 0), strict=True)
    ]
    (one, _, unanswered), (zero, _, elsewhere) = wait(lone)
    assert (one, zero) == (2, 2)
    assert "nobody answers at 10.77.0.1:29507 within 3 s (Connection refused)" in unanswered
    assert "node 0 of 2: 10.77.0.1 is not an address of this machine" in elsewhere
    ((code, _, err),) = wait([machines[0].start("train", spec, *where, "--node-rank", 0)])
    assert code == 2 and "node 1 of 2 did not come to 10.77.0.1:29507 within 3 s" in err
