"""Where several launchers meet: a key-value store, kept by the first at the rendezvous.

Torch elastic and the ranks use the same store afterwards. Everything that a user can do about a
connection is one message; torch's own lines about connections are not shown.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store

from drpo_cli.errors import UserError
from drpo_cli.launch.place import Place, is_own, network, own_address

LEAVE_S = 10.0  # for the others to read what was said
CONNECT_S, POLL_S = 10.0, 0.1
BEGUN = "begun"


class Meeting:
    """The store at the rendezvous, as one of the nodes (or ranks) uses it.

    begun  how often the ranks have begun; one that comes later is there the next time
    """

    def __init__(self, place: Place):
        self.place = place
        self.address = _find_address(place)
        self._came = {place.rank}
        self.begun = 0
        self.addresses: list[str] = []
        with _quiet():
            self._store = PrefixStore(f"drpo/{place.attempt}", _open(place))
            first = self._call("add", f"taken/{place.rank}", 1) == 1
            if self._call("check", [BEGUN]):
                self.begun = int(self._call("get", BEGUN))
        # Once the ranks have begun, it takes the place of a launcher that was lost
        if not first and not self.begun:
            raise UserError(
                f"{place.noun} {place.rank}: another one with this number is at {place.address}",
                f"give every {place.noun} a number of its own, from 0 to {place.size - 1}",
            )

    @property
    def is_first(self) -> bool:
        """Whether this is node 0, or rank 0."""
        return self.place.rank == 0

    def begin(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Starts the ranks of all nodes at once: how elastic meets, and variables for the ranks.

        Consumes: nothing.
        Waits for: the other nodes to begin, which after a failure takes them a moment.
        Produces: arguments of `LaunchConfig`; variables that keep the ranks of this start apart
            from those of an earlier one, and on this network.
        """
        self.begun += 1
        self.addresses = self.share(f"begin/{self.begun}", self.address, self.place.join_s)
        if self.is_first:
            self._call("set", BEGUN, str(self.begun))
        config = {
            "min_nodes": self.place.size,
            "max_nodes": self.place.size,
            "rdzv_backend": "static",  # c10d gives the first ranks to the lowest address
            "rdzv_endpoint": self.place.address,
            "rdzv_configs": {"rank": self.place.rank, "timeout": int(self.place.join_s)},
            "local_addr": self.address,
        }
        return config, {"TORCHELASTIC_RESTART_COUNT": str(self.begun), **network(self.address)}

    def share(self, key: str, value: object, seconds: float) -> list[Any]:
        """Collects a value of each node.

        Consumes: a value that JSON holds, once per key.
        Waits for: the values of all, so many seconds at most.
        Produces: all values by rank. Raises UserError for the first that did not come.
        """
        place, until = self.place, time.monotonic() + seconds
        self._call("set", f"{key}/{place.rank}", json.dumps(value))
        found = []
        for other in range(place.size):
            if not self._wait(f"{key}/{other}", until):
                raise UserError(
                    f"{place.noun} {other} of {place.size} did not come to {place.address} within "
                    f"{seconds:g} s (this is {place.noun} {place.rank}, {self.address})",
                    f"start it with the same --rendezvous, look at what it printed, and see that "
                    f"no firewall closes port {place.port}; --join-timeout waits longer"
                    if place.noun == "node"
                    else "see what it printed; --join-timeout waits longer",
                )
            self._came.add(other)
            found.append(json.loads(self._call("get", f"{key}/{other}")))
        return found

    def tell(self, key: str, value: object) -> None:
        """Leaves a value for all others."""
        self._call("set", key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Waits for a value of the first node as long as that node lives."""
        self._wait(key, float("inf"))
        return json.loads(self._call("get", key))

    def forget(self, other: int) -> None:
        """Waits no more for one that is gone."""
        self._came.discard(other)

    def leave(self) -> None:
        """Ends the meeting, together with those that came, but waits only a moment for them.

        The first reads what the others say before the store ends with it. The others stay for it,
        since a scheduler may end it when one of them ends.
        """
        until = time.monotonic() + LEAVE_S
        with suppress(UserError):
            self._call("set", f"left/{self.place.rank}", "")
            for other in self._came if self.place.hosts else self._came & {0}:
                self._wait(f"left/{other}", until)

    def _wait(self, key: str, until: float) -> bool:
        # A wait of the store's own writes its time-outs to stderr
        while not self._call("check", [key]):
            if time.monotonic() > until:
                return False
            time.sleep(POLL_S)
        return True

    def _call(self, name: str, *arguments: object) -> Any:
        try:
            with _quiet():
                return getattr(self._store, name)(*arguments)
        except DistError as error:
            place = self.place
            raise UserError(
                f"{place}: the rendezvous at {place.address} is gone: {place.noun} 0 has ended",
                f"see what {place.noun} 0 printed, then start all again",
            ) from error


@contextmanager
def meet(place: Place) -> Iterator[Meeting]:
    """Meets the others; all leave together. Raises UserError when they do not come."""
    meeting = Meeting(place)
    try:
        yield meeting
    finally:
        meeting.leave()


def _find_address(place: Place) -> str:
    """The own address; waits for the name of the rendezvous, which may be only just coming up."""
    until = time.monotonic() + place.join_s
    while True:
        try:
            return own_address(place)
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _open(place: Place) -> Store:
    """Opens the store, or connects to it. Raises UserError when there is none in time."""
    if place.hosts and not is_own(place):
        raise UserError(
            f"{place}: {place.host} is not an address of this machine ({socket.gethostname()})",
            f"in --rendezvous give the address by which the others reach {place.noun} 0, and start "
            f"{place.noun} 0 there",
        )
    if not place.hosts:
        _wait_for_server(place)
    try:
        return TCPStore(
            place.host,
            place.port,
            is_master=place.hosts,
            wait_for_workers=False,
            multi_tenant=True,  # torch elastic opens it again in this process
            timeout=timedelta(seconds=CONNECT_S),
        )
    except DistError as error:
        what = (
            f"port {place.port} of this machine is in use"
            if place.hosts
            else f"what answers at {place.address} is not a launcher of drpo"
        )
        raise UserError(f"{place}: {what}", "choose a free port, on every node the same") from error


def _wait_for_server(place: Place) -> None:
    until, reason = time.monotonic() + place.join_s, ""
    while time.monotonic() < until:
        try:
            with socket.create_connection((place.host, place.port), timeout=2):
                return
        except OSError as error:
            reason = str(error.strerror or error)
            time.sleep(POLL_S)
    raise UserError(
        f"{place}: nobody answers at {place.address} within {place.join_s:g} s ({reason})",
        f"start {place.noun} 0 there, see that no firewall closes port {place.port}, and that "
        f"this machine reaches {place.host}; --join-timeout waits longer",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's own lines about connections from the terminal: a message of ours says it."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
