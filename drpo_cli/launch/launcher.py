"""`drpo train`: prepares the run folder, then one process a device through torch elastic."""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from drpo_cli import dist
from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.monitor import Beside, launch_log, set_aside
from drpo_cli.launch.tracking import following
from drpo_cli.plan import Plan, make_plan
from drpo_cli.plugins import Selected
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs import versions as installed
from drpo_cli.runs.events import ENDED, say, say_if_room, state
from drpo_cli.runs.folder import LAUNCHER_LOCK, RunFolder, write_whole
from drpo_cli.runs.versions import require_engine
from drpo_cli.settings import ModelSettings
from drpo_cli.spec import Spec, dump
from drpo_cli.spec.rules_trackers import missing_client

STOP_SECONDS = 3600  # a stopped run finishes its step and saves before it goes
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def train(spec: Spec, resume: bool, nproc: int | None) -> int:
    """Runs the spec to its end; returns the exit code. Raises UserError before anything starts."""
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    require_engine(spec.rollout.type)
    world = processes(nproc)
    folder = prepare(spec, resume, world)
    with following(folder):
        try:
            return _train(folder, spec.run.report_every, world)
        except SignalException as stopped:  # before the ranks started, or after they were gone
            return 128 + int(stopped.sigval)


def _train(folder: RunFolder, report_every: int, world: int) -> int:
    failures = Failures(folder, world)
    with (
        folder.lock(LAUNCHER_LOCK),
        set_aside(launch_log(folder)) as (out, err),
        _stoppable(),
        Beside(failures, report_every, out, err) as beside,
    ):
        say(folder, f"starting {world} process{'' if world == 1 else 'es'} …", "starting")
        code, text = _ranks(failures, dist.threads_per_rank(world))
        beside.tell(text)
    return code


def prepare(spec: Spec, resume: bool, world: int) -> RunFolder:
    """Makes the folder of a run on `world` processes ready: model, spec, versions, no old errors.

    Raises UserError when the run is finished, in use, or not finished and not to be resumed.
    """
    require_clients(spec.tracker)
    plan = make_plan(spec, world)
    folder = RunFolder(plan.run_folder)
    _require_usable(folder, spec, resume)
    prepare_model(spec.model)
    plan = make_plan(spec, world)
    (folder.path / "logs").mkdir(parents=True, exist_ok=True)
    with folder.lock(LAUNCHER_LOCK), folder.lock():
        for stale in folder.path.glob("logs/*.error"):
            stale.unlink()
        write_whole(folder.spec, dump(spec))
        write_whole(folder.versions, json.dumps(versions(plan), indent=1))
    return folder


def prepare_model(model: ModelSettings) -> None:
    """Runs `model.prepare` when the model folder does not exist yet.

    Raises UserError when the script fails or leaves no model.
    """
    folder = Path(model.path)
    if model.prepare is None or (folder / "config.json").is_file():
        return
    sys.stderr.write(f"preparing the model: python {model.prepare} {folder}\n")
    done = subprocess.run([sys.executable, str(model.prepare), str(folder)], check=False)
    if done.returncode or not (folder / "config.json").is_file():
        raise UserError(
            f"model.prepare: {model.prepare} ended with code {done.returncode} and "
            f"{'a' if folder.exists() else 'no'} folder {folder}; mend the script"
        )


def versions(plan: Plan) -> dict[str, object]:
    """What the run uses: packages, Python, machine, devices."""
    return {
        "packages": installed.versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": dist.cores(),
        "device": dist.device_name(),
        "processes": plan.world,
    }


def require_clients(trackers: Iterable[Selected]) -> None:
    """Raises UserError when what a tracker of the spec sends with is not installed."""
    for index, tracker in enumerate(trackers):
        if what := missing_client(tracker):
            raise UserError(f"tracker[{index}].type: {what}")


def processes(nproc: int | None) -> int:
    """Processes of a run: `--nproc`, else one a GPU, one on a CPU; UserError when too many."""
    devices, kind = dist.device_count(), dist.device_type()
    if nproc is None:
        return devices if kind == "cuda" else 1
    if nproc > devices:
        what = "GPUs" if kind == "cuda" else "CPU cores"
        raise UserError(
            f"--nproc {nproc}: this machine has {devices} {what}; one process needs one"
        )
    return nproc


def _require_usable(folder: RunFolder, spec: Spec, resume: bool) -> None:
    if not folder.exists():
        return
    with folder.lock(LAUNCHER_LOCK), folder.lock():
        found = saved.complete(folder.checkpoints)
    if found and saved.read(found[-1])["step"] >= spec.run.steps:
        raise UserError(
            f"{folder.path} is finished after {spec.run.steps} steps; raise run.steps and give "
            f"--resume to go on, or set run.name to another name"
        )
    if not resume:
        raise UserError(
            f"{folder.path} holds a run that is not finished; give --resume to go on from its "
            f"last checkpoint, or set run.name to another name"
        )


def start(folder: RunFolder, world: int, threads: int) -> int:
    """Runs a prepared folder on `world` processes of `threads` threads; returns the exit code."""
    code, text = _ranks(Failures(folder, world), threads)
    sys.stderr.write(text)
    return code


def _ranks(failures: Failures, threads: int) -> tuple[int, str]:
    """Runs the ranks to their end: exit code, and why they failed where that is not said yet."""
    folder = failures.folder
    logging.disable(logging.CRITICAL)  # elastic's own account of a stop; ours is `_explain`'s
    os.environ.update(dist.environment(threads))
    config = launch_config(folder.path.name, failures.world)
    try:
        with _handlers_restored():
            elastic_launch(config, sys.executable)("-m", "drpo_cli.launch.worker", str(folder.path))
    except SignalException as stopped:
        name = signal.Signals(stopped.sigval).name
        if state(folder) in ENDED:
            return 128 + int(stopped.sigval), ""
        said = f"stopped by {name} before it could save; go on with --resume"
        return 128 + int(stopped.sigval), say_if_room(folder, said, "stopped")
    except ChildFailedError as failed:
        return _explain(failures, failed)
    return 0, ""


def launch_config(name: str, world: int) -> LaunchConfig:
    """How elastic starts `world` processes on this machine."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world,
        run_id=name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",  # ranks would wait for ever where the machine's own name is unknown
        max_restarts=0,
        shutdown_timeout=STOP_SECONDS,
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    # As elastic has it while ranks run: a signal before and after must leave the terminal whole too
    with _handlers_restored():
        for number in STOPS:
            signal.signal(number, _stop)
        yield


def _stop(number: int, frame: FrameType | None) -> None:
    raise SignalException(f"stopped by signal {number}", signal.Signals(number))


@contextmanager
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(failures: Failures, failed: ChildFailedError) -> tuple[int, str]:
    """The run's exit code, and why it ended where that is not said yet."""
    if (word := failures.last()) is not None:
        return word
    rank, failure = failed.get_first_failure()
    if failure.exitcode in (130, 143):
        return failure.exitcode, ""
    said = (
        f"rank {rank} died with exit code {failure.exitcode} and without a word (killed, or "
        f"out of memory?); its log is {failures.folder.log(rank)}; go on with --resume"
    )
    say_if_room(failures.folder, said, "failed", rank=rank)  # it is shown below in any case
    return EXIT_RUN_FAILED, f"error: {said}\n"
