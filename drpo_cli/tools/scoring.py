"""Scores models on problems: as few processes and engines as the models allow.

To start an engine takes longer than to score a small model. Jobs whose engines differ by nothing
but weights share one, which gets the weights of each model in turn, as in a run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli import pretrained
from drpo_cli.errors import UserError
from drpo_cli.evaluate.metrics import Evaluation, summarise
from drpo_cli.evaluate.results import problem_results
from drpo_cli.model_folder import find_broken_weights, weight_files
from drpo_cli.plan import Plan, lone_plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampling
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import open_run
from drpo_cli.spec import Spec, load
from drpo_cli.step import build as assemble
from drpo_cli.step import choice
from drpo_cli.step.evaluate import count_unscored, eval_sampling, problems_id, score_held_out
from drpo_cli.step.kept import SAMPLES, Keep, KeptResponses, Shard, digest_weights, open_folder
from drpo_cli.step.play import sample_or_play
from drpo_cli.step.samples import group_records
from drpo_cli.tools.exports.results import write_lines
from drpo_cli.tools.own_process import answer, run_apart
from drpo_cli.types import Group, Prompt, Scores

if TYPE_CHECKING:
    from torch import Tensor

ENDS = {
    "generation_config.json": ("eos_token_id",),
    "tokenizer_config.json": ("eos_token", "added_tokens_decoder"),
    "tokenizer.json": ("added_tokens",),
}
"""Where a model names its ends of sequence and special tokens, which an engine knows from its start
on."""
OF_REQUESTS = {"max_new_tokens", "prompts_per_step", "samples_per_prompt"}
"""Options of `[rollout]` that no engine has: each request has its own length."""
OF_THE_FILE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
"""Keys of a configuration that say nothing about the model."""


@dataclass(frozen=True)
class Job:
    """A model that is scored on the held-out problems of a spec.

    spec    the spec's file
    model   the name of a model of the hub, or the folder of weights
    target  where these came from, as the user named it
    folder  where its responses are kept; empty for nowhere
    lines   the file that hands its scored responses to the writers of logs; empty for none
    """

    spec: str
    model: str
    target: str
    folder: str = ""
    lines: str = ""


@dataclass(frozen=True)
class Scored:
    """What a job gave: an evaluation, or None for a shard.

    seconds  how long it took
    began    when, in seconds since 1970
    """

    evaluation: Evaluation | None
    seconds: float
    began: float = 0.0


def score_jobs(
    jobs: Sequence[Job],
    samples: int | None,
    shard: Shard | None,
    begin: Callable[[Sequence[Job]], None] = lambda jobs: None,
    end: Callable[[Job, Scored], None] = lambda job, scored: None,
) -> list[Scored]:
    """The results in the order of the jobs.

    `begin` is called with the jobs of each engine before it starts, `end` with each of them after
    all are scored. Raises UserError for what keeps one from being scored.
    """
    found: dict[Job, Scored] = {}
    for group in share_engines(jobs):
        begin(group)
        request = {"jobs": [asdict(job) for job in group], "samples": samples}
        text = run_apart("drpo_cli.tools.scoring", json.dumps(request), shard or "")
        for job, (evaluation, seconds, began) in zip(group, json.loads(text), strict=True):
            made = None if evaluation is None else Evaluation.from_json(evaluation)
            found[job] = Scored(made, seconds, began)
            end(job, found[job])
    return [found[job] for job in jobs]


def share_engines(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in groups that can share an engine; those of one model are neighbours."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_engine_of(job), []).append(job)
    for group in groups.values():
        models = [job.model for job in group]
        group.sort(key=lambda job: models.index(job.model))
    return list(groups.values())


def _engine_of(job: Job) -> str:
    """What the engine of a job depends on, besides weights."""
    spec, folder = load(Path(job.spec)), Path(job.model)
    options = spec.rollout.config.model_dump(mode="json", exclude=OF_REQUESTS)
    asked = [spec.rollout.type, options, spec.model.dtype, spec.model.trust_remote_code]
    config = _read(folder / "config.json")
    if not _can_be_pushed(folder) or "quantization_config" in config:
        return json.dumps([*asked, job.model])  # other tensors than an engine takes
    kept = {name: value for name, value in config.items() if name not in OF_THE_FILE}
    ends = {name: [_read(folder / name).get(key) for key in keys] for name, keys in ENDS.items()}
    return json.dumps([*asked, kept, ends], sort_keys=True)


def _can_be_pushed(folder: Path) -> bool:
    """Whether its weights are in files that can be read one tensor at a time."""
    if not folder.is_dir() or find_broken_weights(folder) is not None:
        return False
    return all(path.suffix == ".safetensors" for path in weight_files(folder))


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a model; empty without one. What is wrong with it is said where it is used."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Engines:
    """The engine of this process: started for the first model, and given the weights of others."""

    def __init__(self) -> None:
        self._engine: EngineProtocol | None = None
        self._model = ""

    def take(self, plan: Plan) -> EngineProtocol:
        """An engine with the plan's model. Raises UserError for one that it cannot run."""
        model = plan.spec.model.path
        if model != self._model and not self._takes_weights(plan):
            self.close()
        self._engine, self._model = self._engine or assemble.lone_engine(plan), model
        return self._engine

    def _takes_weights(self, plan: Plan) -> bool:
        """Whether the engine that runs could be given the plan's model."""
        if self._engine is None or not self._engine.checkpoint_names:
            return False
        pretrained.check(plan.spec.model, "model.path")
        try:
            self._engine.load_weights(_read_weights(plan))
        except UserError:  # gpt-oss on a CPU, whose experts take no new weights
            return False
        return True

    def close(self) -> None:
        """Stops the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None


def _read_weights(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model's folder, in the engine's dtype."""
    from safetensors import safe_open

    precision = assemble.precision(plan.spec)
    for path in weight_files(Path(plan.spec.model.path)):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name)
                number = tensor.is_floating_point()
                yield name, precision.convert(name, tensor) if number else tensor


