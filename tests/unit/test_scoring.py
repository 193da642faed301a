"""Which jobs of an evaluation share an engine, and which cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drpo_cli.tools.scoring import Job, share_engines
from support.models import tiny_model
from support.specs import SMALLEST


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "first")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(SMALLEST)
    return path


def rewrite(file: str, **keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(found | keys))

    return change


def nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (nothing, True),
        (rewrite("config.json", dtype="bfloat16", transformers_version="1.0"), True),
        (rewrite("config.json", rope_theta=5.0), False),
        (rewrite("config.json", quantization_config={"bits": 4}), False),
        (rewrite("generation_config.json", eos_token_id=[2, 5]), False),
        (rewrite("generation_config.json", temperature=0.3), True),
        (rewrite("tokenizer_config.json", eos_token="9"), False),
        (lambda folder: (folder / "model.safetensors").unlink(), False),
    ],
)
def test_models_that_differ_by_weights_share_an_engine(
    model: Path, spec: Path, tmp_path: Path, change: Callable[[Path], None], share: bool
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    change(other)
    jobs = [Job(str(spec), str(folder), folder.name) for folder in (model, other)]
    assert share_engines(jobs) == ([jobs] if share else [[job] for job in jobs])


def test_problems_of_one_model_come_together(model: Path, spec: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    longer = spec.with_name("longer.toml")
    longer.write_text(SMALLEST + "[rollout]\nmax_new_tokens = 7\n")
    with_stop = spec.with_name("stop.toml")
    with_stop.write_text(SMALLEST + '[rollout]\nstop = ["x"]\n')
    specs, models = (str(spec), str(longer), str(with_stop)), (str(model), str(other), "some-org/x")
    jobs = {(s, m): Job(s, m, m) for s in specs for m in models}
    first, second, third = specs
    one, two, hub = models
    assert share_engines([*jobs.values()]) == [
        [jobs[first, one], jobs[second, one], jobs[first, two], jobs[second, two]],
        [jobs[first, hub], jobs[second, hub]],
        [jobs[third, one], jobs[third, two]],
        [jobs[third, hub]],
    ]
