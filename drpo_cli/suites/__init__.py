"""Named evaluation suites: the problems, prompt, scorer and sampling behind a published score.

The folder is the registry: `drpo eval MODEL --suite aime24` reads `aime24.toml` beside this file,
and `--suite ./mine.toml` a file of the user's. A suite is a spec without `[run]` and `[model]`,
plus a section `[suite]`. All its `[[data]]` are problems, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import Field, ValidationError

from drpo_cli.errors import UserError
from drpo_cli.settings import SUITE_FILES, Count, EvalSuiteSettings, Settings
from drpo_cli.spec import Spec, load_text
from drpo_cli.spec.model import SUITES
from drpo_cli.spec.overrides import to_toml
from drpo_cli.spec.problems import Problem, key_text
from drpo_cli.spec.text import read_text

SECTION = "suite"
OF_THE_HUB = ("name", "revision", "split", "file")
"""Options of a data set that a file does not have."""
NOT_IN_A_RUN = ("model", "rollout", "environment", "train")
"""Sections of a suite that a run has its own of."""


class Published(Settings):
    """A score that others published for a model."""

    model: str
    score: Annotated[float, Field(ge=0, le=100)]
    """In percent."""
    settings: str
    """How it was measured, as its source says."""
    source: str
    """The paper or model card."""


class SuiteSettings(Settings):
    """What a suite is."""

    title: str
    source: str
    """Where its problems come from."""
    licence: str
    problems: Count
    """How many it has."""
    published: tuple[Published, ...] = Field(default=(), strict=False)
    """Scores to compare with."""


@dataclass(frozen=True)
class Suite:
    """A suite, ready to be evaluated: `spec` has its problems as `data`."""

    name: str
    about: SuiteSettings
    spec: Spec


def available() -> list[str]:
    """The names of the built-in suites."""
    return sorted(path.stem for path in SUITE_FILES.glob("*.toml"))


def load(name: str, model: str, overrides: Sequence[str] = (), data: Path | None = None) -> Suite:
    """Loads a built-in suite by its name, or another by the path of its file.

    model  path of the model that the spec names
    data   a file or folder that has the problems, in place of the data set of the hub

    Raises UserError for a suite that does not exist or is wrong.
    """
    path = Path(name) if name.endswith(".toml") else SUITE_FILES / f"{name}.toml"
    if not name.endswith(".toml") and not path.is_file():
        raise UserError(
            f"--suite {name}: there is no such suite",
            f"name one of {', '.join(available())}, or a file of your own: ./{name}.toml",
        )
    text = read_text(path)
    own = [f"model.path={to_toml(model)}", "run.name=suite", "run.steps=1"]
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        document = {}  # the loader says where
    if data is not None:
        own.append(f"data[0]={to_toml(_read_from(data, _first_source(document)))}")
    spec = load_text(text, path, [*own, *overrides], others=(SECTION,))
    about = _read_about(path, document)
    evaluation = spec.eval.model_copy(update={"problems": about.problems})
    longest = spec.eval.max_new_tokens or spec.rollout.config.max_new_tokens
    rollout = spec.rollout.config.model_copy(update={"max_new_tokens": longest})
    spec = replace(spec, eval=evaluation, rollout=replace(spec.rollout, config=rollout))
    return Suite(path.stem, about, spec)


def of_run(run: Spec) -> list[Suite]:
    """The suites of `[[eval.suite]]`, with the options that the run has for them.

    Raises UserError for one that is wrong, or that has sections which a run has its own of.
    """
    found = []
    for index, suite in enumerate(run.eval_suites):
        try:
            found.append(_load_for(run, suite))
        except UserError as error:
            raise UserError(f"{key_text((*SUITES, index))}: {error}") from error
    return found


def find_errors(run: Spec) -> Iterator[Problem]:
    """A rule: the suites of a run can be loaded."""
    for index, suite in enumerate(run.eval_suites):
        try:
            _load_for(run, suite)
        except UserError as error:
            yield Problem((*SUITES, index), str(error))


def _load_for(run: Spec, suite: EvalSuiteSettings) -> Suite:
    if suite.path is not None and not suite.path.exists():
        raise UserError(f"path: there is no file or folder {suite.path}")
    own = {"samples_per_prompt": suite.samples_per_prompt, "max_new_tokens": suite.max_new_tokens}
    changes = [f"eval.{key}={value}" for key, value in own.items() if value is not None]
    found = load(suite.name, run.model.path, changes, suite.path)
    stated = tomli.loads(read_text(found.spec.path))
    if wrong := [f"[{section}]" for section in NOT_IN_A_RUN if section in stated]:
        raise UserError(
            f"{found.spec.path} has {' and '.join(wrong)}, and a run has its own",
            "remove it, or score checkpoints with `drpo eval --suite`",
        )
    whole = found.about.problems
    if suite.problems is not None and suite.problems > whole:
        raise UserError(f"problems: is {suite.problems}, and the suite has {whole}", "remove it")
    evaluation = found.spec.eval.model_copy(update={"problems": suite.problems or whole})
    return replace(found, spec=replace(found.spec, eval=evaluation))


def _read_about(path: Path, document: Mapping[str, Any]) -> SuiteSettings:
    if not isinstance(table := document.get(SECTION), dict):
        raise UserError(f"{path}: has no section [{SECTION}]", "say in it what the suite is")
    try:
        return SuiteSettings.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (SECTION, *first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}") from error


def _first_source(document: Mapping[str, Any]) -> Mapping[str, Any]:
    sources = document.get("data")
    first = sources[0] if isinstance(sources, list) and sources else {}
    return first if isinstance(first, dict) else {}


def _read_from(path: Path, source: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a source with the rows of a local copy."""
    if not path.exists():
        raise UserError(f"--suite-path: there is no file or folder {path}")
    dropped = OF_THE_HUB if path.is_file() else ("revision", "file")
    kept = {key: value for key, value in source.items() if key not in dropped}
    return kept | {"path": str(path.absolute())}
