"""`drpo train`: prepares the run folder, then runs one process per device through torch elastic.

Consumes      a checked spec
Waits for     the last rank to end
Unblocked by  the ranks; a failed rank, after which elastic ends the others; SIGINT or SIGTERM,
              which elastic passes on to the ranks, and after which they save
Produces      the run folder's `spec.toml` and `versions.json`, and the exit code

The main thread waits in elastic, because signals go to it; `monitor` has a thread of its own.
"""

from __future__ import annotations

import json
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from drpo_cli import dist, processes, suites
from drpo_cli.errors import EXIT_RUN_FAILED, EXIT_USER_ERROR, UserError, os_message
from drpo_cli.launch import launch_log, nodes
from drpo_cli.launch.continued import say_changes
from drpo_cli.launch.failures import Failures
from drpo_cli.launch.meeting import Meeting
from drpo_cli.launch.monitor import Monitor, divert_output
from drpo_cli.launch.origin import Origin, begin
from drpo_cli.launch.place import Place
from drpo_cli.launch.restarts import follow_restarts, run_with_restarts
from drpo_cli.launch.tracking import follow_run
from drpo_cli.launch.watchdog import WATCHED, Watchdog, hang_limit
from drpo_cli.plan import Plan, check_plan, make_plan
from drpo_cli.plugins import Selected
from drpo_cli.runs import checkpoints as saved
from drpo_cli.runs import versions as installed
from drpo_cli.runs.events import ENDED, say, say_if_room, state
from drpo_cli.runs.folder import LAUNCHER_LOCK, RunFolder, launcher_lock, write_whole
from drpo_cli.runs.records import Records
from drpo_cli.runs.start import Start
from drpo_cli.runs.versions import require_engine
from drpo_cli.settings import ModelSettings, TrackerSettings
from drpo_cli.spec import Spec, dump
from drpo_cli.spec.rules_data import missing_client

STOP_SECONDS = 3600  # a run that was asked to stop finishes its step and saves
ALONE: dict[str, Any] = {
    "min_nodes": 1,
    "max_nodes": 1,
    "rdzv_backend": "c10d",
    "rdzv_endpoint": "localhost:0",
    "local_addr": "localhost",  # the machine's own name may not resolve, and ranks would hang
}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def train(
    spec: Spec,
    resume: bool,
    nproc: int | None,
    place: Place | None = None,
    origin: Origin | None = None,
) -> int:
    """Runs the spec to its end; returns the exit code. Raises UserError before anything starts.

    With a place, this machine is one of several nodes, each with `nproc` processes. `origin` is a
    run or checkpoint whose weights it begins with.
    """
    for warning in spec.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    require_engine(spec.rollout.type)
    local = choose_world_size(nproc)
    with nodes.gather(place, dump(spec), local) as meeting:
        world = local * (place.size if place else 1)
        folder = RunFolder(spec.run.folder / spec.run.name)
        nodes.prepare_together(meeting, folder, lambda: prepare(spec, resume, world, origin))
        failures = Failures(folder, world)
        try:
            if meeting is not None and not meeting.is_first:
                return _train_beside(spec, failures, local, meeting)
            with follow_run(folder):
                return _train(spec, failures, local, meeting)
        except SignalException as stopped:  # before the ranks started, or after they ended
            return 128 + int(stopped.sigval)


def _train(spec: Spec, failures: Failures, local: int, meeting: Meeting | None) -> int:
    """Trains and shows the whole run: on its only machine, or on the first of several."""
    folder, world = failures.folder, failures.world
    with (
        folder.lock(LAUNCHER_LOCK),
        divert_output(launch_log(folder)) as (out, err),
        processes.handle_signals(STOPS, _stop),
        Monitor(failures, spec.run.report_every, out, err) as monitor,
    ):
        on = f" on {meeting.place.size} nodes" if meeting else ""
        text = f"starting {world} process{'' if world == 1 else 'es'}{on} …"
        say(folder, text, "starting")
        ranks = _ranks(spec, failures, local, meeting)
        code, message = run_with_restarts(failures, spec.run.restarts, ranks, meeting)
        monitor.show(message)
    return code


def _ranks(
    spec: Spec, failures: Failures, local: int, meeting: Meeting | None
) -> Callable[[], tuple[int, str]]:
    """One start of this machine's ranks."""
    threads, pool = dist.threads_per_rank(local), spec.rollout.config.pools_device_memory()
    return partial(run_ranks, failures, threads, pool, meeting)


