"""Each run of a grid in a process of its own: a fork of a server that has imported everything.

Consumes      prepared run folders, one per fork
Waits for     nothing; a fork trains as `drpo train` does
Unblocked by  SIGTERM from the command, after which a fork saves; the command's death ends it
Produces      the run folder, and the run's exit code

The server itself never uses a device, so that each fork can choose its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from drpo_cli import processes
from drpo_cli.launch import launch_log
from drpo_cli.launch.tracking import follow_run
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import Spec

PRELOAD = (
    "bokeh.models",
    "bokeh.resources",
    "drpo_cli.launch.launcher",
    "drpo_cli.report.writer",
    "drpo_cli.step.loop",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "scipy.stats",
)
"""What every run imports, including what it imports late."""


@dataclass(frozen=True)
class Place:
    """What one run may use of the machine.

    world    processes of the run
    threads  CPU threads of each
    devices  CUDA_VISIBLE_DEVICES of the run; None on a machine without GPUs
    """

    world: int
    threads: int
    devices: str | None


def open_server(specs: Iterable[Spec], threads: int) -> ForkServerContext:
    """Starts the server, which imports what runs of these specs need."""
    modules = {name for spec in specs for name in _modules(spec)}
    # torch reads the number of threads when it is imported
    return processes.fork_server(modules, {"OMP_NUM_THREADS": str(threads)})


def start(context: ForkServerContext, folder: RunFolder, place: Place) -> ForkServerProcess:
    """Starts the run in a prepared folder. The process ends with the run's exit code."""
    process = context.Process(target=_main, args=(folder.path, place))
    process.start()
    return process


def _modules(spec: Spec) -> list[str]:
    engine = "vllm" if spec.rollout.type == "vllm" else f"drpo_cli.rollout.{spec.rollout.type}"
    config = Path(spec.model.path) / "config.json"
    with suppress(OSError, ValueError, KeyError):
        kind = json.loads(config.read_text())["model_type"]
        return [*PRELOAD, engine, f"transformers.models.{kind}.modeling_{kind}"]
    return [*PRELOAD, engine]


def _main(path: Path, place: Place) -> None:
    from drpo_cli.report.writer import write_here

    # What this run starts must not be a fork of the server, which would keep its locks open
    multiprocessing.set_start_method(None, force=True)
    processes.die_with_parent()  # with the server
    os.setsid()  # Ctrl-C is for the command, which sends each run one SIGTERM
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_command, daemon=True).start()
    folder = RunFolder(path)
    processes.print_to(launch_log(folder))
    if place.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.devices
    with follow_run(folder):
        code = _train(folder, place)
        write_here(folder)
    processes.exit_now(code)


def _train(folder: RunFolder, place: Place) -> int:
    from drpo_cli.launch import worker
    from drpo_cli.launch.failures import Failures
    from drpo_cli.launch.launcher import run_ranks

    if place.world > 1:
        code, message = run_ranks(Failures(folder, place.world), place.threads)
        sys.stderr.write(message)
        return code
    import torch

    torch.set_num_threads(place.threads)
    # With port 0 each run binds a free port, so two runs never want the same one
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    return worker.main(folder)


def _die_with_command() -> None:
    # `die_with_parent` does not serve: the parent is the server, which lives as long as its forks
    command = multiprocessing.parent_process()
    assert command is not None
    command.join()
    os.kill(os.getpid(), signal.SIGKILL)
