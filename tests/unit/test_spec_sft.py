"""`[sft]` and `[[sft.data]]`: read, written out again, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpo_cli.spec import dump, load
from drpo_cli.spec.dumping import settings_of
from support.specs import DATA, HEAD, REWARD, problem, warnings, write

SFT = "[sft]\nupdates = 20\n"
OWN = '[[sft.data]]\ntype = "arithmetic"\ndigits = 3\n'
BASE = HEAD + DATA + REWARD


def test_a_warm_up_has_data_of_its_own(tmp_path: Path) -> None:
    spec = load(write(tmp_path, BASE + SFT + OWN), ["sft.learning_rate=2e-3"])
    assert spec.sft is not None and spec.sft.learning_rate == 2e-3
    (source,) = spec.sft_data
    assert source.config.digits == 3  # type: ignore[attr-defined]
    assert load(write(tmp_path, dump(spec))) == spec
    keys = [one.key for one in settings_of(spec)]
    assert ("sft", "updates") in keys and ("sft", "data", 0, "digits") in keys
    assert load(write(tmp_path, BASE)).sft is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sft]\n", "sft.updates: is missing"),
        (SFT + "warmup_updates = 20\n", "sft.warmup_updates: is 20; must be below sft.updates"),
        (SFT + "[reference]\n", "reference: would be the model before [sft]"),
        (
            SFT + '[[environment]]\ntype = "tools"\ntools = ["calculator"]\n',
            "sft: learns the answer of a row as one",
        ),
        (SFT + OWN + 'sampling = "difficulty"\n', "sft.data[0].sampling: has no effect here"),
        (SFT + OWN + 'rewards = ["exact_match"]\n', "sft.data[0].rewards: has no effect here"),
        (
            SFT + OWN + "weight = 2\n" + OWN,
            "sft.data[1].weight: is missing",
        ),
        (SFT + OWN + "digit = 2\n", "sft.data[0].digit: is not a known key"),
        (SFT + OWN + 'template = "x"\n', "sft.data[0].template: has no {{ prompt }}"),
    ],
)
def test_what_a_warm_up_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    assert message in problem(tmp_path, BASE + text)


def test_weights_of_one_array_ask_nothing_of_the_other(tmp_path: Path) -> None:
    assert warnings(tmp_path, BASE + SFT + OWN + "weight = 2\n") == []


def test_a_reference_of_its_own_is_fine(tmp_path: Path) -> None:
    assert warnings(tmp_path, BASE + SFT + '[reference]\npath = "some-org/warm"\n') == []


def test_no_steps_need_a_warm_up(tmp_path: Path) -> None:
    assert "run.steps: is 0, and there is no [sft]" in problem(tmp_path, BASE, "run.steps=0")
    assert load(write(tmp_path, BASE + SFT), ["run.steps=0"]).run.steps == 0
