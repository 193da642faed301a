"""`drpo eval`: scores runs, checkpoints, models and adapters on the same held-out problems."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from drpo_cli import suites
from drpo_cli.console import open_console
from drpo_cli.data.pipeline.overlap import WORDS, Overlap, find_overlap
from drpo_cli.data.pipeline.split import split
from drpo_cli.errors import UserError
from drpo_cli.evaluate import compare
from drpo_cli.evaluate.metrics import Evaluation, summarise
from drpo_cli.evaluate.results import problem_results
from drpo_cli.model_folder import ADAPTER_CONFIG, NAME_ONE, find_wrong_kind
from drpo_cli.plan import Plan, lone_plan
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.rollout.engine.protocol import EngineProtocol, Sampler, Sampling
from drpo_cli.runs.checkpoints import MARKER
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.runs.records import Records
from drpo_cli.runs.saved import open_run
from drpo_cli.spec import Spec, dump, load
from drpo_cli.step import build as assemble
from drpo_cli.step import checkpoint, choice
from drpo_cli.step.evaluate import count_unscored, eval_sampling, problems_id, score_held_out
from drpo_cli.step.kept import (
    SAMPLES,
    Keep,
    KeptResponses,
    Shard,
    digest_weights,
    folder_name,
    open_folder,
)
from drpo_cli.step.play import sample_or_play
from drpo_cli.step.samples import sample_record
from drpo_cli.suites import Suite
from drpo_cli.tools import published
from drpo_cli.tools.own_process import answer, run_apart
from drpo_cli.types import Group, Prompt, Scores

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OWN = "held-out"
"""The folder, beside those of suites, of responses to a spec's own problems."""


class How(NamedTuple):
    """How many responses are sampled, and where they are kept.

    samples  to each problem; None: what the spec says
    out      the folder of kept responses, if any
    shard    sample only these problems, and score nothing
    """

    samples: int | None = None
    out: Path | None = None
    shard: Shard | None = None

    @staticmethod
    def read(samples: int | None, out: Path | None, shard: str | None) -> How:
        """What the options of the command say. Raises UserError."""
        if shard is not None and out is None:
            raise UserError("--shard: has nowhere to keep responses", "add --out FOLDER")
        return How(samples, out, None if shard is None else Shard.parse(shard))

    @property
    def verb(self) -> str:
        """What is done with a target."""
        return "scoring" if self.shard is None else "sampling responses of"

    @property
    def next_step(self) -> str:
        """What to do after a shard."""
        return f"shard {self.shard} is sampled; with all of them, --out {self.out} alone scores"

    def folder(self, name: str, target: str) -> str:
        """Where the responses of a target to the problems `name` are kept; empty for nowhere."""
        if self.out is None:
            return ""
        return str((self.out / name / folder_name(target)).absolute())


ONCE = How()
"""As the spec says, with nothing kept."""


def evaluate(
    targets: Sequence[str], spec_path: Path | None, json_out: Path | None, how: How
) -> int:
    """Scores each target and prints the comparison; returns the exit code."""
    console = open_console()

    def show(target: str) -> None:
        console.print(f"{how.verb} {describe(target)} …", soft_wrap=True)

    spec_path = spec_path or _find_spec(targets)
    if how.shard is not None:
        score_targets(targets, spec_path, how, show)
        console.print(how.next_step)
        return 0
    spec = load(spec_path)
    overlap = find_overlap(split(spec.data, spec.eval_data, spec.eval.problems, spec.eval.overlap))
    found = score_targets(targets, spec_path, how, show)
    console.print(compare.render(found))
    if overlap.shared:
        console.print(describe_overlap(overlap))
    if json_out is not None:
        values = compare.as_dict(found) | {"overlap": asdict(overlap)}
        write_whole(json_out, json.dumps(values, indent=1))
    for target in targets:
        if (page := RunFolder(Path(target)).report).is_file():
            console.print(f"report: {page}", soft_wrap=True)
    return 0


def evaluate_suites(
    targets: Sequence[str],
    names: Sequence[str],
    json_out: Path | None,
    how: How,
    overrides: Sequence[str] = (),
    data: Mapping[str, Path] | None = None,
) -> int:
    """Scores each target on named suites and prints a comparison for each; returns the exit code.

    data  local copies of problems, by the suite's name
    """
    console = open_console()
    data = data or {}
    if unknown := [name for name in data if name not in names]:
        raise UserError(
            f"--suite-path {unknown[0]}=…: is not among the suites",
            f"name one of {', '.join(names)}",
        )
    loaded = [suites.load(name, targets[0], overrides, data.get(name)) for name in names]
    if twice := [name for name, count in Counter(one.name for one in loaded).items() if count > 1]:
        raise UserError(f"--suite: two are called {twice[0]}", "rename the file of one of them")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="drpo-suite-") as scratch:
        for suite in loaded:
            path = Path(scratch, f"{suite.name}.toml")
            path.write_text(dump(suite.spec), encoding="utf-8")

            def show(target: str, suite: Suite = suite) -> None:
                text = f"{suite.about.title}: {how.verb} {describe(target)} …"
                console.print(text, soft_wrap=True)

            found = score_targets(targets, path, how, show, suite.name)
            if how.shard is not None:
                continue
            console.print(published.render(suite, found))
            results[suite.name] = published.as_dict(suite, found)
    if how.shard is not None:
        console.print(how.next_step)
    elif json_out is not None:
        write_whole(json_out, json.dumps({"suites": results}, indent=1))
    return 0


