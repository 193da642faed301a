"""A run's parts, opened and closed in the right order, and what the loop does with them."""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Any, TextIO

import numpy as np
import torch

from drpo_cli import assemble, dist
from drpo_cli.checkpoint import Checkpoints
from drpo_cli.collect import Collected, collect, sampling_metrics
from drpo_cli.credit import credited
from drpo_cli.data._stream import Data
from drpo_cli.evaluate.metrics import Estimate, estimate, right_samples
from drpo_cli.evaluate.results import held_out_id, problem_results
from drpo_cli.plan import Plan, make_plan
from drpo_cli.report import page
from drpo_cli.report.metrics import generated_tokens, rollout_metrics, sample_records
from drpo_cli.report.records import Records
from drpo_cli.report.screen import Screen, SilentScreen, open_screen
from drpo_cli.rewards._overlong import shaped
from drpo_cli.rewards._score import Scorer
from drpo_cli.rollout._groups import EngineProtocol, Sampling, sample_groups, seed_of
from drpo_cli.run_folder import RunFolder
from drpo_cli.saved import complete
from drpo_cli.spec import load
from drpo_cli.stop import StopRequest
from drpo_cli.sync import WeightSync
from drpo_cli.trainer.step import Trainer
from drpo_cli.types import Group, Scores

PROBE_PROMPTS = 8  # prompts sampled, one response each, to measure a gap outside a step
PROBE_TOKENS = 32
RECORDED_GROUPS = 2  # groups of a step written to samples.jsonl


@dataclass
class Run:
    """Everything a running run holds on this rank."""

    plan: Plan
    folder: RunFolder
    world: dist.World
    tokenizer: Any
    data: Data
    scorer: Scorer
    engine: EngineProtocol
    trainer: Trainer
    sync: WeightSync
    checkpoints: Checkpoints
    screen: Screen
    stop: StopRequest
    done: int = 0
    gap: float = 0.0
    stopping: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def steps(self) -> Iterator[int]:
        """The steps still to do, until the last or until all ranks agree to stop."""
        for step in range(self.done + 1, self.plan.spec.run.steps + 1):
            if self.stopping:
                return
            self.seconds.clear()
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
        """Samples and scores this rank's groups, then puts the engine to sleep."""
        settings = assemble.rollout_settings(self.plan.spec)
        found = collect(partial(self._draw, step), settings.dynamic_sampling_rounds, self.world)
        self.engine.sleep()
        return found

    def train(self, found: Collected) -> dict[str, float]:
        """Advantages, then all optimizer updates of the step."""
        spec, critic = self.plan.spec, self.trainer.critic
        groups_P, scores_P = found.groups_P, found.scores_P
        samples = credited(groups_P, scores_P, spec.advantage, critic, self.world)
        if spec.train.overlong == "mask":
            cut = [rollout.truncated for group in groups_P for rollout in group.rollouts_G]
            samples = [replace(s, kept=not c) for s, c in zip(samples, cut, strict=True)]
        return self.trainer.step(samples)

    def prove_sync(self) -> None:
        """Rehearses the sync, pushes the weights the run starts from, sets the noise floor."""
        self.screen.message("proving the weight sync …")
        self.sync.prove(self.done, self.data.held_out[:PROBE_PROMPTS], self._probe_sampling())

    def check_sync(self, groups_P: Sequence[Group]) -> None:
        """Replays a group of this step: whether version n − 1 really is what sampled step n."""
        self.gap = self.sync.check(groups_P[:1], f"after sync {self.sync.version}")

    def push(self, step: int) -> None:
        """Brings the step's weights into the engine; the last ones are checked at once.

        Earlier ones are by the rollouts of the next step, before anything is learned from them.
        """
        self.sync.push(version=step)
        if step == self.plan.spec.run.steps:
            prompts = self.data.held_out[:PROBE_PROMPTS]
            groups_P = sample_groups(self.engine, prompts, self._probe_sampling())
            self.sync.check(groups_P, f"after sync {step}")

    def evaluate_base(self) -> None:
        """Scores the untrained model, once."""
        if self.done == 0:
            sampling, right = assemble.eval_sampling(self.plan.spec), self.plan.spec.eval.threshold
            problems = held_out_id(self.data.held_out, (astuple(sampling), right))
            self._record({"step": 0, "held_out_set": problems, **_held_out(self._evaluate())})

    def maybe_evaluate(self, step: int) -> Estimate | None:
        """The held-out avg@k, on the steps that ask for it and after the last one."""
        every, last = self.plan.spec.eval.every, step == self.plan.spec.run.steps
        due = last or (every > 0 and step % every == 0)
        return self._evaluate() if due else None

    def maybe_save(self, step: int, held_out: Estimate | None) -> None:
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
        held_out: Estimate | None,
    ) -> None:
        """Writes and shows the step's metrics."""
        seconds, groups_P, scores_P = dict(self.seconds), found.groups_P, found.scores_P
        tokens = generated_tokens(found.drawn, self.world)
        metrics = {
            "step": step,
            **rollout_metrics(groups_P, scores_P, self.world),
            **(sampling_metrics(found, self.world) if self._dynamic() else {}),
            **trained,
            "gap": self.gap,
            "gap_floor": self.sync.floor,
            **(_held_out(held_out) if held_out else {}),
            "tokens_per_second": {
                "rollout": tokens / seconds["rollout"],
                "train": trained["trained_tokens"] / seconds["train"],
            },
            "seconds": {**seconds, "step": sum(seconds.values())},
            "peak_memory_gib": self.world.max([dist.peak_memory_gib(self.world.device)])[0],
        }
        self._record(metrics)
        records = sample_records(step, groups_P, scores_P, RECORDED_GROUPS)
        if self.world.rank == 0:
            for record in records:
                Records(self.folder.samples).append(record)
        shown = [(r["prompt"], r["completion"]) for r in records[:: len(groups_P[0].rollouts_G)]]
        self.screen.step(step, metrics, shown)

    def finish(self) -> int:
        """The report, and the exit code: 0, or 128 + the signal that stopped the run."""
        if self.world.rank == 0:
            page.write(self.folder)
        self.screen.close()
        if self.stopping and self.done < self.plan.spec.run.steps:
            name = signal.Signals(self.stop.signal).name
            self.screen.message(f"stopped by {name} after step {self.done}; go on with --resume")
            return 128 + self.stop.signal
        self.screen.message(f"report: {self.folder.report}")
        return 0

    def restore(self) -> None:
        """Continues from the newest whole checkpoint, when there is one."""
        found = complete(self.folder.checkpoints)
        if found:
            record = self.checkpoints.load(found[-1], self.trainer)
            self.data.stream.load_state_dict(record["data"])
            self.sync.floor = record["gap_floor"]
            self.done = record["step"]
        if self.world.rank == 0:
            for file in (self.folder.metrics, self.folder.samples):
                Records(file).rewind(self.done if found else -1)

    def _draw(self, step: int, round_: int) -> tuple[list[Group], list[Scores]]:
        spec = self.plan.spec
        key = (step, self.world.rank, *([round_] if round_ else []))
        sampling = assemble.train_sampling(spec, *key)
        with self.phase("rollout"):
            groups_P = sample_groups(self.engine, self.data.stream.next(), sampling)
        with self.phase("reward"):
            scores_P = self.scorer.score(groups_P)
        train, longest = spec.train, sampling.max_new_tokens
        return groups_P, [
            shaped(group, scores, train.overlong, longest, train.overlong_buffer)
            for group, scores in zip(groups_P, scores_P, strict=True)
        ]

    def _dynamic(self) -> bool:
        return assemble.rollout_settings(self.plan.spec).dynamic_sampling_rounds > 0

    def _save(self, step: int, held_out: Estimate | None) -> None:
        state = {
            "score": held_out.value if held_out else None,
            "data": self.data.stream.state_dict(),
            "gap_floor": self.sync.floor,
            "dtype": self.plan.spec.model.dtype,
        }
        self.checkpoints.save(step, self.trainer, self.tokenizer, state)

    def _evaluate(self) -> Estimate:
        mine = self.data.held_out[self.world.rank :: self.world.size]
        sampling = assemble.eval_sampling(self.plan.spec, self.world.rank)
        groups_P = sample_groups(self.engine, mine, sampling)
        results = problem_results(groups_P, self.scorer.score(groups_P))
        right = [right_samples(result, self.plan.spec.eval.threshold) for result in results]
        rates = [sum(right_G) / len(right_G) for right_G in right]
        return estimate(self.world.gather(torch.tensor(rates, dtype=torch.float64)).tolist())

    def _probe_sampling(self) -> Sampling:
        sampling = assemble.train_sampling(self.plan.spec, "probe", self.world.rank)
        length = min(PROBE_TOKENS, sampling.max_new_tokens)
        return replace(sampling, samples=1, max_new_tokens=length)

    def _record(self, metrics: dict[str, Any]) -> None:
        if self.world.rank == 0:
            Records(self.folder.metrics).append(metrics)


