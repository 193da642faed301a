"""`drpo train --external`: one rank of a job that torchrun, SLURM or another launcher started.

Consumes      a checked spec; the place of this task, from the environment
Waits for     the other ranks of the job; then for rank 0 to prepare the run folder
Unblocked by  rank 0, when the folder is ready or cannot be prepared
Produces      the run folder, by rank 0; then this process becomes the worker of its rank

The job's launcher starts, signals and ends the ranks. Nobody shows the run or writes its page:
`drpo watch` and `drpo report` do, from anywhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from drpo_cli import dist, processes
from drpo_cli.launch import nodes
from drpo_cli.launch.launcher import prepare
from drpo_cli.launch.origin import Origin
from drpo_cli.launch.place import (
    PREPARED,
    TASKS_JOIN_S,
    choose_device,
    place_of_task,
    read_task,
)
from drpo_cli.runs.folder import RunFolder, open_folder
from drpo_cli.runs.versions import require_engine
from drpo_cli.spec import Spec, dump, load


def train(
    spec: Spec, resume: bool, join_s: float | None = None, origin: Origin | None = None
) -> NoReturn:
    """Prepares the run together with the other ranks, then becomes one rank of it.

    Raises UserError when this process is not a task of a job, and, on all ranks, when the run
    cannot be prepared.
    """
    task = read_task(os.environ)
    if dist.device_type() == "cuda":
        task = choose_device(task, dist.device_count())
    place = place_of_task(task, os.environ, join_s or TASKS_JOIN_S)
    for warning in spec.warnings if place.rank == 0 else ():
        sys.stderr.write(f"warning: {warning}\n")
    if spec.run.restarts and place.rank == 0:
        what = "run.restarts: has no effect here; have the job's launcher start the job again"
        sys.stderr.write(f"warning: {what}\n")
    require_engine(spec.rollout.type)
    folder = RunFolder(spec.run.folder / spec.run.name)
    with nodes.gather(place, dump(spec), None) as meeting:
        nodes.prepare_together(meeting, folder, lambda: prepare(spec, resume, place.size, origin))
    del meeting  # the worker of rank 0 keeps a store at the same port
    if place.rank == 0:
        sys.stderr.write(f"run folder: {folder.path}; show it with `drpo watch {folder.path}`\n")
    sys.stderr.flush()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own = dist.environment(dist.threads_per_rank(local))
    command = processes.python("drpo_cli.worker", folder.path)
    # As a new program, since the allocator reads its variables only when a program starts
    os.execve(command[0], command, {**os.environ, **own, **task, PREPARED: "1"})


def continue_run(path: Path) -> NoReturn:
    """Continues the run of a folder from its newest checkpoint, with the folder's own spec.

    Raises UserError as `train` does, and when no run was started there.
    """
    folder = open_folder(path.absolute())
    where = {"folder": str(folder.path.parent), "name": folder.path.name}  # it may have been moved
    spec = load(folder.spec, [f"run.{key}={json.dumps(value)}" for key, value in where.items()])
    train(spec, resume=True)
