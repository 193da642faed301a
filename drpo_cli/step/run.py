"""A run's parts on one rank: opened in order, closed in reverse."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drpo_cli import dist, progress
from drpo_cli.data.pipeline.stream import Data
from drpo_cli.devices import idle_options, saves_asynchronously
from drpo_cli.plan import Plan, make_plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import EngineProtocol, derive_seed
from drpo_cli.runs.alerts import Watch
from drpo_cli.runs.events import say
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.metrics import State
from drpo_cli.runs.records import Records
from drpo_cli.spec import Spec, load
from drpo_cli.step import build, teachers
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.play import Player
from drpo_cli.step.proof import Proof
from drpo_cli.step.restore import restore
from drpo_cli.step.stop import StopRequest
from drpo_cli.step.suites import OpenSuite, open_suites, rows_of
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.trainer import Trainer


@dataclass
class Run:
    """Everything that a run holds on this rank.

    player    plays the episodes, in a run with environments
    done      the last step that was taken, 0 before the first
    restored  whether it continues from a checkpoint, after its warm-up if it has one
    warming   a checkpoint in the middle of the warm-up, to continue from
    gap       mean |log π − log μ| of the newest check
    stopping  whether all ranks agreed to stop after this step
    seconds   time of each phase since the last record
    """

    plan: Plan
    folder: RunFolder
    world: dist.World
    tokenizer: Any
    data: Data
    suites: tuple[OpenSuite, ...]
    grader: Grader
    player: Player | None
    quarantine: Records
    engine: EngineProtocol
    trainer: Trainer
    sync: WeightSync
    proof: Proof
    checkpoints: Checkpoints
    stop: StopRequest
    done: int = 0
    restored: bool = False
    warming: Path | None = None
    gap: float = 0.0
    alerts: Watch = field(default_factory=Watch)
    stopping: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def spec(self) -> Spec:
        """The spec of the run."""
        return self.plan.spec

    def steps(self) -> Iterator[int]:
        """The steps still to take, until the last or until all ranks agree to stop.

        Each seeds the random generators anew, so that a resumed run continues bit for bit.
        """
        self.say("training …", "running")
        for step in range(self.done + 1, self.spec.run.steps + 1):
            if self.stopping:
                return
            seed = derive_seed(self.spec.run.seed, step, self.world.rank)
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            progress.enter("rollout", step)
            yield step
            self.done = step

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a part of the step."""
        began = time.perf_counter()
        progress.enter(name)
        yield
        self.seconds[name] += time.perf_counter() - began

    def say(self, text: str, state: State | None = None, **more: int) -> None:
        """Puts an event on record, from rank 0; see `runs.events.say`."""
        if self.world.rank == 0:
            say(self.folder, text, state, **more)

    def finish(self) -> int:
        """Records how the run ended; returns 0, or 128 + the signal that stopped it."""
        if self.stopping and (self.warming or self.done < self.spec.run.steps):
            name = signal.Signals(self.stop.signal).name
            text = f"stopped by {name} after step {self.done}; continue with --resume"
            self.say(text, "stopped")
            return 128 + self.stop.signal
        self.say(f"finished after step {self.done}", "finished")
        return 0


@contextmanager
def open_run(folder: RunFolder) -> Iterator[Run]:
    """Joins the processes, builds every part, restores a checkpoint; closes all in reverse.

    After an error nothing is closed, since that may wait for other ranks: the process must end.
    """
    spec = load(folder.spec)
    parts = ExitStack()
    progress.enter("join")
    world = parts.enter_context(dist.join(spec.run.hang_s))
    if world.rank == 0:
        parts.enter_context(folder.lock())
        say(folder, "loading the model …", "starting")
    progress.enter("load")
    plan = make_plan(spec, world.size)
    world = world.in_shards(plan.shard)
    grader = parts.enter_context(Grader(spec.reward, spec.environment))
    tokenizer = build.tokenizer(spec.model)
    player = build.player(plan, tokenizer)
    if player is not None:
        parts.enter_context(player)
    build.check_engine(plan, tokenizer)
    teachers.check(spec, tokenizer, build.context_length(plan), world.rank)
    suites = parts.enter_context(open_suites(plan, tokenizer))
    data = build.data(plan, tokenizer, world.rank, rows_of(suites))
    for text in data.remarks if world.rank == 0 else ():
        say(folder, text)
    for text in idle_options(spec.train, world.device.type) if world.rank == 0 else ():
        say(folder, text)
    trainer = build.trainer(plan, world)
    parts.callback(trainer.close)
    if world.rank == 0 and (why := trainer.policy.why_padded):
        say(folder, f"sequences are padded, not packed: {why}")
    progress.enter("engine start")
    if world.rank == 0:
        say(folder, f"starting the {spec.rollout.type} engine …")
    engine = build.engine(plan, trainer.policy.adapted)
    parts.callback(engine.close)
    sync = WeightSync(trainer, engine, build.precision(spec))
    if spec.lora is not None and world.rank == 0:
        say(folder, sync.describe())
    run = Run(
        plan=plan,
        folder=folder,
        world=world,
        tokenizer=tokenizer,
        data=data,
        suites=suites,
        grader=grader,
        player=player,
        quarantine=Records(folder.quarantine),
        engine=engine,
        trainer=trainer,
        sync=sync,
        proof=Proof(sync),
        checkpoints=Checkpoints(
            folder.checkpoints,
            spec.checkpoint.keep,
            world,
            saves_asynchronously(spec.checkpoint, world.device.type),
        ),
        stop=StopRequest(partial(_acknowledge, folder, world.rank)),
    )
    progress.enter("resume")
    engine.sleep()  # until the first sync, its memory is for what a checkpoint brings
    restore(run)
    progress.enter("first sync")
    yield run
    progress.enter("close")
    parts.close()


def _acknowledge(folder: RunFolder, rank: int, name: str) -> None:
    if rank == 0:
        # Inside a signal handler: a full disk ends the run where it writes next, not here
        with suppress(OSError):
            say(folder, f"{name}: finishing the current step, then saving …")
