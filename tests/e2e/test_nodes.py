"""`drpo train` on two machines, and in jobs of other launchers: the run is that of one machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.runs.events import state
from drpo_cli.runs.folder import RunFolder
from support import namespaces
from support.command import drpo, records, reproducible
from support.models import tiny_model
from support.namespaces import Machine, wait

WHY_NOT = namespaces.refusal()
two = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

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


def await_step(run: RunFolder, process: subprocess.Popen[str]) -> None:
    """Waits until the run has recorded a step."""
    until = time.monotonic() + namespaces.PATIENCE_S
    while not any(record["step"] >= 1 for record in records(run.metrics)):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)


@two
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


@two
def test_a_lost_node_is_named_and_the_run_continues_without_it(
    machines: tuple[Machine, Machine], spec: Path, expected: list[dict[str, Any]]
) -> None:
    run = folder_of(spec, "lost")
    nodes = start(machines, spec, *named("lost"), port=29502)
    await_step(run, nodes[0])
    machines[1].kill()
    (zero, _, said), (one, _, _) = wait(nodes)
    assert (zero, one) == (1, -9)
    assert "node 1 (10.77.0.2) is lost" in said
    alone = machines[0].start("train", spec, *named("lost"), "--nproc", 2, "--resume")
    ((code, _, said),) = wait([alone])
    assert code == 0, said
    assert reproducible(run.metrics) == expected


@two
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


@two
def test_a_run_folder_that_is_not_shared_is_refused(
    machines: tuple[Machine, Machine], spec: Path
) -> None:
    (spec.parent / "runs").mkdir(exist_ok=True)
    ended = wait(start(machines, spec, *named("apart"), port=29506, hidden=spec.parent / "runs"))
    for code, _, err in ended:
        assert code == 2 and err.count("error:") == 1
        assert "node 1 (" in err and "does not see" in err and "set run.folder to a folder" in err


@two
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


DOCTOR = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from drpo_cli.launch.place import read_place
from drpo_cli.tools.doctor.across import check_nodes
place = read_place(2, int(sys.argv[1]), sys.argv[2], 20)
print(json.dumps([asdict(found) for found in check_nodes(place, Path(sys.argv[3]))]))
"""


@two
def test_the_doctor_measures_the_way_between_nodes(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    where, hidden = "10.77.0.1:29508", [None, tmp_path]
    ended = wait(
        [
            machine.python("-c", DOCTOR, rank, where, tmp_path / "runs", hidden=hidden[rank])
            for rank, machine in enumerate(machines)
        ]
    )
    for rank, (code, out, err) in enumerate(ended):
        assert code == 0, err
        findings = {each["check"]: each for each in json.loads(out.splitlines()[-1])}
        assert findings["rendezvous"]["found"] == f"node {rank} of 2 met the others at {where}"
        assert findings["shared folder"]["status"] == "wrong"
        assert "node 1 (" in findings["shared folder"]["found"]
        assert findings["same software"]["status"] == findings["node 0"]["status"] == "ok"
        assert findings["all-reduce"]["found"].startswith("64 MiB over gloo in ")
        way = re.search(
            r"\(10.77.0.2\), \d+ cores; (\S+) ms round trip to node 0, \S+ GB/s over gloo, "
            r"clock (\S+) s",
            findings["node 1"]["found"],
        )
        assert way and float(way[1]) > 0 and abs(float(way[2])) < 1
    assert not (tmp_path / "runs").exists() and list(tmp_path.iterdir()) == []


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Starts two tasks with the launcher of torch."""
    options = ("--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", *options, "--local-addr", "localhost"),
            *("-m", *map(str, arguments)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_of_torchrun_trains_saves_and_continues(
    spec: Path, expected: list[dict[str, Any]]
) -> None:
    run = folder_of(spec, "task")
    job = torchrun("drpo_cli", "train", spec, "--external", *named("task"))
    await_step(run, job)
    assert run.in_use()
    job.terminate()
    ((code, _, said),) = wait([job])
    assert code != 0 and f"run folder: {run.path}; show it with `drpo watch" in said
    assert state(run) == "stopped" and not run.in_use()
    ((code, _, said),) = wait([torchrun("drpo_cli.worker", run.path)])
    assert code == 0, said
    assert reproducible(run.metrics) == expected
    assert state(run) == "finished"


def test_the_tasks_of_a_job_are_refused_together(spec: Path) -> None:
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "drpo_cli", "train", spec, "--external", *ODD, *named("odd")],
            env={
                **os.environ, "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2",
                "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": "29510",
            },
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    (zero, _, said), (one, _, heard) = wait(tasks)
    assert (zero, one) == (2, 2) and "Traceback" not in said + heard
    assert "which 2 processes cannot share evenly" in said
    assert heard.startswith("error: rank 0 could not prepare the run: ")
    assert not folder_of(spec, "odd").exists()
