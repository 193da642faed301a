"""Whether sequences are packed or padded: said by `drpo check`, and proven by the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from drpo_cli.architecture import choose, why_padded
from drpo_cli.plan import describe, make_plan, rules
from drpo_cli.spec import SpecError, load
from drpo_cli.trainer.packable import find_obstacle
from support.models import KINDS, tiny_model
from support.specs import HEAD

HYBRID = {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}
SPEC = f"""\
{HEAD}[[data]]
type = "./my.py:rows"
[[reward]]
type = "./my.py:good"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text("def rows(): ...\ndef good(): ...\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "run.toml").write_text(SPEC)
    return tmp_path / "run.toml"


def read(path: Path, config: dict[str, Any], *overrides: str) -> Any:
    sizes = {"max_position_embeddings": 9999, "num_attention_heads": 4, "num_key_value_heads": 4}
    (path.parent / "model" / "config.json").write_text(json.dumps({**sizes, **config}))
    return load(path, ["model.path=model", *overrides], rules(1))


@pytest.mark.parametrize("kind", KINDS)
def test_check_expects_what_the_trainer_proves(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path, kind)
    expected = why_padded(json.loads((folder / "config.json").read_text()))
    proven = find_obstacle(AutoConfig.from_pretrained(folder), trust_remote_code=False)
    assert (expected is None) == (proven is None), (expected, proven)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "llama"}, None),
        (HYBRID, "it has linear_attention layers"),
        ({"text_config": HYBRID}, "it has linear_attention layers"),
        ({"model_type": "jamba"}, "it has layers that are not attention alone"),
        ({"model_type": "granitemoehybrid", "layers_block_type": ["attention"]}, None),
        ({"model_type": "falcon"}, "it has attention of its own"),
        ({"model_type": "gpt_oss", "layer_types": ["sliding_attention", "full_attention"]}, None),
    ],
)
def test_what_config_json_tells(config: dict[str, Any], why: str | None) -> None:
    assert why_padded(config) == why
    assert choose("auto", config).padded == (why is not None)
    assert choose("padded", config).padded


def test_check_says_which(path: Path) -> None:
    for config, layout, text, attention in (
        ({"model_type": "llama"}, "auto", "packed end to end", "buckets"),
        ({"model_type": "llama"}, "padded", "train.layout says so", "the model's own"),
        (HYBRID, "auto", "it has linear_attention layers", "the model's own"),
    ):
        rows = dict(describe(make_plan(read(path, config, f"train.layout={layout}"), 1)))
        assert rows["layout"].endswith(text)
        assert rows["trainer on a CPU"].startswith(f"attention {attention}")


def test_a_hybrid_model_that_should_be_packed_is_refused(path: Path) -> None:
    with pytest.raises(SpecError, match=r"train\.layout") as refused:
        read(path, HYBRID, "train.layout=packed")
    text = str(refused.value)
    assert "linear_attention layers" in text and "'padded'" in text


@pytest.mark.parametrize(("config", "layout"), [(HYBRID, "auto"), ({}, "padded")])
def test_an_attention_that_padded_rows_do_not_use_is_refused(
    path: Path, config: dict[str, Any], layout: str
) -> None:
    with pytest.raises(SpecError, match="has no effect on padded rows"):
        read(path, config, f"train.layout={layout}", "train.attention=buckets")
