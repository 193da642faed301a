"""`drpo eval`: scores runs, checkpoints, models and adapters on the same held-out problems."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from drpo_cli import suites
from drpo_cli.console import open_console
from drpo_cli.data.pipeline.overlap import WORDS, Overlap, find_overlap
from drpo_cli.data.pipeline.rows import open_sources
from drpo_cli.data.pipeline.split import split
from drpo_cli.errors import UserError
from drpo_cli.evaluate import compare
from drpo_cli.evaluate.metrics import Evaluation
from drpo_cli.model_folder import ADAPTER_CONFIG, NAME_ONE, find_wrong_kind
from drpo_cli.runs.checkpoints import MARKER
from drpo_cli.runs.folder import RunFolder, write_whole
from drpo_cli.spec import dump, load
from drpo_cli.step import build, checkpoint
from drpo_cli.step.kept import Shard, folder_name
from drpo_cli.suites import Suite
from drpo_cli.tools import published
from drpo_cli.tools.exports.logs import Exports
from drpo_cli.tools.exports.results import Result
from drpo_cli.tools.scoring import Job, Scored, score_jobs

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OWN = "held-out"
"""The folder, beside those of suites, of responses to a spec's own problems."""


class How(NamedTuple):
    """How many responses are sampled, where they are kept, and which logs have them.

    samples  to each problem; None: what the spec says
    out      the folder of kept responses, if any
    shard    sample only these problems, and score nothing
    exports  the logs to write for other tools, if any
    """

    samples: int | None = None
    out: Path | None = None
    shard: Shard | None = None
    exports: Exports | None = None

    @staticmethod
    def read(
        samples: int | None, out: Path | None, shard: str | None, exports: Sequence[str] = ()
    ) -> How:
        """What the options of the command say. Raises UserError."""
        if shard is not None and out is None:
            raise UserError("--shard: has nowhere to keep responses", "add --out FOLDER")
        if shard is not None and exports:
            what = "--export: has no effect with --shard, which scores nothing"
            raise UserError(what, "remove it")
        part = None if shard is None else Shard.parse(shard)
        return How(samples, out, part, Exports.read(exports))

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

    def lines(self) -> str:
        """The file of a job's responses, for logs; empty for none."""
        return "" if self.exports is None else self.exports.new_file()

    def export(self, console: Console) -> None:
        """Writes the logs, and says where they are."""
        for text in () if self.exports is None else self.exports.write():
            console.print(text, soft_wrap=True, markup=False, highlight=False)


ONCE = How()
"""As the spec says, with nothing kept."""


class Told(NamedTuple):
    """Says what is scored, and how long it took.

    suites  by the file of their spec
    """

    console: Console
    how: How
    suites: Mapping[str, Suite] = {}

    def begin(self, jobs: Sequence[Job]) -> None:
        """Names the jobs of an engine before it starts."""
        for i, job in enumerate(jobs):
            same = "" if i == 0 else ", with the same engine"
            self._print(f"{self.how.verb} {self._name(job)}{same} …")

    def end(self, job: Job, scored: Scored) -> None:
        """Says how long a job took."""
        self._print(f"{self._name(job)}: {scored.seconds:.1f} s")

    def _name(self, job: Job) -> str:
        suite = self.suites.get(job.spec)
        return describe(job.target) + ("" if suite is None else f" on {suite.about.title}")

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def evaluate(
    targets: Sequence[str], spec_path: Path | None, json_out: Path | None, how: How
) -> int:
    """Scores each target and prints the comparison; returns the exit code."""
    console = open_console()
    told = Told(console, how)
    spec_path = spec_path or _find_spec(targets)
    if how.shard is not None:
        score_targets(targets, spec_path, how, told.begin, told.end)
        console.print(how.next_step)
        return 0
    spec = load(spec_path)
    overlap = find_overlap(split(spec.data, spec.eval_data, spec.eval.problems, spec.eval.overlap))
    found = score_targets(targets, spec_path, how, told.begin, told.end)
    console.print(compare.render(found))
    if overlap.shared:
        console.print(describe_overlap(overlap))
    if json_out is not None:
        values = compare.as_dict(found) | {"overlap": asdict(overlap)}
        write_whole(json_out, json.dumps(values, indent=1))
    how.export(console)
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
    with tempfile.TemporaryDirectory(prefix="drpo-suite-") as scratch:
        specs = {suite.name: Path(scratch, f"{suite.name}.toml") for suite in loaded}
        for suite in loaded:
            specs[suite.name].write_text(dump(suite.spec), encoding="utf-8")
        told = Told(console, how, {str(specs[suite.name]): suite for suite in loaded})
        found = _score(specs, targets, how, told.begin, told.end)
    if how.shard is not None:
        console.print(how.next_step)
        return 0
    results = {suite.name: published.as_dict(suite, found[suite.name]) for suite in loaded}
    overlaps = _compare_with_training(loaded, targets, console)
    for suite in loaded:
        console.print(published.render(suite, found[suite.name]))
        if overlap := overlaps.get(suite.name):
            results[suite.name]["overlap"] = asdict(overlap)
            if overlap.shared:
                console.print(describe_overlap(overlap, "the run"))
    if json_out is not None:
        write_whole(json_out, json.dumps({"suites": results}, indent=1))
    how.export(console)
    return 0


