"""Reading the command line of a grid: axes, seeds, cells, and the messages for wrong ones."""

from __future__ import annotations

import pytest

from drpo_cli.errors import UserError
from drpo_cli.spec.overrides import parse_value
from drpo_cli.tools.compare.grid import (
    Axis,
    Cell,
    make_cells,
    parse_axes,
    parse_bases,
    parse_seeds,
    put_on_bases,
    run_name,
    spell,
    split_values,
)


def grid(*vary: str) -> list[Cell]:
    return list(make_cells(parse_axes(vary)))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ", ["a", "b"]),
        ("[0.9, 0.99],[0.9, 0.95]", ["[0.9, 0.99]", "[0.9, 0.95]"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("x:o={a=1, b=[2,3]},y", ["x:o={a=1, b=[2,3]}", "y"]),
        ("a,", ["a", ""]),
    ],
)
def test_values_split_at_commas_outside_brackets_and_quotes(text: str, parts: list[str]) -> None:
    assert split_values(text) == parts


@pytest.mark.parametrize("value", [1e-3, 5, True, "drpo", "5", "true", [0.9, 0.99], {"a": "b,c"}])
def test_a_spelled_value_is_read_back(value: object) -> None:
    assert parse_value(spell(value)) == value


def test_axes_have_one_spelling() -> None:
    assert parse_axes(["train.learning_rate=1e-3, 0.0005", "objective=drpo:delta=0.20,dppo"]) == (
        Axis("train.learning_rate", ("0.001", "0.0005")),
        Axis("objective", ("drpo:delta=0.2", "dppo")),
    )


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ([], "--vary: is missing"),
        (["objective"], "--vary objective: has no key and values; write section.key=value,value"),
        (["objective="], "has an empty value"),
        (["train.learning_rate=1e-3,,2e-3"], "has an empty value"),
        (["train.learning_rate=1e-3,0.001"], "names 0.001 twice"),
        (["run.steps=1,2", "run.steps=3"], "--vary run.steps: is given twice"),
        (["run.seed=1,2"], "cannot be varied; give --seeds"),
        (["run.folder=a,b"], "cannot be varied; give --out"),
        (["objective=:delta=0.2"], "names no objective"),
    ],
)
def test_a_wrong_axis_is_refused(vary: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_axes(vary)
    assert said in str(caught.value)


def test_seeds() -> None:
    assert parse_seeds("0-4") == (0, 1, 2, 3, 4)
    assert parse_seeds("7, 0-1") == (7, 0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is not a seed"),
        ("a", "'a' is not a seed"),
        ("-1", "'-1' is not a seed"),
        ("3-1", "goes down; write 1-3"),
        ("0-2,1", "names seed 1 twice"),
        ("4294967296", "is too high"),
        ("0-40000", "over 10,000 seeds"),
    ],
)
def test_wrong_seeds_are_refused(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_seeds(text)
    assert said in str(caught.value)


def test_cells_are_the_product_with_whole_sections_first() -> None:
    found = grid("train.learning_rate=1e-3,5e-4", "objective=drpo:delta=0.2,./mine.py:loss")
    assert [cell.label for cell in found] == [
        "learning_rate=0.001, drpo:delta=0.2",
        "learning_rate=0.001, ./mine.py:loss",
        "learning_rate=0.0005, drpo:delta=0.2",
        "learning_rate=0.0005, ./mine.py:loss",
    ]
    assert found[0].overrides == (
        'objective={"type" = "drpo", "delta" = 0.2}',
        "train.learning_rate=0.001",
    )
    assert found[0].value("objective") == "drpo:delta=0.2"


def test_an_engine_keeps_the_rest_of_the_rollout_section() -> None:
    (cell,) = grid("rollout=transformers:max_sequences=4")
    assert cell.overrides == ('rollout.engine="transformers"', "rollout.max_sequences=4")


def test_a_preset_sets_sections_whole_and_other_keys_one_by_one() -> None:
    (cell,) = grid("objective=dapo")
    set_here = dict(override.split("=", 1) for override in cell.overrides)
    assert set_here["objective"].startswith('{"type" = "ppo_clip"')
    assert set_here["advantage"] == '{"type" = "group_norm"}'
    assert set_here["train.reduction"] == '"token_mean"'
    assert set_here["rollout.dynamic_sampling_rounds"] == "4"
    assert "rollout" not in set_here


def test_a_plugin_comes_before_a_preset_of_its_name() -> None:
    (cell,) = grid("objective=cispo")
    assert cell.overrides == ('objective={"type" = "cispo"}',)


def test_a_preset_takes_no_options_and_clashes_with_what_it_sets() -> None:
    with pytest.raises(UserError, match="grpo is a preset and takes no options"):
        grid("objective=grpo:epsilon_low=0.1")
    with pytest.raises(UserError, match=r"sets advantage, and so does --vary advantage"):
        grid("objective=drpo,grpo", "advantage=rloo,group_mean")


def test_names_stay_as_the_grid_grows_and_suit_any_file_system() -> None:
    small = grid("objective=drpo:delta=0.2", "train.learning_rate=1e-3")
    large = grid("objective=spo,drpo:delta=0.2", "train.learning_rate=5e-4,1e-3")
    assert run_name(small[0], 3) == "drpo_delta0.2-learning_rate0.001-seed3"
    assert small[0].name in {cell.name for cell in large}
    odd = grid("objective=./mine.py:loss,../mine.py:loss", "model.path=/a/b," + "x" * 300)
    names = [cell.name for cell in odd]
    assert len(set(names)) == 4
    assert all(len(name) < 140 and not set(name) & set("/ :=") for name in names)
    assert all(name[0].isalnum() for name in names)


def test_keys_that_end_alike_keep_their_section() -> None:
    (cell,) = grid("rollout.temperature=1.0", "eval.temperature=0.6")
    assert cell.label == "rollout.temperature=1.0, eval.temperature=0.6"


def test_bases_put_every_cell_on_every_model() -> None:
    cells = grid("objective=drpo,spo")
    axes = parse_axes(["objective=drpo,spo"])
    found = put_on_bases(cells, parse_bases("models/a, org/b", axes, ["run.steps=3"]))
    assert [cell.name for cell in found] == ["drpo-a", "drpo-b", "spo-a", "spo-b"]
    assert found[1].label == "drpo on b" and found[1].point == cells[0].point
    assert found[1].overrides[-1] == 'model.path="org/b"'
    assert put_on_bases(cells, parse_bases("", axes, [])) == tuple(cells)


@pytest.mark.parametrize(
    ("bases", "vary", "set_", "said"),
    [
        ("a,,b", "objective=drpo", "", "has an empty value"),
        ("x/a,y/a", "objective=drpo", "", "two of them are named a; rename one"),
        ("a,b", "model.path=a,b", "", "--vary model.path: sets model.path, and so does --bases"),
        ("a,b", "objective=drpo", "model.path=c", "--set model.path=c: sets model.path"),
    ],
)
def test_wrong_bases_are_refused(bases: str, vary: str, set_: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_bases(bases, parse_axes([vary]), [set_])
    assert said in str(caught.value)
