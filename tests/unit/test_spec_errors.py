"""Loading a bad spec: each message says where it is wrong, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.spec import SpecError, load
from support.specs import BUILT_IN, GOOD, plugin_folder, problem, problems, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plugin_folder(tmp_path)


def test_an_unknown_key_of_a_nested_table(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("{}")
    line = problem(folder, BUILT_IN.replace("{ prompt", "{ promt"))
    assert line == (
        "run.toml:11:12: data[1].fields.promt: is not a known key; did you mean 'prompt'?"
    )


def test_all_errors_come_together_in_file_order(folder: Path) -> None:
    text = (
        GOOD.replace("steps = 10", "steps = -1\nsedd = 1")
        .replace('"./rewards.py:good"', '"exact_mach"')
        .replace("samples_per_prompt = 4", "samples_per_prompt = 'x'\ntop_p = 0.9")
        .replace('path = "rows.jsonl"\n', "")
        + "[train]\nbetas = [0.9, 2]\n"
    )
    lines = problems(folder, text, "train.epsilon=0")
    starts = [line.split(" there ")[0].split(" is ")[0] for line in lines]
    assert starts == [
        "run.toml:3:9: run.steps:",
        "run.toml:4:1: run.sedd:",
        "run.toml:9:1: data[0].path:",
        "run.toml:14:22: rollout.samples_per_prompt:",
        "run.toml:15:9: rollout.top_p:",
        "run.toml:19:8: reward[0].type:",
        "run.toml:25:15: train.betas[1]:",
        "--set train.epsilon=0: train.epsilon:",
    ]
    assert "did you mean 'seed'?" in lines[1]
    assert all(";" in line for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 10", 'steps = "ten"', "3:9: run.steps: is 'ten'; must be a whole number"),
        ("steps = 10", "steps = 1.5", "3:9: run.steps: is 1.5; must be a whole number"),
        ("steps = 10", "steps = true", "3:9: run.steps: is true; must be a whole number"),
        ("steps = 10", "steps = 10\nseed = -1", "4:8: run.seed: is -1; must be at least 0"),
        ("steps = 10", "", "1:1: run.steps: is missing"),
        ("delta = 0.2", "delta = 0", "22:9: objective.delta: is 0; must be above 0"),
        ("delta = 0.2", "delta = nan", "22:9: objective.delta: is nan; must be a finite number"),
        ("delta = 0.2", "epsilon = 1", "22:1: objective.epsilon: is not a key of [objective]; it"),
        ("delta = 0.2", "dleta = 1", "22:1: objective.dleta: is not a known key; did you mean"),
        ('"rows.jsonl"', "5", "10:8: data[0].path: is 5; must be a path in quotes"),
        ('"rows.jsonl"', "'x'\nlimit = 0.5", "limit: is 0.5; must be a whole number or text in"),
        ('name = "test"', 'name = "a/b"', "2:8: run.name: is 'a/b'; must be text that matches"),
        ('"drpo"', '"drop"', "21:8: objective.type: there is no objective 'drop'; did you mean"),
        ('"drpo"', "3", "21:8: objective.type: is 3; must be a name in quotes"),
        ("rewards.py:good", "rewards.py:god", "18:8: reward[0].type: reward './rewards.py:god':"),
        ("./rewards.py:good", "./gone.py:good", "18:8: reward[0].type: reward './gone.py:good': t"),
        ('type = "./rewards.py:good"', "", "17:1: reward[0].type: is missing; name a reward"),
        ("[[reward]]", "[reward]", "17:1: reward: is a single table; write [[reward]]"),
        ("[rollout]", "[[rollout]]", "12:1: rollout: must be a table; write [rollout]"),
        ("[run]", "train = 1\n[run]", "1:9: train: must be a section; write [train]"),
        ("[objective]", "[eval]\ndata = 1\n[objective]", "21:8: eval.data: must be a list of tabl"),
        ("[run]", "seed = 1\n[run]", "1:1: seed: is not a section; it is a key of [run]"),
        ("[objective]", "[objectve]", "20:1: objectve: is not a section; did you mean 'objective'"),
        ("[objective]", "[eval]\ndata = []\n[objective]", "21:8: eval.data: is missing; add"),
        ('path = "some-org/some-model"', 'path = ""', "6:8: model.path: is ''; must be text of at"),
    ],
)
def test_one_mistake_gives_one_message(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in problem(folder, GOOD.replace(old, new, 1))


ANYTHING = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-2, 300),
        st.floats(),
        st.text("a.:/~{}é ", max_size=4),
        st.dates(),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)


@given(data=st.data())
def test_a_spec_of_random_values_loads_or_gets_messages_with_places(
    folder: Path, data: st.DataObject
) -> None:
    document = tomli.loads(BUILT_IN)
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from([*document, "eval", "train"]))
        inner = document.get(section)
        table = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(table, dict) and table and data.draw(st.booleans()):
            table[data.draw(st.sampled_from([*table]))] = data.draw(ANYTHING)
        else:
            document[section] = data.draw(ANYTHING)
    path = write(folder, tomli_w.dumps(document))
    try:
        load(path)
    except SpecError as error:
        assert all(line.startswith(f"{path}:") for line in map(str, error.problems))


def test_missing_sections_are_named(folder: Path) -> None:
    lines = problems(folder, "")
    assert [line.partition(";")[0] for line in lines] == [
        "run.toml:1:1: run: is missing",
        "run.toml:1:1: model: is missing",
        "run.toml:1:1: data: is missing",
        "run.toml:1:1: reward: is missing",
    ]


def test_the_docstring_of_the_field_is_shown(folder: Path) -> None:
    assert "(Number of steps, each a rollout and its training)" in problem(
        folder, GOOD.replace("10", "-1", 1)
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nothing_of_that_name\ndef good(): ...", "rewards.py:1 in <module>"),
        ("def good(:", "rewards.py:1: "),
        ("Config = 3\ndef good(): ...", "its Config must extend drpo_cli.settings.RewardSettings"),
    ],
)
def test_a_plugin_that_does_not_load(folder: Path, source: str, expected: str) -> None:
    (folder / "rewards.py").write_text(source)
    line = problem(folder, GOOD)
    assert line.startswith("run.toml:18:8: reward[0].type: ") and expected in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"test"', "", "run.toml:2:6: run.name: is not TOML: no value follows the =; write one"),
        ("steps", 'name = "2"\nsteps', "run.toml:3:1: run.name: is here a second time: the first"),
        (
            "[run]",
            "[run",
            "run.toml:1:1: run: is not TOML: the header is not a name in matching brack",
        ),
    ],
)
def test_syntax_errors_have_a_position(folder: Path, old: str, new: str, expected: str) -> None:
    assert problem(folder, GOOD.replace(old, new, 1)).startswith(expected)


def test_files_that_cannot_be_read(folder: Path) -> None:
    for path, expected in [
        (folder / "gone.toml", "gone.toml: there is no such file"),
        (folder, "is a folder; name the spec in it"),
        (write(folder) / "below", "cannot be read"),
    ]:
        with pytest.raises(SpecError, match=expected):
            load(path)
    (folder / "run.toml").write_bytes(b"[run]\nname = '\xff'\n")
    with pytest.raises(SpecError, match=r"run\.toml:2:9: is not UTF-8"):
        load(folder / "run.toml")
