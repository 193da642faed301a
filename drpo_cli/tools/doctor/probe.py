"""Programs that may crash or hang, run in processes of their own: imports, torch, two ranks.

A program prints what it found as lines of JSON, at once, since what follows may not return.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drpo_cli import processes

ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt|Exit|Failure)\b.*", re.MULTILINE)
MODULE = "drpo_cli.tools.doctor.probe"
MOST_CHARACTERS = 300
RANKS = 2


@dataclass(frozen=True)
class Answer:
    """What a program printed before it ended.

    said    its lines of JSON, merged; later lines win
    stderr  everything it wrote to stderr
    status  its exit status, −(signal number); None when it ran out of time
    """

    said: Mapping[str, Any]
    stderr: str
    status: int | None

    @property
    def reason(self) -> str:
        """Why it failed: the first error of its traceback, which caused the others."""
        if self.status is None:
            return "did not end in time, and was killed"
        if self.status < 0:
            return f"died of signal {signal.Signals(-self.status).name}"
        raised, lines = ERROR.search(self.stderr), self.stderr.strip().splitlines()
        text = raised.group().strip() if raised else (lines[-1:] or ["it printed nothing"])[0]
        return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def ask(program: str, *arguments: str, seconds: float) -> Answer:
    """Runs one of `PROGRAMS` in a process of its own, and kills it after so many seconds."""
    command = processes.python(MODULE, program, *arguments)
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR"}
    done = processes.capture(command, seconds=seconds, environment=quiet)
    said: dict[str, Any] = {}
    for line in done.out.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # printed by a library
        if isinstance(record, dict):
            said |= record
    return Answer(said, done.err, done.code)


def say(**found: Any) -> None:
    """Prints what a program found, for `ask`."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def import_names(*names: str) -> None:
    """Imports each `package.module:name`, and says so after each."""
    for wanted in names:
        module, _, name = wanted.partition(":")
        found = importlib.import_module(module)
        if name:
            getattr(found, name)  # a library may import its parts only when they are used
        say(**{wanted: getattr(found, "__version__", None)})


def describe_torch() -> None:
    """Says which torch this is, and which GPUs it can use, or why none."""
    import torch

    say(torch=torch.__version__, cuda=torch.version.cuda)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = []
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    say(gpus=gpus, why_none=[str(each.message) for each in caught])


def add_up() -> None:
    """Starts two ranks as `drpo train` does; each says how far it came under its own key."""
    from drpo_cli import dist
    from drpo_cli.launch.launcher import launch

    over_gpus = dist.device_type() == "cuda" and dist.device_count() >= RANKS
    if not over_gpus:  # each rank needs a GPU of its own
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    say(backend="NCCL" if over_gpus else "gloo")
    launch("doctor", RANKS, dist.environment(1), processes.python(MODULE, "add_rank"))


def add_rank() -> None:
    """One of the two ranks."""
    from drpo_cli import dist

    processes.die_with_parent()
    own = os.environ["RANK"]
    say(**{own: "started"})
    with dist.join() as world:
        say(**{own: "joined"})
        world.barrier()
        began = time.perf_counter()
        total = world.sum([world.rank + 1.0])[0]
        say(**{own: "added up", "total": total, "seconds": time.perf_counter() - began})


def meet_nodes(place: str, folder: str) -> None:
    """See `across`."""
    from drpo_cli.tools.doctor import across

    across.meet_nodes(place, folder)


def measure_ways() -> None:
    """See `across`."""
    from drpo_cli.tools.doctor import across

    across.measure_ways()


PROGRAMS = {
    each.__name__: each
    for each in (import_names, describe_torch, add_up, add_rank, meet_nodes, measure_ways)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