def _train_beside(spec: Spec, failures: Failures, local: int, meeting: Meeting) -> int:
    """Trains on a machine that is not the first; shows the run's states and why it failed."""
    folder, rank = failures.folder, meeting.place.rank
    with (
        folder.lock(launcher_lock(rank)),
        divert_output(launch_log(folder, rank)) as (out, err),
        processes.handle_signals(STOPS, _stop),
        nodes.States(failures, meeting, out, err) as states,
    ):
        ranks = _ranks(spec, failures, local, meeting)
        code, message = follow_restarts(spec.run.restarts, ranks, meeting)
        states.show(message)
    return code


def prepare(spec: Spec, resume: bool, world: int, origin: Origin | None = None) -> RunFolder:
    """Prepares the folder of a run on `world` processes: model, spec, versions, no old errors.

    Raises UserError when the run is finished, in use, or unfinished without `resume`.
    """
    require_clients(spec.tracker)
    folder = RunFolder(spec.run.folder / spec.run.name)
    if origin is not None:
        _require_usable(folder, spec, resume)  # before anything is copied there
    spec, start = begin(spec, folder, origin)
    check_plan(spec, world)  # before the model is prepared, which may take a while
    suites.of_run(spec)
    _require_usable(folder, spec, resume)
    prepare_model(spec.model)
    plan = make_plan(spec, world)
    (folder.path / "logs").mkdir(parents=True, exist_ok=True)
    with folder.lock_all():
        folder.forget_failures()
        Records(folder.events).end_line()
        now = versions(plan, start)
        if resume and folder.exists():
            say_changes(folder, spec, now)
        write_whole(folder.spec, dump(spec))
        write_whole(folder.versions, json.dumps(now, indent=1))
        if start and not resume:
            say(folder, start.describe())
    return folder


def prepare_model(model: ModelSettings) -> None:
    """Runs `model.prepare` when the model folder does not exist yet.

    Raises UserError when the script fails or leaves no model.
    """
    folder = Path(model.path)
    if model.prepare is None or (folder / "config.json").is_file():
        return
    sys.stderr.write(f"preparing the model: python {model.prepare} {folder}\n")
    code = processes.run([sys.executable, str(model.prepare), str(folder)])
    if code or not (folder / "config.json").is_file():
        what = f"ended with code {code}" if code else f"left no config.json in {folder}"
        raise UserError(f"model.prepare: {model.prepare} {what}", "fix the script")


def versions(plan: Plan, start: Start | None = None) -> dict[str, Any]:
    """What the run uses: packages, Python, machine, devices; what it began with."""
    return {
        **({"from": start.began, "kept": list(start.keeps)} if start else {}),
        "packages": installed.versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": processes.cores(),
        "device": dist.device_name(),
        "processes": plan.world,
    }


def require_clients(trackers: Iterable[Selected[TrackerSettings]]) -> None:
    """Raises UserError when the client library of a tracker in the spec is not installed."""
    for index, tracker in enumerate(trackers):
        if what := missing_client(tracker):
            raise UserError(f"tracker[{index}].type: {what}")


def choose_world_size(nproc: int | None) -> int:
    """Processes of a run: `nproc`, else one per GPU, or one on a CPU.

    Raises UserError when the machine has fewer devices than `nproc`.
    """
    devices, kind = dist.device_count(), dist.device_type()
    if nproc is None:
        return devices if kind == "cuda" else 1
    if nproc > devices:
        what = "GPUs" if kind == "cuda" else "CPU cores"
        raise UserError(
            f"--nproc {nproc}: this machine has {devices} {what}, and each process needs one",
            f"give --nproc {devices} or less",
        )
    return nproc


def _require_usable(folder: RunFolder, spec: Spec, resume: bool) -> None:
    if not folder.exists():
        return
    with folder.lock_all():
        found = saved.complete(folder.checkpoints)
    last = found[-1] if found else None
    if last and saved.step_of(last) >= spec.run.steps and not _is_unfinished(last):
        raise UserError(
            f"{folder.path} is finished after {spec.run.steps} steps",
            "raise run.steps and give --resume to continue, or set run.name to another name",
        )
    if not resume:
        raise UserError(
            f"{folder.path} holds a run that is not finished",
            "give --resume to continue from its last checkpoint, or set run.name to another name",
        )


def _is_unfinished(checkpoint: Path) -> bool:
    """Whether it is damaged, or from the middle of a warm-up."""
    return bool(saved.damage(checkpoint)) or saved.read(checkpoint).get("warm_up") is not None