def _compare_with_training(
    loaded: Sequence[Suite], targets: Sequence[str], console: Console
) -> dict[str, Overlap]:
    """The overlap of each suite with what the first target that belongs to a run was trained on.

    Empty if none does, or if its data cannot be read any more, which is said.
    """
    found: dict[str, Overlap] = {}
    if (path := _find_run(targets)) is None:
        return found
    try:
        run = load(path)
        left_out = build.suite_rows(suites.of_run(run))
        trained = split(run.data, run.eval_data, run.eval.problems, "drop", left_out)
        sources = [*trained.sources, *open_sources(run.sft_data)]
        for name, rows in build.suite_rows(loaded).items():
            found[name] = find_overlap(replace(trained, sources=sources, held_out_rows=rows))
    except UserError as error:
        text = f"the suites are not compared with the training data: {error}"
        console.print(text, soft_wrap=True, markup=False, highlight=False)
    return found


def describe_overlap(found: Overlap, whose: str = "the spec") -> str:
    """One sentence about held-out problems whose words come again in training prompts."""
    held_out, train = found.pairs[0]
    return (
        f"{found.shared} of {found.problems} held-out problems share {WORDS} words in a row, or "
        f"all their words, with a training prompt of {whose}, such as {held_out} with {train}; "
        f"{found.same} are the same but for case, space and punctuation"
    )


def score_targets(
    targets: Sequence[str],
    spec_path: Path | None,
    how: How = ONCE,
    begin: Callable[[Sequence[Job]], None] = lambda jobs: None,
    end: Callable[[Job, Scored], None] = lambda job, scored: None,
) -> dict[str, Evaluation]:
    """Scores each target; `begin` and `end` are those of `score_jobs`.

    A run folder stands for its newest checkpoint. The checkpoint with the best held-out score would
    be chosen on the same problems that it is judged on. Without `spec_path`, the spec is that of
    the first target that belongs to a run. A shard is sampled, and has no scores. Raises UserError
    for a target that is neither a run folder, nor a checkpoint, nor a model folder, nor may be a
    model of the hub.
    """
    spec_path = spec_path or _find_spec(targets)
    found = _score({OWN: spec_path}, targets, how, begin, end)
    return found[OWN]


def _score(
    specs: Mapping[str, Path],
    targets: Sequence[str],
    how: How,
    begin: Callable[[Sequence[Job]], None],
    end: Callable[[Job, Scored], None],
) -> dict[str, dict[str, Evaluation]]:
    """The evaluation of each target on the problems of each spec, by their names."""
    with tempfile.TemporaryDirectory(prefix="drpo-eval-") as scratch:
        dtype = load(next(iter(specs.values()))).model.dtype
        models = {
            target: target
            if is_of_hub(target)
            else str(prepare_weights(Path(target), Path(scratch, str(i)), dtype))
            for i, target in enumerate(targets)
        }
        jobs = {
            (name, target): Job(str(spec), model, target, how.folder(name, target), how.lines())
            for name, spec in specs.items()
            for target, model in models.items()
        }
        scored = score_jobs([*jobs.values()], how.samples, how.shard, begin, end)
    found: dict[str, dict[str, Evaluation]] = {name: {} for name in specs}
    for (name, target), one in zip(jobs, scored, strict=True):
        if one.evaluation is not None:
            found[name][target] = one.evaluation
            if how.exports is not None:
                how.exports.add(_result(name, jobs[name, target], one, one.evaluation))
    return found


def _result(name: str, job: Job, scored: Scored, found: Evaluation) -> Result:
    """What the logs say of a job."""
    spec, lines = load(Path(job.spec)), Path(job.lines)
    whole = len(found.problems) if name == OWN else spec.eval.problems
    return Result(name, job.target, spec, found, whole, lines, scored.began, scored.seconds)


def _find_run(targets: Sequence[str]) -> Path | None:
    """The spec of the first target that belongs to a run, if one does."""
    for target in targets:
        path = Path(target).resolve()
        for folder in (path, *path.parents[:2]):
            if RunFolder(folder).exists():
                return RunFolder(folder).spec
    return None


def _find_spec(targets: Sequence[str]) -> Path:
    if (found := _find_run(targets)) is not None:
        return found
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
