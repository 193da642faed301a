"""What ends a response, and what of a model folder's `generation_config.json` counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from drpo_cli.errors import UserError
from drpo_cli.rollout import transformers
from drpo_cli.rollout.engine.ends import find_ends, read_generation
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.rollout.engine.protocol import EngineContext, Sampling
from drpo_cli.settings import ModelSettings, RolloutSettings
from drpo_cli.step.sync import WeightSync
from support.ends import ENDS, OPTIONS, PROMPTS, odd_model, open_engine
from support.ends import the_spec_alone_says_how_to_sample as check_sampling
from support.models import Row, experience, world
from support.seeds import sample_each
from support.training import open_trainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_model(tmp_path_factory.mktemp("ends") / "model")


def ends(model: Path, **options: Any) -> set[int]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    return set(find_ends(RolloutSettings(**options), settings(model), tokenizer).ids)


def settings(model: Path) -> ModelSettings:
    return ModelSettings(path=str(model))


def test_the_transformers_engine_samples_by_the_spec_alone(model: Path) -> None:
    check_sampling(open_engine("transformers", model), model)


def test_what_is_trained_is_what_was_sampled(model: Path) -> None:
    """The folder's penalties and truncation change neither log μ nor log π."""
    chosen = ModelSettings(path=str(model), dtype="float32")
    context = EngineContext(chosen, 64, 1, awaits_weights=True)
    engine = transformers.Engine(transformers.Config(), context)
    sampling = Sampling(samples=8, max_new_tokens=12, temperature=1.0, seed=1)
    with world() as here:
        trainer = open_trainer(model, here)
        WeightSync(trainer, engine, Precision("float32", "float32")).push(0)
        sampled = sample_each(engine, PROMPTS, sampling)
        rows = [
            Row(PROMPTS[at], rollout.token_ids, rollout.logps, (0.0,) * len(rollout.token_ids))
            for at, _, rollout in sampled
        ]
        exp = experience(rows)
        logp_T = trainer.replay(exp)
    assert (logp_T - exp.logp_mu_T).abs().max() < 1e-5


def test_all_files_and_the_spec_add_ends(model: Path) -> None:
    assert ends(model, **OPTIONS) == ENDS
    assert ends(model) == ENDS - {3, 6}


def test_the_ends_of_a_nested_text_model_count(model: Path, tmp_path: Path) -> None:
    from transformers import Gemma3Config

    config = Gemma3Config(text_config={"eos_token_id": [9], "vocab_size": 64}, eos_token_id=8)
    config.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert find_ends(RolloutSettings(), settings(tmp_path), tokenizer).ids == {2, 8, 9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_token_ids": (5, 64)}, r"stop_token_ids: .* has no token 64; its ids .* 0 to 63"),
        ({"stop": ("<eos>\n",)}, r"rollout.stop: '<eos>\\n' contains the special token '<eos>'"),
    ],
)
def test_ends_that_no_response_could_have_are_refused(
    model: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ends(model, **options)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "null", "\xff\xfe", '{"eos_token_id": "</s>"}', '{"eos_token_id": [[1]]}'],
)
def test_a_broken_generation_config_is_named(model: Path, tmp_path: Path, content: str) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"model.path: .*generation_config.json"):
        ends(tmp_path)


def test_the_transformers_engine_refuses_texts_and_says_what_helps(model: Path) -> None:
    context = EngineContext(settings(model), 64, 1)
    with pytest.raises(UserError, match=r"rollout.stop: .* 'Q:'; .*stop_token_ids"):
        transformers.Engine.check(transformers.Config(stop=("<unk>", "Q:")), context)
    with pytest.raises(ValidationError, match="at least 1 character"):
        transformers.Config(stop=("",))


def test_a_generation_config_without_ends_changes_none(tmp_path: Path) -> None:
    model = odd_model(tmp_path / "model", eos_token_id=None)
    assert ends(model) == {2, 4}
    (model / "generation_config.json").unlink()
    read_generation.cache_clear()
    assert ends(model) == {2, 4}
