"""Named evaluation suites: the problems, prompt, scorer and sampling behind a published score.

The folder is the registry: `drpo eval MODEL --suite aime24` reads `aime24.toml` beside this file,
and `--suite ./mine.toml` a file of the user's. A suite is a spec without `[run]` and `[model]`,
plus a section `[suite]`. All its `[[data]]` are problems, and nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tomli
from pydantic import Field, ValidationError

from drpo_cli.errors import UserError
from drpo_cli.settings import Count, Settings
from drpo_cli.spec import Spec, load_text
from drpo_cli.spec.loading import read_text
from drpo_cli.spec.overrides import to_toml

FOLDER = Path(__file__).parent
SECTION = "suite"
OF_THE_HUB = ("name", "revision", "split")
"""Options of a data set that a file does not have."""


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
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, model: str, overrides: Sequence[str] = (), data: Path | None = None) -> Suite:
    """Loads a built-in suite by its name, or another by the path of its file.

    model  path of the model that the spec names
    data   a file or folder that has the problems, in place of the data set of the hub

    Raises UserError for a suite that does not exist or is wrong.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
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
    dropped = OF_THE_HUB if path.is_file() else ("revision",)
    kept = {key: value for key, value in source.items() if key not in dropped}
    return kept | {"path": str(path.absolute())}
