"""The JSON Schema of the spec: it is valid and complete, and agrees with the loader."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pytest
import tomli
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from drpo_cli import plugins
from drpo_cli.settings import Settings
from drpo_cli.spec import SpecError, load, overrides, presets, schema
from drpo_cli.spec.model import CHOICES, LISTS, ORDER, SECTIONS
from support.command import drpo
from support.specs import SMALLEST

SPECS = sorted((Path(__file__).parents[2] / "templates").glob("*/*.toml"))
BUILT = schema.build()
VALIDATOR = Draft202012Validator(BUILT.document)

KIND = '''
"""How kind it is."""
from drpo_cli.settings import RewardSettings
class Config(RewardSettings):
    """Options."""
    word: str
    """Said once."""
def reward(completion): ...
'''
MINE = """
from drpo_cli.settings import ObjectiveSettings
def good(completion): ...
class loss:
    class Config(ObjectiveSettings):
        cap: int
"""
PROBES: tuple[Any, ...] = (
    *(True, -1, 0, 1, 1.5, 7, 10**12, "", "x", "./x y"),
    *([], [1], ["a"], {}, {"a": 1}, [{"prompt": "p", "answer": "a"}]),
)
NOT_FOR_A_SCHEMA = {"value_error", "url_parsing"}
"""Refused by code: a missing file, keys that contradict each other, an invalid URL."""

ACCEPTED = [
    ["run.folder=~/x", "reference={}", 'eval.data=[{type="arithmetic"}]'],
    ["advantage.type=gae", "critic={}"],
    ['objective.type="./mine.py:loss"', "objective.cap=3"],
    ['objective.type="json.decoder:JSONDecoder"'],
    ['reward[0].type="./mine.py:good"', "reward[0].weight=2", 'reward[0].name="a b"'],
    ["advantage={}", "objective={}", "rollout={}", "objective.delta=1", "train={}"],
    ["preset=grpo", "objective.epsilon_low=0.1", "advantage={}"],
    ["preset=grpo", "objective.type=ppo_clip"],
    ["preset=rloo", "advantage.type=rloo"],
    ["preset=", "objective.delta=1"],
]
REFUSED = [
    ["preset=gpro"],
    ["preset=3"],
    ["preset=grpo", "objective.delta=1"],
    ["preset=grpo", "objective.type=drpo"],
    ["preset=grpo", 'objective.type="./mine.py:loss"'],
    ["preset=", "objective.epsilon_low=0.1"],
    ["objective.epsilon_low=0.1"],
    ["objective.type=dpro"],
    ["objective.type=3"],
    ["objective=3"],
    ["objective=[]"],
    ["train=[{}]"],
    ["reward[0].delta=1"],
    ["reward[0].weight=heavy"],
    ['reward[0].type="./mine.py:good"', "reward[0].weight=heavy"],
    ["reward=[]"],
    ["data=[]"],
    ["data={}"],
    ["data=[{}]"],
    ["data=[3]"],
    ['data=[{type="jsonl"}]'],
    ["eval.data=[]"],
    ['eval.data=[{type="jsonl"}]'],
    ["rollout.engine=vlm"],
    ["rollout.type=vllm"],
    ["rollout.engine=transformers", "rollout.tensor_parallel=2"],
    ["model={}"],
    ["run.name=a b"],
    ["run.steps=-1"],
    ["run.seed=4294967296"],
    ["critic.path=[]"],
    ["eval.every=-1"],
    ["checkpoint.kept=3"],
    ["trian.learning_rate=1"],
    ["delta=3"],
]
RULES = [
    ["rollout.top_p=0.9"],
    ["critic={}"],
    ["preset=ppo"],
    ["train.horizon=3"],
    ["reward[0].weight=0"],
    ['reward[0].type="./gone.py:good"'],
    ['objective.type="./mine.py:loss"', "objective.own=3"],
]
"""Refused by the loader alone: rules over several keys, missing or other code."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    path = tmp_path / "run.toml"
    path.write_text(SMALLEST)
    return path


