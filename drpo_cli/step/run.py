"""A run's parts, opened and closed in the right order, and what the loop does with them."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from drpo_cli import dist
from drpo_cli.data.pipeline.stream import Data
from drpo_cli.evaluate.metrics import estimate
from drpo_cli.evaluate.results import HeldOut, held_out_id
from drpo_cli.plan import Plan, make_plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import EngineProtocol, seed_of
from drpo_cli.runs.alerts import Watch
from drpo_cli.runs.checkpoints import complete
from drpo_cli.runs.events import State, say
from drpo_cli.runs.folder import RunFolder
from drpo_cli.runs.records import Records, read
from drpo_cli.spec import load
from drpo_cli.step import build as assemble
from drpo_cli.step.advantage import credited
from drpo_cli.step.checkpoint import Checkpoints
from drpo_cli.step.collect import Collected, collect, pass_rates, sampling_metrics
from drpo_cli.step.metrics import (
    generated_tokens,
    grading_metrics,
    rollout_metrics,
    sample_records,
)
from drpo_cli.step.sample import Sampler
from drpo_cli.step.stop import StopRequest
from drpo_cli.step.sync import WeightSync
from drpo_cli.trainer.step import Trainer
from drpo_cli.types import Group

PROBE_PROMPTS = 8  # prompts sampled, one response each, to measure a gap outside a step


@dataclass
class Run:
    """Everything a running run holds on this rank."""

    plan: Plan
    folder: RunFolder
    world: dist.World
    tokenizer: Any
    data: Data
    sampler: Sampler
    engine: EngineProtocol
    trainer: Trainer
    sync: WeightSync
    checkpoints: Checkpoints
    stop: StopRequest
    done: int = 0
    gap: float = 0.0
    alerts: Watch = field(default_factory=Watch)
    stopping: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def steps(self) -> Iterator[int]:
        """The steps still to do, until the last or until all ranks agree to stop."""
        self.say("training …", "running")
        for step in range(self.done + 1, self.plan.spec.run.steps + 1):
            if self.stopping:
                return
            seed = seed_of(self.plan.spec.run.seed, step, self.world.rank)
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield step
            self.done = step

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a part of the step."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def rollout(self, step: int) -> Collected:
        """Samples and grades this rank's groups, then puts the engine to sleep."""
        settings = assemble.rollout_settings(self.plan.spec)
        draw = partial(self.sampler.draw, step, self.data.stream.next, self.phase)
        found = collect(draw, settings.dynamic_sampling_rounds, self.world)
        self.engine.sleep()
        threshold = self.plan.spec.eval.threshold
        self.data.stream.observe(pass_rates(found, threshold, self.world))
        return found

    def train(self, found: Collected) -> dict[str, float]:
        """Advantages, then all optimizer updates of the step."""
        spec, critic = self.plan.spec, self.trainer.critic
        groups_P, scores_P = found.groups_P, found.scores_P
        samples = credited(groups_P, scores_P, spec.advantage, critic, self.world)
        if spec.train.overlong == "mask":
            cut = [rollout.truncated for group in groups_P for rollout in group.rollouts_G]
            samples = [replace(s, kept=s.kept and not c) for s, c in zip(samples, cut, strict=True)]
        return self.trainer.step(samples)

    def prove_sync(self) -> None:
        """Rehearses the sync, pushes the weights the run starts from, sets the noise floor."""
        self.say("proving the weight sync …")
        prompts_P = self.data.held_out[:PROBE_PROMPTS]
        self.sync.prove(self.done, prompts_P, self.sampler.probe_sampling())

    def check_sync(self, groups_P: Sequence[Group]) -> None:
        """Replays a group of this step: whether version n − 1 really is what sampled step n."""
        self.gap = self.sync.check(groups_P[:1], f"after sync {self.sync.version}")

    def push(self, step: int) -> None:
        """Brings the step's weights into the engine; the last ones are checked at once.

        Earlier ones are by the rollouts of the next step, before anything is learned from them.
        """
        self.sync.push(version=step)
        if step == self.plan.spec.run.steps:
            groups_P = self.sampler.probe(self.data.held_out[:PROBE_PROMPTS])
            self.sync.check(groups_P, f"after sync {step}")

    def evaluate_base(self) -> None:
        """Scores the untrained model, once."""
        if self.done == 0:
            sampling, right = assemble.eval_sampling(self.plan.spec), self.plan.spec.eval.threshold
            self.say("scoring the untrained model …")
            problems = held_out_id(self.data.held_out, (astuple(sampling), right))
            found = self._evaluate(0)
            self._record_rates(0, found)
            self._record({"step": 0, "held_out_set": problems, **found.metrics()})

    def maybe_evaluate(self, step: int) -> HeldOut | None:
        """The held-out avg@k, on the steps that ask for it and after the last one."""
        every, last = self.plan.spec.eval.every, step == self.plan.spec.run.steps
        due = last or (every > 0 and step % every == 0)
        return self._evaluate(step) if due else None

    def maybe_save(self, step: int, held_out: HeldOut | None) -> None:
        """Saves a checkpoint on the steps that ask for it, after the last, and before a stop."""
        every, last = self.plan.spec.checkpoint.every, step == self.plan.spec.run.steps
        self.stopping = self.stop.agree(self.world)
        if last or self.stopping or (every > 0 and step % every == 0):
            self._save(step, held_out)

    def log(
        self,
        step: int,
        found: Collected,
        trained: dict[str, float],
        held_out: HeldOut | None,
    ) -> None:
        """Records the step's metrics and samples; phases after this one count for the next step."""
        seconds, groups_P, scores_P = dict(self.seconds), found.groups_P, found.scores_P
        self.seconds.clear()
        tokens = generated_tokens([group for group, _ in found.drawn], self.world)
        metrics = {
            "step": step,
            **rollout_metrics(groups_P, scores_P, self.world),
            "grading": grading_metrics(found.usage, self.world),
            **(sampling_metrics(found, self.world) if self._dynamic() else {}),
            **self.data.stream.metrics(),
            **trained,
            "gap": self.gap,
            "gap_floor": self.sync.floor,
            **(held_out.metrics() if held_out else {}),
            "tokens_per_second": {
                "rollout": tokens / seconds["rollout"],
                "train": trained["trained_tokens"] / seconds["train"],
            },
            "seconds": {**seconds, "step": sum(seconds.values())},
            "peak_memory_gib": self.world.max([dist.peak_memory_gib(self.world.device)])[0],
        }
        if held_out:
            self._record_rates(step, held_out)
        self._record(metrics)
        count = self._recorded_per_rank()
        parts = self.world.gather_objects(sample_records(step, groups_P, scores_P, count))
        if self.world.rank == 0:
            Records(self.folder.samples).extend(record for part in parts for record in part)

    def finish(self) -> int:
        """The last word, and the exit code: 0, or 128 + the signal that stopped the run."""
        if self.stopping and self.done < self.plan.spec.run.steps:
            name = signal.Signals(self.stop.signal).name
            self.say(f"stopped by {name} after step {self.done}; go on with --resume", "stopped")
            return 128 + self.stop.signal
        self.say(f"finished after step {self.done}", "finished")
        return 0

    def say(self, text: str, state: State | None = None, **more: int) -> None:
        """Says something once, on rank 0; see `report.progress.say`."""
        if self.world.rank == 0:
            say(self.folder, text, state, **more)

    def restore(self) -> None:
        """Continues from the newest whole checkpoint, when there is one."""
        found = complete(self.folder.checkpoints)
        if found:
            record = self.checkpoints.load(found[-1], self.trainer)
            self.data.stream.load_state_dict(record["data"])
            self.sync.floor = record["gap_floor"]
            self.done = record["step"]
            self.say(f"resumed after step {self.done}", resumed=self.done)
        if self.world.rank == 0:
            files = self.folder
            for file in (files.metrics, files.held_out, files.samples, files.quarantine):
                Records(file).rewind(self.done if found else -1)
            self.alerts = Watch(read(files.metrics))

    def _recorded_per_rank(self) -> int | None:
        wanted = self.plan.spec.run.recorded_prompts
        return None if wanted is None else -(-wanted // self.world.size)

    def _dynamic(self) -> bool:
        return assemble.rollout_settings(self.plan.spec).dynamic_sampling_rounds > 0

    def _save(self, step: int, held_out: HeldOut | None) -> None:
        state = {
            "score": held_out.score.value if held_out else None,
            "data": self.data.stream.state_dict(),
            "gap_floor": self.sync.floor,
            "dtype": self.plan.spec.model.dtype,
        }
        self.checkpoints.save(step, self.trainer, self.tokenizer, state)

    def _evaluate(self, step: int) -> HeldOut:
        mine = self.data.held_out[self.world.rank :: self.world.size]
        right_PG, unscored = self.sampler.held_out(mine, step)
        parts = self.world.gather_objects([sum(r) / len(r) for r in right_PG])
        rates_P = [0.0] * len(self.data.held_out)
        for rank, part in enumerate(parts):
            rates_P[rank :: self.world.size] = part
        return HeldOut(estimate(rates_P), int(self.world.sum([unscored])[0]), tuple(rates_P))

    def _record_rates(self, step: int, found: HeldOut) -> None:
        if self.world.rank == 0:
            Records(self.folder.held_out).append({"step": step, "rates": found.rates_P})

    def _record(self, metrics: dict[str, Any]) -> None:
        if self.world.rank == 0:
            Records(self.folder.metrics).append(metrics)
            sys.stderr.writelines(f"{alert}\n" for alert in self.alerts.add(metrics))


@contextmanager
def open_run(folder: RunFolder) -> Iterator[Run]:
    """Joins the processes, builds every part, continues from a checkpoint; closes in reverse."""
    spec = load(folder.spec)
    with ExitStack() as stack:
        world = stack.enter_context(dist.join())
        if world.rank == 0:
            stack.enter_context(folder.lock())
            say(folder, "loading the model …", "starting")
        plan = make_plan(spec, world.size)
        grader = stack.enter_context(Grader(spec.reward))
        tokenizer = assemble.tokenizer(spec.model)
        data = assemble.data(plan, tokenizer, world.rank)
        trainer = assemble.trainer(plan, world)
        if world.rank == 0:
            say(folder, f"starting the {spec.rollout.type} engine …")
        engine = assemble.engine(plan)
        stack.callback(engine.close)
        run = Run(
            plan=plan,
            folder=folder,
            world=world,
            tokenizer=tokenizer,
            data=data,
            sampler=Sampler(spec, engine, grader, world.rank, Records(folder.quarantine)),
            engine=engine,
            trainer=trainer,
            sync=WeightSync(trainer, engine, assemble.precision(spec)),
            checkpoints=Checkpoints(folder.checkpoints, spec.checkpoint.keep, world),
            stop=StopRequest(partial(_acknowledge, folder, world.rank)),
        )
        run.restore()
        yield run


def _acknowledge(folder: RunFolder, rank: int, name: str) -> None:
    if rank == 0:
        # Inside a signal handler: a full disk ends the run where it writes next, not here
        with suppress(OSError):
            say(folder, f"{name}: finishing the step under way, then saving …")