@contextmanager
def open_run(folder: RunFolder, stream: TextIO) -> Iterator[Run]:
    """Joins the processes, builds every part, continues from a checkpoint; closes in reverse."""
    spec = load(folder.spec)
    with ExitStack() as stack:
        world = stack.enter_context(dist.join())
        screen: Screen = SilentScreen()
        if world.rank == 0:
            stack.enter_context(folder.held())
            title = f"{spec.run.name}: {spec.objective.type} on {spec.model.path}"
            screen = open_screen(stream, title, spec.run.steps)
            stack.callback(screen.close)
        plan = make_plan(spec, world.size)
        scorer = Scorer(spec.reward)
        tokenizer = assemble.tokenizer(spec.model)
        data = assemble.data(plan, tokenizer, world.rank)
        screen.message("loading the model …")
        trainer = assemble.trainer(plan, world)
        screen.message(f"starting the {spec.rollout.type} engine …")
        engine = assemble.engine(plan)
        stack.callback(engine.close)
        run = Run(
            plan=plan,
            folder=folder,
            world=world,
            tokenizer=tokenizer,
            data=data,
            scorer=scorer,
            engine=engine,
            trainer=trainer,
            sync=WeightSync(trainer, engine, assemble.precision(spec)),
            checkpoints=Checkpoints(folder.checkpoints, spec.checkpoint.keep, world),
            screen=screen,
            stop=StopRequest(),
        )
        run.restore()
        yield run


def _held_out(found: Estimate) -> dict[str, float | None]:
    return {"held_out": found.value, "held_out_low": found.low, "held_out_high": found.high}
