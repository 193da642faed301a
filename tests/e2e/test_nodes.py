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

from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs.events import state
from drpo_cli.runs.folder import RunFolder
from support import namespaces
from support.command import records, reproducible
from support.models import tiny_model
from support.namespaces import Machine, wait

SPEC = """
[run]
name = "run"
steps = 3
[model]
path = "model"
dtype = "float32"
[[data]]
type = "arithmetic"
digits = 1
[rollout]
engine = "transformers"
prompts_per_step = 4
samples_per_prompt = 4
max_new_tokens = 6
context_length = 32
[[reward]]
type = "./rewards.py:variety"
timeout_s = 200
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
REWARD = """
import os, time
from pathlib import Path

HELD = Path(os.environ.get("HELD", "/none"))

def waits():
    steps = HELD / "metrics.jsonl"
    return (HELD / "hold").exists() and steps.exists() and '"step": 1' in steps.read_text()

def variety(completion):
    while waits():
        time.sleep(0.02)
    return len(set(completion)) / 10
"""


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
    if why_not := namespaces.refusal():
        pytest.skip(why_not)
    with namespaces.two_machines() as made:
        yield made


@pytest.fixture(scope="module")
def both(machines: tuple[Machine, Machine], spec: Path) -> list[namespaces.Ended]:
    """How the run ends on each of two machines."""
    return wait(start(machines, spec, *named("both"), port=29501))


def named(name: str) -> tuple[str, str]:
    return "--set", f'run.name="{name}"'


def folder_of(spec: Path, name: str) -> RunFolder:
    return RunFolder(spec.parent / "runs" / name)


def start(
    machines: tuple[Machine, Machine], spec: Path, *arguments: object, port: int, **more: Any
) -> list[subprocess.Popen[str]]:
    """Starts node 0 and node 1 of a run."""
    where = ("--rendezvous", f"{machines[0].address}:{port}", "--join-timeout", 120)
    return [
        machine.start(
            *("train", spec, "--nodes", 2, "--node-rank", rank, *where),
            *arguments,
            *more.get(f"of_{rank}", ()),
            hidden=more.get("hidden") if rank else None,
        )
        for rank, machine in enumerate(machines)
    ]


def hold(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has a run wait in its second step while the file that it returns exists."""
    run.path.mkdir(parents=True)
    monkeypatch.setenv("HELD", str(run.path))
    file = run.path / "hold"
    file.touch()
    return file


def await_step(run: RunFolder, process: subprocess.Popen[str]) -> None:
    """Waits until the run has saved its first step."""
    until = time.monotonic() + namespaces.PATIENCE_S
    while not saved.complete(run.checkpoints):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)


def test_two_machines_train_and_the_first_shows_it(
    both: list[namespaces.Ended], spec: Path
) -> None:
    (zero, shown, said), (one, beside, said_beside) = both
    assert (zero, one) == (0, 0), said + said_beside
    run = folder_of(spec, "both")
    steps = reproducible(run.metrics)
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    assert any(line["grad_norm"] > 0 for line in steps[1:])
    assert "starting 2 processes on 2 nodes" in shown and "step 3/3" in shown
    assert f"node 1 of 2, 10.77.0.2: {run.path}\n" in beside
    assert beside.endswith("node 1 of 2: finished\n") and "step" not in beside
    assert not run.in_use()


def test_a_lost_node_is_named_and_the_run_continues_without_it(
    machines: tuple[Machine, Machine],
    spec: Path,
    both: list[namespaces.Ended],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = folder_of(spec, "lost")
    held = hold(run, monkeypatch)
    nodes = start(machines, spec, *named("lost"), port=29502)
    await_step(run, nodes[0])
    machines[1].kill()
    held.unlink()
    (zero, _, said), (one, _, _) = wait(nodes)
    assert (zero, one) == (1, -9)
    assert "node 1 (10.77.0.2) is lost, with rank 1: its launcher was killed" in said
    options = ("--nodes", 1, "--nproc", 2, "--resume")
    ((code, _, said),) = wait([machines[0].start("train", spec, *named("lost"), *options)])
    assert code == 0, said
    assert reproducible(run.metrics) == reproducible(folder_of(spec, "both").metrics)


def test_nodes_that_disagree_are_told_in_one_message(
    machines: tuple[Machine, Machine], spec: Path
) -> None:
    other = ("--set", "run.seed=7")
    ended = wait(start(machines, spec, *named("other"), port=29503, of_1=other))
    for code, _, err in ended:
        assert code == 2 and err.count("error:") == 1 == err.count("\n")
        assert "differ: run.seed is 7, there 0; start all nodes with the same spec" in err
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
    where = ("--nodes", 2, "--rendezvous", "10.77.0.1:29507", "--join-timeout", 2)
    ((code, _, err),) = wait([machines[1].start("train", spec, *where, "--node-rank", 1)])
    assert code == 2 and err.count("\n") == 1
    assert "nobody answers at 10.77.0.1:29507 within 2 s (Connection refused)" in err


DOCTOR = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from drpo_cli.launch.place import read_place
from drpo_cli.tools.doctor.across import check_nodes
place = read_place(2, int(sys.argv[1]), sys.argv[2], 120)
print(json.dumps([asdict(found) for found in check_nodes(place, Path(sys.argv[3]))]))
"""


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


def start_job(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Starts a part of a job that another launcher owns."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Starts two tasks with the launcher of torch."""
    local = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--local-addr")
    options = ["--nproc-per-node", "2", *local, "localhost", "-m", *map(str, arguments)]
    return start_job(["torch.distributed.run", *options])


def srun(*arguments: object) -> list[subprocess.Popen[str]]:
    """Starts two tasks as SLURM does."""
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "MASTER_PORT": "29510"}
    return [
        start_job(list(map(str, arguments)), SLURM_PROCID=rank, SLURM_LOCALID=rank, **job)
        for rank in ("0", "1")
    ]


def test_a_job_of_torchrun_trains_and_saves_and_one_of_slurm_continues(
    spec: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder_of(spec, "task")
    held = hold(run, monkeypatch)
    job = torchrun("drpo_cli", "train", spec, "--external", *named("task"))
    await_step(run, job)
    assert run.in_use()
    job.terminate()
    while "SIGTERM: finishing the current step" not in run.events.read_text():
        assert job.poll() is None
        time.sleep(0.02)
    held.unlink()
    ((code, _, said),) = wait([job])
    assert code != 0 and f"run folder: {run.path}; show it with `drpo watch" in said
    assert state(run) == "stopped" and not run.in_use()
    assert records(run.metrics)[-1]["step"] == 2
    for code, _, said in wait(srun("drpo_cli.worker", run.path)):
        assert code == 0, said
    assert state(run) == "finished"
    steps = reproducible(run.metrics)
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    if not namespaces.refusal():
        request.getfixturevalue("both")
        assert steps == reproducible(folder_of(spec, "both").metrics)


def test_the_tasks_of_a_job_are_refused_together(spec: Path) -> None:
    tasks = srun("drpo_cli", "train", spec, "--external", *ODD, *named("odd"))
    (zero, _, said), (one, _, heard) = wait(tasks)
    assert (zero, one) == (2, 2) and "Traceback" not in said + heard
    assert "which 2 processes cannot share evenly" in said
    assert heard.startswith("error: rank 0 could not prepare the run: ")
    assert not folder_of(spec, "odd").exists()
