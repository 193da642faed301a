"""Where one of several launchers stands, and where all of them meet; loads no torch.

A *node* is a machine with a launcher of its own. The ranks of a job that another launcher has
started (torchrun, SLURM, Kubernetes) meet in the same way.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from drpo_cli.errors import UserError

JOIN_S = 45.0  # with the imports before it, a rendezvous that nobody answers ends within a minute
TASKS_JOIN_S = 300.0  # tasks of a job import torch from one disk, and end with their job
PREPARED = "DRPO_PREPARED"  # set where the ranks of a job have prepared the run
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class Place:
    """One of `size` nodes or ranks, and the address where all meet.

    joins_s   how long each waits for the others, in seconds
    hosts     whether this one keeps the store there: the first does, unless there is one already
    attempt   tells the meetings at one store apart
    """

    noun: Literal["node", "rank"]
    rank: int
    size: int
    host: str
    port: int
    join_s: float = JOIN_S
    hosts: bool = False
    attempt: str = "0"

    @property
    def address(self) -> str:
        """The address of the rendezvous, as it is written on a command line."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.noun} {self.rank} of {self.size}"


def read_place(
    nodes: int | None, node_rank: int | None, rendezvous: str | None, join_s: float | None
) -> Place | None:
    """The place that the options of a command name; None for one machine.

    Raises UserError when one is missing or does not fit.
    """
    given = {
        "--nodes": nodes,
        "--node-rank": node_rank,
        "--rendezvous": rendezvous,
        "--join-timeout": join_s,
    }
    missing = [name for name in list(given)[:3] if given[name] is None]
    if (len(missing) == 3 and join_s is None) or (nodes == 1 and len(missing) == 2):
        return None
    if missing:
        have = next(name for name, value in given.items() if value is not None)
        raise UserError(
            f"{have} needs {' and '.join(missing)} too",
            "on every node give --nodes N --node-rank K --rendezvous HOST:PORT: K counts from 0, "
            "and HOST is an address of node 0",
        )
    assert nodes is not None and node_rank is not None and rendezvous is not None
    if node_rank >= nodes:
        raise UserError(
            f"--node-rank {node_rank}: with --nodes {nodes} it is 0 to {nodes - 1}",
            "number the nodes from 0",
        )
    host, port = _split(rendezvous)
    return Place("node", node_rank, nodes, host, port, join_s or JOIN_S, hosts=node_rank == 0)


def _split(rendezvous: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):(\d+)", rendezvous)
    if found is None or not 0 < int(found[3]) < 2**16:
        raise UserError(
            f"--rendezvous {rendezvous}: it has the form HOST:PORT",
            "name an address of node 0 and a free port there, such as 10.0.0.1:29500",
        )
    return found[1] or found[2], int(found[3])


def own_address(place: Place) -> str:
    """The address of this machine on the network that leads to the rendezvous.

    Raises UserError when the host of the rendezvous is unknown, or no network leads there.
    """
    reason = ""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        found, reason = [], str(error.strerror or error)
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # sends nothing: the system only chooses a route
                return str(probe.getsockname()[0])
        except OSError as error:
            reason = str(error.strerror or error)
    raise UserError(
        f"{place}: the rendezvous host {place.host} cannot be reached: {reason}",
        "give the address by which this machine reaches node 0",
    )


def is_own(place: Place) -> bool:
    """Whether the host of the rendezvous is this machine; a name that is unknown is not."""
    try:
        found = socket.getaddrinfo(place.host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return False


def network(address: str) -> dict[str, str]:
    """The variables that keep gloo and NCCL to the network of this address.

    Without them, gloo takes the address of the machine's own name, often 127.0.1.1, and NCCL the
    first interface it finds. What the user has set is not overwritten.
    """
    import psutil

    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if address in {each.address.partition("%")[0] for each in addresses}
    ]
    return {key: names[0] for key in INTERFACES if names and key not in os.environ}


def read_task(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK and the meeting point of a task of a launcher that is not ours.

    Those that torchrun sets are kept; those of SLURM are translated. Raises UserError when this
    process is not a task of a job.
    """
    if "RANK" not in environment and "SLURM_PROCID" in environment:
        return _of_slurm(environment)
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not environment.get(name)]:
        raise UserError(
            f"this process is not a task of a job: {', '.join(missing)} not set",
            "start it with torchrun or srun, once per device: "
            "`torchrun --nproc-per-node 8 -m drpo_cli train RUN.toml --external`",
        )
    return {name: environment[name] for name in needed} | {
        "LOCAL_RANK": environment.get("LOCAL_RANK", "0")
    }


def choose_device(task: dict[str, str], devices: int) -> dict[str, str]:
    """The task with the index of its own GPU as LOCAL_RANK.

    SLURM may let each task see its own GPU only, which then is the first of one.
    """
    return task | {"LOCAL_RANK": str(int(task["LOCAL_RANK"]) % devices)}


def _of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = environment.get("SLURM_JOB_ID", "0")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes) or "localhost",
        "MASTER_PORT": environment.get("MASTER_PORT") or str(20_000 + int(job) % 20_000),
    }


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: `gpu[003-007,9],login` begins with `gpu003`."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None  # it matches an empty text
    return "".join(part or "" for part in found.groups())


def place_of_task(
    task: Mapping[str, str], environment: Mapping[str, str], join_s: float = TASKS_JOIN_S
) -> Place:
    """The place of a task among all tasks of its job."""
    kept = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun keeps a store there
    return Place(
        "rank",
        int(task["RANK"]),
        int(task["WORLD_SIZE"]),
        task["MASTER_ADDR"],
        int(task["MASTER_PORT"]),
        join_s,
        hosts=task["RANK"] == "0" and not kept,
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
    )