def run_ranks(
    failures: Failures, threads: int, pool: bool = True, meeting: Meeting | None = None
) -> tuple[int, str]:
    """Trains in a prepared folder until all ranks have ended, with `threads` threads per rank.

    `pool` is that of `dist.environment`. With a meeting, this machine runs its share of the ranks.
    Returns the exit code, and why a rank failed if that was not shown yet.
    """
    folder, local = failures.folder, failures.world // (meeting.place.size if meeting else 1)
    command = processes.python("drpo_cli.launch.worker", folder.path)
    environment = {**dist.environment(threads, pool), WATCHED: "1"}
    try:
        with (
            Watchdog(folder, failures.world, hang_limit(folder)),
            processes.handle_signals(STOPS),  # elastic sets its own and leaves them
        ):
            launch(folder.path.name, local, environment, command, meeting)
    except SignalException as stopped:
        name = signal.Signals(stopped.sigval).name
        if state(folder) in ENDED:
            return 128 + int(stopped.sigval), ""
        text = f"stopped by {name} before it could save; continue with --resume"
        return 128 + int(stopped.sigval), say_if_room(folder, text, "stopped")
    except ChildFailedError as failed:
        code, message = _explain(failures, failed)
        return code, message + nodes.report_lost(failures, meeting)
    return 0, ""


def launch(
    name: str,
    local: int,
    environment: dict[str, str],
    command: Sequence[str],
    meeting: Meeting | None = None,
) -> None:
    """Runs a command on `local` ranks of this machine, and waits for all of them.

    With a meeting, they are part of the ranks of all its nodes. The variables of `environment` are
    added for the ranks only: elastic has no argument for them, so `env` sets them, for a shell that
    becomes the command: `env` takes one with `=` in its path for a variable. Raises
    ChildFailedError, and SignalException for a signal to this process.
    """
    # torch before 2.12 has no such argument, and ends ranks 30 s after the signal
    patience: dict[str, Any] = {"shutdown_timeout": STOP_SECONDS} if _has_shutdown_timeout() else {}
    rendezvous, more = (ALONE, {}) if meeting is None else meeting.begin()
    config = LaunchConfig(
        nproc_per_node=local,
        run_id=name,
        max_restarts=0,
        **patience,
        **rendezvous,
    )
    variables = [f"{key}={value}" for key, value in (environment | more).items()]
    elastic_launch(config, "env")(*variables, "sh", "-c", 'exec "$@"', "sh", *command)


def _has_shutdown_timeout() -> bool:
    return any(field.name == "shutdown_timeout" for field in fields(LaunchConfig))


def _stop(number: int, frame: FrameType | None) -> None:
    # What elastic raises while ranks run: before and after, too, the terminal must be restored
    raise SignalException(f"stopped by signal {number}", signal.Signals(number))


def _explain(failures: Failures, failed: ChildFailedError) -> tuple[int, str]:
    """The run's exit code, and why it ended if that was not shown yet."""
    final = failures.final()
    rank, failure = failed.get_first_failure()
    killed = [r for r, f in failed.failures.items() if _was_killed(failures.folder, r, f.exitcode)]
    if killed and (final is None or final[0] == EXIT_RUN_FAILED):
        rank, failure = killed[0], failed.failures[killed[0]]  # other ranks then fail without it
    elif final is not None:
        return final
    if failure.exitcode in (130, 143):
        return failure.exitcode, ""
    text = _describe_death(rank, failure.exitcode, failures.folder)
    try:
        message = failures.settle(rank, text)
        say(failures.folder, text, "failed", rank=rank)
    except OSError as error:  # then the rank could not record its failure either
        found = os_message(error, failures.folder.path, "continue with --resume")
        return (EXIT_USER_ERROR, f"error: {found}\n") if found else (1, f"error: {text}\n")
    return EXIT_RUN_FAILED, message


def _was_killed(folder: RunFolder, rank: int, code: int) -> bool:
    """Whether a signal ended the rank, other than the one with which elastic ends the rest."""
    return code < 0 and code != -signal.SIGTERM and not folder.error(rank).is_file()


def _describe_death(rank: int, code: int, folder: RunFolder) -> str:
    if code == -signal.SIGKILL:
        what, fix = (
            "was killed (SIGKILL)",
            "the usual cause is that the machine's memory ran out: lower what a step holds "
            "(`drpo plan` shows it), or use fewer processes, then continue with --resume",
        )
    else:
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        what, fix = f"ended by {name} and recorded no error", "continue with --resume"
    return f"rank {rank} {what}; its log is {folder.log(rank)}; {fix}"
