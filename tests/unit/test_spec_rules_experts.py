"""What `drpo check` says about the experts of a model, and about options that need some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drpo_cli.errors import UserError
from drpo_cli.plan import describe, make_plan
from support.specs import SMALLEST

DENSE = {"max_position_embeddings": 4096}
MIXTURE = DENSE | {"text_config": {"num_experts": 128}}
REPLAY = "train.router_replay=true"


def rows(tmp_path: Path, config: object, *overrides: str) -> dict[str, str]:
    from drpo_cli.spec import load

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    path = tmp_path / "run.toml"
    path.write_text(SMALLEST)
    return dict(describe(make_plan(load(path, ["model.path=model", *overrides]), 1)))


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        (DENSE, [], None),
        (
            MIXTURE,
            [],
            "128 per layer, chosen by the trainer, routers trained, no load-balancing loss",
        ),
        (
            {"num_local_experts": 8, **DENSE},
            [REPLAY, "train.router_dtype=float32", "train.freeze_routers=true"],
            "8 per layer, chosen as the engine chose, scores in float32, routers frozen, "
            "no load-balancing loss",
        ),
    ],
)
def test_the_experts_are_shown(
    config: object, overrides: list[str], expected: str | None, tmp_path: Path
) -> None:
    assert rows(tmp_path, config, *overrides).get("experts") == expected


ENGINE = """
from drpo_cli.settings import RolloutSettings
Config = RolloutSettings
class Engine: ...
"""


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (DENSE, [REPLAY], r"train\.router_replay.* has no experts"),
        (DENSE, ["train.router_dtype=float32"], r"train\.router_dtype.* has no experts"),
        (DENSE, ["train.freeze_routers=true"], r"train\.freeze_routers.* has no experts"),
        (MIXTURE, [REPLAY, "rollout.engine=./mine.py:Engine"], "which experts the engine chose"),
        (MIXTURE, ["train.freeze_routers=true", "lora.rank=4"], r"no effect with \[lora\]"),
        (
            MIXTURE,
            ["train.router_dtype=float32", "model.dtype=float32"],
            "no effect: everything is in model.dtype",
        ),
    ],
)
def test_options_of_routers_without_an_effect_are_refused(
    config: object, overrides: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(ENGINE)
    with pytest.raises(UserError, match=message):
        rows(tmp_path, config, *overrides)
