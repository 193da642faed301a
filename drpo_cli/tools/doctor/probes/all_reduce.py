"""Two processes, started as `drpo train` starts them, add two numbers up."""

from __future__ import annotations

import os
import sys
import time

from drpo_cli.tools.doctor.probes import say

RANKS = 2


def main() -> None:
    """Starts the ranks; each says how far it came, under a key of its own."""
    from drpo_cli import dist, processes
    from drpo_cli.launch.launcher import launch

    over_gpus = dist.device_type() == "cuda" and dist.device_count() >= RANKS
    if not over_gpus:  # a rank needs a GPU of its own
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    say(backend="NCCL" if over_gpus else "gloo")
    command = processes.python("drpo_cli.tools.doctor.probes.all_reduce", "rank")
    launch("doctor", RANKS, dist.environment(1), command)


def rank() -> None:
    """One of them."""
    from drpo_cli import dist, processes

    processes.die_with_parent()
    own = os.environ["RANK"]
    say(**{own: "started", "master": os.environ["MASTER_ADDR"]})
    with dist.join() as world:
        say(**{own: "joined"})
        world.barrier()
        began = time.perf_counter()
        total = world.sum([world.rank + 1.0])[0]
        say(**{own: "reduced", "total": total, "seconds": time.perf_counter() - began})


if __name__ == "__main__":
    rank() if sys.argv[1:] else main()