def score(
    job: Job, samples: int | None, shard: Shard | None, engines: Engines
) -> Evaluation | None:
    """Samples and scores the spec's held-out problems; a shard is only sampled: None."""
    spec = load(Path(job.spec))
    spec = replace(spec, model=spec.model.model_copy(update={"path": job.model}))
    plan = lone_plan(spec)
    tokenizer = assemble.tokenizer(spec.model)
    held_out = assemble.held_out(plan, tokenizer)
    sampling = eval_sampling(spec, samples)
    keep = Keep(Path(job.folder), shard) if job.folder else None
    if keep is not None:
        open_folder(keep, _conditions(spec, sampling))
    player = assemble.player(plan, tokenizer)
    with Grader(spec.reward, spec.environment) as grader, player or nullcontext():
        # with kept responses, the engine starts only if one is missing; not in an episode, though
        engine = (
            engines.take(plan)
            if keep is None
            else KeptResponses(lambda: engines.take(plan), keep, now=player is not None)
        )
        if keep is not None and keep.shard is not None:
            sample_or_play(engine, player, keep.shard.share(held_out), sampling)
            return None
        groups_P, scores_P = score_held_out(
            engine, player, grader, held_out, sampling, None, step=0
        )
    if keep is not None:
        _write_samples(keep.folder / SAMPLES, groups_P, scores_P)
    if job.lines:
        write_lines(Path(job.lines), groups_P, scores_P)
    results_P = problem_results(groups_P, scores_P)
    found = summarise(results_P, spec.eval.threshold, count_unscored(scores_P))
    return replace(found, chosen_of=count_choices(Path(job.target), held_out, spec))


def _conditions(spec: Spec, sampling: Sampling) -> dict[str, Any]:
    """What responses depend on, besides their prompts, seeds and lengths."""
    rollout, model = spec.rollout.config, Path(spec.model.path)
    return {
        "weights": digest_weights(model) if model.is_dir() else spec.model.path,
        "rollout.engine": spec.rollout.type,
        "rollout.dtype": rollout.dtype or spec.model.dtype,
        "rollout.head_dtype": rollout.head_dtype,
        "rollout.stop": rollout.stop,
        "rollout.stop_token_ids": rollout.stop_token_ids,
        "eval.temperature": sampling.temperature,
        "eval.top_p": sampling.top_p,
        "eval.top_k": sampling.top_k,
    }


def _write_samples(path: Path, groups_P: Sequence[Group], scores_P: Sequence[Scores]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    lines = Records(partial)
    for group, scores in zip(groups_P, scores_P, strict=True):
        lines.extend(group_records(0, group, scores))
    partial.replace(path)


def count_choices(target: Path, held_out: Sequence[Prompt], spec: Spec) -> int:
    """The evaluations on these problems of which the target had the highest score; else 0.

    The target is a checkpoint, or a model that was exported from one and is scored by `spec`.
    """
    if (found := choice.of_checkpoint(target)) is not None:
        try:
            spec = open_run(target.resolve().parent.parent).load_spec()
        except UserError:  # a spec of an older version
            return 0
    else:
        found = choice.of_model(target)
    same = found is not None and problems_id(spec, held_out) == found.problems
    return found.evaluations if found is not None and same else 0


def _main(request: str, shard: str) -> str:
    given, engines, done = json.loads(request), Engines(), []
    for values in given["jobs"]:
        began, start = time.time(), time.perf_counter()
        part = Shard.parse(shard) if shard else None
        found = score(Job(**values), given["samples"], part, engines)
        seconds = time.perf_counter() - start
        done.append((None if found is None else found.to_json(), seconds, began))
    engines.close()
    return json.dumps(done)


if __name__ == "__main__":
    sys.exit(answer(_main))
