"""Several launchers: their places, what they agree on, and the store at which they meet."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from drpo_cli.errors import UserError
from drpo_cli.launch import meeting, nodes, place
from drpo_cli.launch.meeting import Meeting, meet
from drpo_cli.launch.place import Place, read_place
from drpo_cli.runs.folder import RunFolder
from drpo_cli.tools import init as scaffold
from support.command import drpo
from support.models import free_port
from support.specs import SMALLEST

TEMPLATES = Path(__file__).parents[2] / "templates"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((2, None, "h:1", None), "--nodes needs --node-rank too"),
        ((None, 0, None, None), "--node-rank needs --nodes and --rendezvous too"),
        ((None, None, "h:1", None), "--rendezvous needs --nodes and --node-rank too"),
        ((None, None, None, 9.0), "--join-timeout needs --nodes and --node-rank and --rendezvous"),
        ((2, 2, "h:1", None), "--node-rank 2: with --nodes 2 it is 0 to 1"),
        ((2, 0, "host", None), "--rendezvous host: it has the form HOST:PORT"),
        ((2, 0, "host:99999", None), "it has the form HOST:PORT"),
        ((2, 0, "a b:29500", None), "it has the form HOST:PORT"),
    ],
)
def test_options_that_do_not_name_a_place(given: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_place(*given)
    assert said in caught.value.what and caught.value.fix


def test_a_place_and_none() -> None:
    assert read_place(None, None, None, None) is read_place(1, None, None, None) is None
    found = read_place(3, 1, "[fe80::1]:29500", 90)
    assert found == Place("node", 1, 3, "fe80::1", 29500, 90)
    assert found is not None and found.address == "[fe80::1]:29500" and str(found) == "node 1 of 3"
    first = read_place(3, 0, "h:29500", None)
    assert first is not None and first.hosts and first.join_s <= 50


def test_usage_errors_of_the_command(tmp_path: Path) -> None:
    spec = tmp_path / "run.toml"
    spec.write_text(SMALLEST)
    for options, said in (
        (("--node-rank", 0), "--node-rank needs --nodes and --rendezvous too"),
        (("--external", "--nproc", 2), "Invalid value for --external"),
    ):
        done = drpo("train", spec, *options)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("nodes_", "host"),
    [
        ("gpu[003-007,9],login", "gpu003"),
        ("gpu7,gpu9", "gpu7"),
        ("a[1,3]-ib,b", "a1-ib"),
        ("alone", "alone"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes_: str, host: str) -> None:
    assert place.first_host(nodes_) == host


def test_the_place_of_a_task() -> None:
    slurm = {
        "SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "41007",
        "SLURM_JOB_NODELIST": "gpu[3-4]",
    }  # fmt: skip
    task = place.read_task(slurm)
    assert task == {
        "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu3",
        "MASTER_PORT": "21007",
    }  # fmt: skip
    assert place.place_of_task(task, slurm) == Place("rank", 9, 16, "gpu3", 21007, 300)
    torchrun = {**task, "RANK": "0", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert place.place_of_task(place.read_task(torchrun), torchrun).hosts
    kept = {**torchrun, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    found = place.place_of_task(place.read_task(kept), kept)
    assert (found.hosts, found.attempt) == (False, "2")
    assert place.choose_device(task, 8) == task
    assert place.choose_device(task, 1) == {**task, "LOCAL_RANK": "0"}
    with pytest.raises(UserError, match="not a task of a job: RANK, WORLD_SIZE, MASTER_ADDR"):
        place.read_task({"MASTER_PORT": "1"})


def test_the_network_is_that_of_the_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in place.INTERFACES:
        monkeypatch.delenv(name, raising=False)
    here = Place("node", 1, 2, "127.0.0.1", 29500)
    assert place.own_address(here) == "127.0.0.1"
    assert place.network("127.0.0.1") == dict.fromkeys(place.INTERFACES, "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert place.network("127.0.0.1") == {"GLOO_SOCKET_IFNAME": "lo"}
    assert place.is_own(here) and not place.is_own(Place("node", 0, 2, "203.0.113.9", 1))


FACTS: dict[str, Any] = {
    "host": "a",
    "size": 2,
    "processes": 8,
    "versions": {"torch": "2.13.0"},
    "spec": {"run": {"seed": 0}, "data": [{"type": "x"}]},
}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"size": 3}, "node 1 (b) expects 3 nodes, node 0 (a) expects 2"),
        ({"processes": 4}, "node 1 (b) runs 4 processes, node 0 (a) runs 8"),
        (
            {"versions": {"torch": "2.12.1", "vllm": "0.32.0"}},
            "differ: torch is 2.12.1, there 2.13.0; vllm is 0.32.0, there not set",
        ),
        (
            {"spec": {**FACTS["spec"], "data": [{"type": "y"}]}},
            "differ: data[0].type is y, there x",
        ),
        ({"spec": {}}, "differ: run is not set, there {'seed': 0}; data is not set"),
    ],
)
def test_what_differs_is_named(other: dict[str, Any], said: str) -> None:
    facts = [FACTS, {**FACTS, "host": "b", **other}]
    with pytest.raises(UserError) as caught:
        nodes.require_agreement(facts, "node")
    assert said in caught.value.what and caught.value.fix
    nodes.require_agreement([FACTS, {**FACTS, "host": "b"}], "node")


def together(size: int, act: Callable[[Meeting], Any], join_s: float = 30.0) -> list[Any]:
    """What each of several nodes makes of a meeting, each in a thread; errors as their text."""
    port = free_port()

    def one(rank: int) -> Any:
        try:
            with meet(Place("node", rank, size, "127.0.0.1", port, join_s, rank == 0)) as met:
                return act(met)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_all_share_what_each_brings() -> None:
    brought = together(3, lambda m: m.share("facts", {"π": m.place.rank}, 30))
    assert brought == [[{"π": 0}, {"π": 1}, {"π": 2}]] * 3


def test_a_failed_preparation_is_told_to_all(tmp_path: Path) -> None:
    def prepare() -> None:
        raise UserError("the model is broken", "mend it")

    def act(met: Meeting) -> None:
        met.share("facts", {}, 30)
        nodes.prepare_together(met, RunFolder(tmp_path), prepare)

    zero, one = together(2, act)
    assert zero == "the model is broken; mend it"
    assert one == "node 0 could not prepare the run: the model is broken; mend it"


def test_a_folder_that_a_node_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "SHARED_S", 0.3)
    for rank in (0, 1):  # the same path on both, but not the same disk
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / nodes.MARK).write_text("of an earlier run")
    said = together(
        2,
        lambda m: nodes.prepare_together(m, RunFolder(tmp_path / str(m.place.rank)), lambda: None),
    )
    for rank, text in enumerate(said):
        assert f"node 1 ({socket.gethostname()}) does not see {tmp_path / str(rank)}" in text
    assert together(2, lambda m: nodes.prepare_together(m, RunFolder(tmp_path), lambda: None)) == [
        None,
        None,
    ]


def test_two_with_one_number_and_one_that_never_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "LEAVE_S", 0.0)  # one thread leaves both
    port = free_port()
    places = [Place("node", rank, 3, "127.0.0.1", port, 5, rank == 0) for rank in (0, 1, 1)]
    with meet(places[0]) as first, meet(places[1]) as second:
        with pytest.raises(UserError, match="node 1: another one with this number is at 127"):
            Meeting(places[2])
        second.forget(0)
        with pytest.raises(UserError, match=r"node 2 of 3 did not come to .* within 0\.2 s"):
            second.tell("facts/0", {})
            second.share("facts", {}, 0.2)
        first.forget(1)


def test_a_new_launcher_takes_the_place_of_one_that_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meeting, "LEAVE_S", 0.0)  # one thread leaves both
    port = free_port()
    zero, one = (Place("node", rank, 2, "127.0.0.1", port, 10, rank == 0) for rank in (0, 1))
    with ThreadPoolExecutor(2) as pool, meet(zero) as first:
        lost = Meeting(one)
        for start in (pool.submit(first.begin), pool.submit(lost.begin)):
            assert start.result()[1]["TORCHELASTIC_RESTART_COUNT"] == "1"
        again = pool.submit(first.begin)  # after a failure, and before the new one is there
        with meet(one) as new:
            assert new.begun == 1
            config, more = new.begin()
            assert again.result()[1] == more and more["TORCHELASTIC_RESTART_COUNT"] == "2"
            assert config["rdzv_configs"]["rank"] == 1 and first.addresses == ["127.0.0.1"] * 2


def test_nobody_or_somebody_else_answers() -> None:
    lone = Place("node", 1, 2, "127.0.0.1", free_port(), 0.3)
    with pytest.raises(
        UserError, match=r"nobody answers at .* within 0\.3 s \(Connection refused\)"
    ):
        Meeting(lone)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this machine is in use"):
            Meeting(Place("node", 0, 2, "127.0.0.1", port, 1, hosts=True))
    with pytest.raises(UserError, match="is not an address of this machine"):
        Meeting(Place("node", 0, 2, "203.0.113.9", 29500, 1, hosts=True))


def test_init_writes_the_files_of_jobs_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert drpo("init", folder, "--slurm").returncode == 0
    script = folder / "train.sbatch"
    assert script.read_bytes() == (TEMPLATES / "slurm.sbatch").read_bytes()
    assert drpo("init", folder, "--kubernetes").stdout == f"wrote {folder / 'job.yaml'}\n"
    again = drpo("init", folder, "--slurm", "--kubernetes")
    assert (again.returncode, again.stderr) == (
        2, f"error: {script} exists; remove it, or move it away\n"
    )  # fmt: skip
    assert set(scaffold.JOBS) == {"slurm", "kubernetes"}


def test_the_job_of_slurm_starts_one_launcher_per_node(tmp_path: Path) -> None:
    """Runs the script with commands that stand in for SLURM's, on a job of two nodes."""
    script = TEMPLATES / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    found = re.findall(r"^#SBATCH --(\S+)=(\S+)$", script.read_text(), re.M)
    options = dict(found)
    assert (options["ntasks-per-node"], options["nodes"]) == ("1", "2")
    stand_ins = {
        "scontrol": 'test "$3" = "gpu[3-4]" && printf "gpu%d\\n" {3..9999}',
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "drpo": 'echo "drpo $*"',
    }
    for name, code in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{code}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "20007", "SLURM_NNODES": "2",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"drpo train run.toml --resume --nodes 2 --node-rank {rank} --rendezvous gpu3:20007 "
        "--join-timeout 300"
        for rank in (0, 1)
    ]


def test_the_job_of_kubernetes_starts_one_launcher_per_pod() -> None:
    service, job = yaml.safe_load_all((TEMPLATES / "kubernetes.yaml").read_text())
    name = service["metadata"]["name"]
    assert (service["kind"], service["spec"]["clusterIP"]) == ("Service", "None")
    assert service["spec"]["publishNotReadyAddresses"] is True
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == (
        "batch/v1", "Job", "Indexed"
    )  # fmt: skip
    (container,) = pod["containers"]
    (command,) = container["args"]
    (count,) = [each["value"] for each in container["env"] if each["name"] == "NODES"]
    assert int(count) == spec["completions"] == spec["parallelism"]
    host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == name and f"--rendezvous {host}:29500" in command
    assert '--nodes "$NODES" --node-rank "$JOB_COMPLETION_INDEX"' in command
    assert "\n" not in command and command.startswith("exec drpo train run.toml --resume ")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert mounted["work"] == container["workingDir"] and mounted.keys() == volumes.keys()
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
    nodes_ = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert nodes_[0]["topologyKey"] == "kubernetes.io/hostname"
