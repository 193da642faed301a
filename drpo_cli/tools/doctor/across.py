"""Tries what several nodes need: the rendezvous, one software, a shared folder, the network.

`check_nodes` asks a process of its own (`probe.meet_nodes`), which starts one rank on every node.
Each node shows the same findings.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drpo_cli import processes
from drpo_cli.errors import UserError
from drpo_cli.launch.place import Place
from drpo_cli.tools.doctor.findings import Finding, ok, warning, wrong
from drpo_cli.tools.doctor.probe import ask

MEASURE_S = 120.0
PINGS = 20
SENT, REDUCED = 2**24, 2**26  # bytes
CLOCK_S = 1.0  # clocks that differ by more make records of several nodes hard to read
SLOW = 0.1e9  # bytes per second: with less, a weight sync of 1 B weights takes minutes


def check_nodes(place: Place, folder: Path) -> Iterator[Finding]:
    """Meets the other nodes, which run the same command, and measures the way to each.

    folder  where the runs are; it or its nearest parent that exists must be shared
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    answer = ask(
        "meet_nodes",
        json.dumps(asdict(place)),
        str(existing),
        seconds=2 * place.join_s + MEASURE_S,
    )
    said = answer.said
    if "nodes" not in said:
        what, fix = said.get("alone", (answer.reason, "see that torch imports"))
        yield wrong("rendezvous", what, fix)
        return
    yield ok("rendezvous", f"{place} met the others at {place.address}")
    differ = said.get("differ")
    yield wrong("same software", *differ) if differ else ok("same software", "on all nodes")
    apart = said.get("apart")
    yield wrong("shared folder", *apart) if apart else ok("shared folder", str(existing))
    ways: list[Mapping[str, Any]] = said.get("ways", [])
    if not ways:
        interfaces = {key: os.environ[key] for key in os.environ if key.endswith("SOCKET_IFNAME")}
        yield wrong(
            "network",
            f"ranks of the nodes do not connect: {said.get('failed', answer.reason)}",
            "open all ports between the nodes, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to "
            f"the interface of their network (they are {interfaces or 'not set'})",
        )
        return
    for rank, (node, way) in enumerate(zip(said["nodes"], ways, strict=True)):
        yield _describe(rank, node, way)
    for backend, seconds in said["all_reduce"].items():
        rate = REDUCED / seconds / 1e9
        text = f"{REDUCED >> 20} MiB over {backend} in {1000 * seconds:.0f} ms, {rate:.2f} GB/s"
        yield ok("all-reduce", text)


def _describe(rank: int, node: Mapping[str, Any], way: Mapping[str, Any]) -> Finding:
    check = f"node {rank}"
    text = f"{node['host']} ({node['address']}), {node['devices']}"
    if rank == 0:
        return ok(check, text)
    text += f"; {1000 * way['round_trip']:.2f} ms round trip to node 0"
    text += "".join(f", {rate / 1e9:.2f} GB/s over {name}" for name, rate in way["rates"].items())
    text += f", clock {way['clock']:+.3f} s"
    if abs(way["clock"]) > CLOCK_S:
        fix = "set the clocks by NTP: the times in events and logs differ; nothing depends on them"
        return warning(check, text, fix)
    if min(way["rates"].values()) < SLOW:
        return warning(check, text, "choose a faster network by the address in --rendezvous")
    return ok(check, text)


def meet_nodes(text: str, folder: str) -> None:
    """One node's part: says how far it came. Runs in a process of its own."""
    from drpo_cli import dist
    from drpo_cli.launch import nodes
    from drpo_cli.launch.launcher import launch
    from drpo_cli.launch.meeting import meet
    from drpo_cli.runs.folder import RunFolder
    from drpo_cli.tools.doctor.probe import MODULE, say

    place = Place(**json.loads(text))
    cuda = dist.device_type() == "cuda"
    count = dist.device_count()
    devices = f"{count} × {dist.device_name()}" if cuda else f"{count} cores"
    try:
        with meet(place) as meeting:
            own = nodes.describe_self(place, {}, count if cuda else None)
            own |= {"address": meeting.address, "devices": devices}
            facts = meeting.share("facts", own, place.join_s)
            say(nodes=facts)
            with _said("differ"):
                nodes.require_agreement(facts, place.noun)
            with _said("apart"):
                nodes.prepare_together(meeting, RunFolder(Path(folder)), lambda: None)
            command = processes.python(MODULE, "measure_ways")
            launch("doctor", 1, dist.environment(1), command, meeting)
    except UserError as error:
        say(alone=(error.what, error.fix), failed=str(error))
    finally:
        if place.rank == 0:
            with suppress(OSError):
                (Path(folder) / nodes.MARK).unlink()


class _said:
    """Says what a user can fix under a key, instead of raising it."""

    def __init__(self, key: str):
        self._key = key

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Says a UserError, and raises any other."""
        from drpo_cli.tools.doctor.probe import say

        if isinstance(error, UserError):
            say(**{self._key: (error.what, error.fix)})
        return isinstance(error, UserError)


def measure_ways() -> None:
    """One rank per node: the way from node 0 to each other, and an all-reduce of all."""
    import torch
    import torch.distributed as group

    from drpo_cli import dist
    from drpo_cli.tools.doctor.probe import say

    processes.die_with_parent()
    with dist.join() as world:
        kinds = {"gloo": torch.device("cpu")}
        if world.device.type == "cuda":
            kinds["nccl"] = world.device
        ways = []
        for other in range(world.size):
            way = {}
            if other and world.rank in (0, other):
                peer = other if world.rank == 0 else 0
                way = _measure_way(peer, world.rank == 0, kinds)
            ways.append(way)
        gathered = world.gather_objects(ways)
        seconds = {}
        for name, device in kinds.items():
            numbers = torch.zeros(REDUCED // 4, device=device)
            for _ in range(2):  # the first one connects
                world.barrier()
                began = time.perf_counter()
                group.all_reduce(numbers)
                _finish(device)
                seconds[name] = time.perf_counter() - began
        say(ways=gathered[0], all_reduce=seconds)


def _measure_way(peer: int, leads: bool, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Round trip, the peer's clock against ours, and bytes per second; on the one that leads."""
    import torch
    import torch.distributed as group

    clock = torch.zeros(1, dtype=torch.float64)
    trips = []
    for _ in range(PINGS):
        if leads:
            sent = time.time()
            group.send(clock, peer)
            group.recv(clock, peer)
            took = time.time() - sent
            trips.append((took, float(clock) - sent - took / 2))
        else:
            group.recv(clock, peer)
            clock.fill_(time.time())
            group.send(clock, peer)
    rates = {}
    for name, device in kinds.items():
        numbers = torch.zeros(SENT // 4, device=device)
        for _ in range(2):
            began = time.perf_counter()
            for step in (leads, not leads):  # there and back
                (group.send if step else group.recv)(numbers, peer)
            _finish(device)
            rates[name] = 2 * SENT / (time.perf_counter() - began)
    if not leads:
        return {}
    round_trip, offset = min(trips)
    return {"round_trip": round_trip, "clock": offset, "rates": rates}


def _finish(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
