"""`drpo train`: prepares the run folder, then one process a device through torch elastic."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from drpo_cli import dist, installed, saved
from drpo_cli.errors import EXIT_RUN_FAILED, UserError
from drpo_cli.installed import require_engine
from drpo_cli.plan import Plan, make_plan
from drpo_cli.plugins import Selected
from drpo_cli.run_folder import RunFolder
from drpo_cli.settings import ModelSettings
from drpo_cli.spec import Spec, dump
from drpo_cli.spec.rules_trackers import missing_client
from drpo_cli.trackers._follow import following

STOP_SECONDS = 3600  # a stopped run finishes its step and saves before it goes


def train(spec: Spec, resume: bool, nproc: int | None) -> int:
    """Runs the spec to its end; returns the exit code. Raises UserError before anything starts."""
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    require_engine(spec.rollout.type)
    world = processes(nproc)
    folder = prepare(spec, resume, world)
    with following(folder):
        return start(folder, world, dist.threads_per_rank(world))


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
    with folder.held():
        for stale in folder.path.glob("logs/*.error"):
            stale.unlink()
        _write_whole(folder.spec, dump(spec))
        _write_whole(folder.versions, json.dumps(versions(plan), indent=1))
    return folder


def _write_whole(path: Path, text: str) -> None:
    # A kill between the two leaves the old file or the new one, never half of either.
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


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
    with folder.held():
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
    logging.disable(logging.CRITICAL)  # elastic's own account of a stop; ours is `_explain`'s
    os.environ.update(dist.environment(threads))
    config = launch_config(folder.path.name, world)
    try:
        elastic_launch(config, sys.executable)("-m", "drpo_cli.worker", str(folder.path))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        return _explain(folder, failed)
    return 0


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


def first_word(folder: RunFolder, ranks: Iterable[int]) -> tuple[int, str, int] | None:
    """Code, message and rank of the first failure that left word, a user's mistake before a crash.

    The first is the cause; what the other ranks say then is that a neighbour is gone.
    """
    left = [
        (json.loads(folder.error(rank).read_text()), folder.error(rank).stat().st_mtime, rank)
        for rank in ranks
        if folder.error(rank).is_file()
    ]
    if not left:
        return None
    record, _, rank = min(left, key=lambda item: (-item[0]["code"], item[1]))
    return int(record["code"]), str(record["message"]), rank


def _explain(folder: RunFolder, failed: ChildFailedError) -> int:
    """Says why the run ended; returns its exit code."""
    if (word := first_word(folder, failed.failures)) is not None:
        code, message, rank = word
        sys.stderr.write(f"error: {message}\n")
        if code == EXIT_RUN_FAILED:
            sys.stderr.write(f"rank {rank} failed; its log is {folder.log(rank)}\n")
        return code
    rank, failure = failed.get_first_failure()
    if failure.exitcode in (130, 143):
        return failure.exitcode
    sys.stderr.write(
        f"error: rank {rank} died with exit code {failure.exitcode} and without a word (killed, or "
        f"out of memory?); its log is {folder.log(rank)}; go on with --resume\n"
    )
    return EXIT_RUN_FAILED