def refused(document: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(BUILT.document)
    assert BUILT.warnings == ()
    assert list(BUILT.document["properties"]) == [presets.KEY, *ORDER]
    for definition in BUILT.document["$defs"].values():
        for field in definition.get("properties", {}).values():
            assert field["description"]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_templates_are_valid_and_name_their_schema(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"#:schema ./{schema.FILE}\n\n")  # Tombi wants the empty line
    assert refused(tomli.loads(text)) == []


def tables() -> Iterator[tuple[type[Settings], Draft202012Validator]]:
    """The model and the schema of every section and every plugin."""
    for name, model in SECTIONS.items():
        found = BUILT.document["properties"][name]
        yield model, VALIDATOR.evolve(schema=found)
    for name, choice in (CHOICES | LISTS).items():
        for plugin in plugins.available(choice.kind):
            found = BUILT.document["$defs"][f"{name}.{plugin}"]
            config = plugins.load(choice.kind, plugin).Config
            yield config, VALIDATOR.evolve(schema=found)


def refusals(model: type[Settings], table: dict[str, Any], folder: Path) -> set[str]:
    try:
        model.model_validate(table, context={"folder": folder})
    except ValidationError as error:
        return {found["type"] for found in error.errors()} - NOT_FOR_A_SCHEMA
    return set()


def least(model: type[Settings]) -> dict[str, Any]:
    """The required keys of a table, each with some value of the right type."""
    return {k: fitting(field) for k, field in model.model_fields.items() if field.is_required()}


def fitting(field: FieldInfo) -> Any:
    """Some value that a field takes."""
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[(field.annotation, *field.metadata)])  # type: ignore[arg-type]
    for value in (1, "x", "http://x", ["x"]):
        try:
            adapter.validate_python(value, strict=not isinstance(value, list))
        except ValidationError:
            continue
        return value
    raise AssertionError(f"no value fits {field}")


def test_every_option_takes_what_the_loader_takes(tmp_path: Path) -> None:
    verdicts = Counter[bool]()
    for model, validator in tables():
        needed = least(model)
        assert not refusals(model, needed, tmp_path) and validator.is_valid(needed)
        for key, probe in product([*model.model_fields, "nosuch"], PROBES):
            table = needed | {key: probe}
            accepted = not refusals(model, table, tmp_path)
            assert validator.is_valid(table) == accepted, (model, table)
            verdicts[accepted] += 1
    assert min(verdicts[True], verdicts[False]) > 500


def test_numbers_that_json_does_not_distinguish_are_refused_by_the_loader(base: Path) -> None:
    """JSON has no infinity, and 10.0 is a whole number in it."""
    for change in ("run.steps=10.0", "reward[0].weight=inf"):
        document = changed([change])
        assert refused(document) == []
        with pytest.raises(SpecError):
            load(base, [change])


def changed(changes: list[str]) -> dict[str, Any]:
    document = tomli.loads(SMALLEST)
    overrides.apply_overrides(document, changes)
    return document


@pytest.mark.parametrize("changes", ACCEPTED, ids=" ".join)
def test_what_the_loader_accepts_is_valid(changes: list[str], base: Path) -> None:
    load(base, changes)
    assert refused(changed(changes)) == []


@pytest.mark.parametrize("changes", REFUSED, ids=" ".join)
def test_what_the_loader_refuses_is_not(changes: list[str], base: Path) -> None:
    with pytest.raises(SpecError):
        load(base, changes)
    assert refused(changed(changes))


@pytest.mark.parametrize("changes", RULES, ids=" ".join)
def test_rules_are_checked_by_the_loader_alone(changes: list[str], base: Path) -> None:
    with pytest.raises(SpecError):
        load(base, changes)
    assert refused(changed(changes)) == []


def test_an_unknown_key_is_named() -> None:
    """There is one message, because language servers show each at its table."""
    document = changed(['objective.type="ppo_clip"', "objective.delta=1"])
    assert refused(document) == ["Additional properties are not allowed ('delta' was unexpected)"]


def test_installed_plugins_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "kind-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kind\nVersion: 1.0\n")
    points = "kind = kind_words\nacme.kind = kind_words\ngone = words_that_are_not_there\n"
    (info / "entry_points.txt").write_text(f"[drpo.rewards]\n{points}")
    (tmp_path / "kind_words.py").write_text(KIND)
    monkeypatch.syspath_prepend(str(tmp_path))
    built = schema.build()
    validator = Draft202012Validator(built.document)
    known = ["reward[0].type=kind", "reward[0].word=please"]
    for changes, valid in (
        (known, True),
        ([*known, "reward[0].word=3"], False),
        ([*known, "reward[0].nosuch=3"], False),
        (['reward[0].type="acme.kind"', "reward[0].nosuch=3"], False),
        (["reward[0].type=gone", "reward[0].nosuch=3"], True),
    ):
        assert validator.is_valid(changed(changes)) == valid
    assert "How kind it is." in built.text() and "Said once." in built.text()
    (warning,) = built.warnings
    assert warning.startswith("reward 'gone' accepts any option: ")


def test_the_command_prints_it_or_writes_it_whole(tmp_path: Path) -> None:
    printed = drpo("schema")
    assert json.loads(printed.stdout) == BUILT.document
    out = tmp_path / "x.json"
    assert drpo("schema", "--out", out).stdout == f"wrote {out}\n"
    assert out.read_text(encoding="utf-8") == printed.stdout and list(tmp_path.iterdir()) == [out]
    for wrong in (tmp_path / "no" / "x.json", out / "x.json", tmp_path):
        done = drpo("schema", "--out", wrong)
        assert done.returncode == 2
        assert ("is a folder" if wrong is tmp_path else "cannot be written") in done.stderr
    assert list(tmp_path.iterdir()) == [out]
