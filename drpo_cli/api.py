"""The Python API: what the verbs do, for scripts and notebooks. Import it from `drpo_cli`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drpo_cli.runs.saved import open_run
from drpo_cli.spec import Spec, dump, load_text
from drpo_cli.spec import load as load_file

if TYPE_CHECKING:
    from drpo_cli.evaluate.metrics import Evaluation

__all__ = ["RunResult", "evaluate", "load", "open_run", "train"]


@dataclass(frozen=True)
class RunResult:
    """How a training run ended.

    folder       the run's folder; `open_run(folder)` reads what is in it
    exit_code    0 when it finished, 128 + n when signal n stopped it, else why it failed (1 a bug,
                 2 a mistake that the user can fix)
    exit_reason  "finished", "stopped" or "failed"
    final_score  the newest held-out avg@k in [0, 1]; None if there is none
    message      how it ended, in words: for example why it failed
    """

    folder: Path
    exit_code: int
    exit_reason: str
    final_score: float | None
    message: str


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Spec:
    """Loads and validates a spec.

    source     the path of a TOML file, or the same content as a dict of tables; relative paths in
               a dict count from the current folder
    overrides  changes on top, as for `--set`: `"train.learning_rate=1e-4"`

    Raises SpecError with everything that is wrong.
    """
    if not isinstance(source, Mapping):
        return load_file(Path(source), overrides)
    import tomli_w

    return load_text(tomli_w.dumps(source), Path("spec"), overrides)


def train(
    spec: Spec,
    *,
    resume: bool = False,
    nproc: int | None = None,
    origin: str | None = None,
    keep: Sequence[str] = (),
) -> RunResult:
    """Trains on this machine until the run ends, as `drpo train` does.

    resume  continue from the newest checkpoint of the run's folder, if there is one
    nproc   processes, one per device; by default one per GPU, or one on a CPU
    origin  begin with the weights of another run: `RUN`, `RUN@STEP`, or a checkpoint
    keep    what else to take over from there: `optimizer`, `data`

    The run is processes of its own: this one only starts and watches them. Must be called from the
    main thread, since it handles signals as the verb does: an interrupt finishes the step and
    saves. Raises UserError for what is wrong before the processes start; what goes wrong after that
    is in the result.
    """
    from drpo_cli.launch.launcher import train as launch
    from drpo_cli.launch.origin import Origin
    from drpo_cli.terminal import open_missing_streams

    open_missing_streams()
    code = launch(spec, resume, nproc, origin=Origin.read(origin, keep))
    run = open_run(spec.run.folder / spec.run.name)
    ended = [event["text"] for event in run.events if "state" in event]
    return RunResult(run.folder.path, code, run.state, run.final_score, ended[-1])


def evaluate(
    targets: str | Path | Sequence[str | Path],
    spec: Spec | str | Path | None = None,
    *,
    samples: int | None = None,
    out: Path | None = None,
) -> dict[str, Evaluation]:
    """Scores run folders, checkpoints and model folders on the same held-out problems.

    targets  one or several; a run folder stands for its newest checkpoint
    spec     says what to evaluate on; by default the spec of the first target that is of a run;
             that of a named suite is `drpo_cli.suites.load("aime24", model).spec`
    samples  responses per problem, in place of `eval.samples_per_prompt`
    out      folder that keeps every response, so that the same call continues after a kill

    Returns each target's evaluation by its name. Raises UserError for a target that is none of the
    three.
    """
    from drpo_cli.tools.evaluate import How, score_targets

    chosen = [targets] if isinstance(targets, str | Path) else targets
    names = [str(target) for target in chosen]
    if not isinstance(spec, Spec):
        return score_targets(names, None if spec is None else Path(spec), How(samples, out))
    with tempfile.TemporaryDirectory(prefix="drpo-spec-") as folder:
        path = Path(folder) / "run.toml"
        path.write_text(dump(spec), encoding="utf-8")
        return score_targets(names, path, How(samples, out))
