"""One run in a process of its own: a fork of a server that has imported everything already.

Importing torch, transformers and an engine takes many times as long as a step of a tiny model;
a fork of a process that has done it starts at once. The server itself never touches a device.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from drpo_cli.launch.tracking import following
from drpo_cli.runs.folder import RunFolder
from drpo_cli.spec import Spec

STOPS = (signal.SIGINT, signal.SIGTERM)
WARM = (
    "drpo_cli.launch.launcher",
    "drpo_cli.step.loop",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "scipy.stats",
)
"""What every run imports, the parts that it imports late included."""


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
    """Starts the server that runs are forked from, with what these specs need imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({name for spec in specs for name in _needs(spec)}))
    # The server inherits what is ignored: Ctrl-C and a signal to the whole group are the
    # command's to hear, and a server that dies takes unsaved runs along.
    heard = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    return context


def run(context: ForkServerContext, folder: RunFolder, place: Place) -> ForkServerProcess:
    """Starts the run in a prepared folder. The process ends with the run's exit code."""
    process = context.Process(target=_main, args=(folder.path, place))
    process.start()
    return process


def _needs(spec: Spec) -> list[str]:
    """Modules a run of the spec imports. The server leaves out those that do not exist."""
    config = Path(spec.model.path) / "config.json"
    with suppress(OSError, ValueError, KeyError):
        kind = json.loads(config.read_text())["model_type"]
        return [*WARM, _engine(spec), f"transformers.models.{kind}.modeling_{kind}"]
    return [*WARM, _engine(spec)]


def _engine(spec: Spec) -> str:
    return "vllm" if spec.rollout.type == "vllm" else f"drpo_cli.rollout.{spec.rollout.type}"


def _main(path: Path, place: Place) -> None:
    from drpo_cli.launch import worker
    from drpo_cli.report.writer import write_here

    # What a run starts, it starts as any run does. (Its locks would also outlive it otherwise.)
    multiprocessing.set_start_method(None, force=True)
    os.setsid()  # the terminal's Ctrl-C is the command's to pass on, once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_command, daemon=True).start()
    folder = RunFolder(path)
    _send_output_to(path / "logs" / "launch.log")
    if place.devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.devices
    with following(folder):
        code = _ranks(folder, place)
        write_here(folder)
    worker.leave(code)


def _ranks(folder: RunFolder, place: Place) -> int:
    from drpo_cli.launch import launcher as launch
    from drpo_cli.launch import worker

    if place.world > 1:
        return launch.start(folder, place.world, place.threads)
    import torch

    torch.set_num_threads(place.threads)
    # Port 0: a free one, found by whoever binds it, so that two runs never want the same.
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    return worker.main(folder)


def _die_with_command() -> None:
    # The parent by the system's account is the server, which lives as long as its runs do.
    command = multiprocessing.parent_process()
    assert command is not None
    command.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _send_output_to(log: Path) -> None:
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