def describe_overlap(found: Overlap) -> str:
    """One sentence about held-out problems whose words come again in training prompts."""
    held_out, train = found.pairs[0]
    return (
        f"{found.shared} of {found.problems} held-out problems share {WORDS} words in a row, or "
        f"all their words, with a training prompt of the spec, such as {held_out} with {train}; "
        f"{found.same} are the same but for case, space and punctuation"
    )


def score_targets(
    targets: Sequence[str],
    spec_path: Path | None,
    how: How = ONCE,
    begin: Callable[[str], None] = lambda target: None,
    name: str = OWN,
) -> dict[str, Evaluation]:
    """Scores each target, one after the other; `begin` is called with each before it is scored.

    A run folder stands for its newest checkpoint. The checkpoint with the best held-out score would
    be chosen on the same problems that it is judged on. Without `spec_path`, the spec is that of
    the first target that belongs to a run. A shard is sampled, and has no scores. `name` is that of
    the problems. Raises UserError for a target that is neither a run folder, nor a checkpoint, nor
    a model folder, nor may be a model of the hub.
    """
    spec_path = spec_path or _find_spec(targets)
    found: dict[str, Evaluation] = {}
    with tempfile.TemporaryDirectory(prefix="drpo-eval-") as scratch:
        for i, target in enumerate(targets):
            begin(target)
            dtype = load(spec_path).model.dtype
            model = target
            if not is_of_hub(target):
                model = str(prepare_weights(Path(target), Path(scratch) / str(i), dtype))
            words = (spec_path, model, target, how.samples or "", how.folder(name, target))
            text = run_apart("drpo_cli.tools.evaluate", *words, how.shard or "")
            if text:
                found[target] = Evaluation.from_json(text)
    return found


def score(
    spec_path: Path, model: str, samples: int | None, target: Path, keep: Keep | None = None
) -> Evaluation | None:
    """Samples and scores the spec's held-out problems; a shard is only sampled: None.

    model   the name of a model of the hub, or the folder of weights
    target  where they came from
    """
    spec = load(spec_path)
    spec = replace(spec, model=spec.model.model_copy(update={"path": model}))
    plan = lone_plan(spec)
    tokenizer = assemble.tokenizer(spec.model)
    held_out = assemble.held_out(plan, tokenizer)
    sampling = eval_sampling(spec, samples)
    if keep is not None:
        open_folder(keep, _conditions(spec, sampling))
    player = assemble.player(plan, tokenizer)
    with (
        Grader(spec.reward, spec.environment) as grader,
        player or nullcontext(),
        _open_engine(plan, keep, now=player is not None) as engine,
    ):
        if keep is not None and keep.shard is not None:
            sample_or_play(engine, player, keep.shard.share(held_out), sampling)
            return None
        groups_P, scores_P = score_held_out(
            engine, player, grader, held_out, sampling, None, step=0
        )
    if keep is not None:
        _write_samples(keep.folder / SAMPLES, groups_P, scores_P)
    results_P = problem_results(groups_P, scores_P)
    found = summarise(results_P, spec.eval.threshold, count_unscored(scores_P))
    return replace(found, chosen_of=count_choices(target, held_out, spec))


@contextmanager
def _open_engine(plan: Plan, keep: Keep | None, now: bool) -> Iterator[Sampler]:
    """The engine; with kept responses, started only if one is missing, or `now`."""
    if keep is None:
        engine: EngineProtocol | KeptResponses = assemble.lone_engine(plan)
    else:
        engine = KeptResponses(lambda: assemble.lone_engine(plan), keep)
        if now:
            engine.start()
    yield engine
    engine.close()


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
        totals = [None if i in scores.skipped else total for i, total in enumerate(scores.total_G)]
        lines.extend(
            sample_record(0, group, scores, i, totals[i]) for i in range(len(group.rollouts_G))
        )
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


def _main(spec: str, model: str, target: str, samples: str, folder: str, shard: str) -> str:
    keep = Keep(Path(folder), Shard.parse(shard) if shard else None) if folder else None
    found = score(Path(spec), model, int(samples) if samples else None, Path(target), keep)
    return "" if found is None else found.to_json()


def _find_spec(targets: Sequence[str]) -> Path:
    """The spec of the first target that belongs to a run."""
    for target in targets:
        path = Path(target).resolve()
        for folder in (path, *path.parents[:2]):
            if RunFolder(folder).exists():
                return RunFolder(folder).spec
    raise UserError(
        f"none of {', '.join(targets)} is a run folder or one of its checkpoints, so no spec says "
        "what to evaluate",
        "give --spec RUN.toml",
    )


def is_of_hub(target: str) -> bool:
    """Whether a target can only be a model of the hub: `owner/model`, and no folder `owner`."""
    return HUB_ID.fullmatch(target) is not None and not Path(target).parent.exists()


def describe(target: str) -> str:
    """A target for people: a mistyped folder may look like a name of the hub."""
    where = " (no folder here, so a model of the hub)" if is_of_hub(target) else ""
    return f"{target}{where}"


def prepare_weights(target: Path, scratch: Path, dtype: str) -> Path:
    """The Hugging Face folder of the target's weights.

    A checkpoint is exported to `scratch`, and an adapter is merged there, in `dtype`.
    """
    is_model = (target / "config.json").is_file()
    is_adapter = (target / ADAPTER_CONFIG).is_file()
    if is_adapter or (target / MARKER).is_file() or (RunFolder(target).exists() and not is_model):
        checkpoint.export(target, scratch, merged=True, dtype=dtype)
        return scratch
    if finding := find_wrong_kind(target):
        is_unknown = finding.fix == NAME_ONE
        fix = "name a run folder, a checkpoint or a model folder" if is_unknown else finding.fix
        raise UserError(finding.what, fix)
    return target.resolve()


if __name__ == "__main__":
    sys.exit(answer(_main))
