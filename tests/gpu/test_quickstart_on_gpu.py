"""The same run on a GPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from drpo_cli.runs.folder import RunFolder
from support.command import drpo, records
from support.models import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SPEC = """
[run]
name = "gpu"
steps = 3
[model]
path = "model"
dtype = "{dtype}"
[[data]]
type = "arithmetic"
[rollout]
engine = "vllm"
prompts_per_step = 16
samples_per_prompt = 8
max_new_tokens = 16
context_length = 64
sleep = {sleep}
gpu_memory_fraction = 0.3
[[reward]]
type = "length"
limit = 16
soft_limit = 2
[train]
updates_per_rollout = 2
learning_rate = 1e-3
[eval]
problems = 8
samples_per_prompt = 2
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sleep", ["true", "false"])
def test_a_run_proves_its_sync_and_ends(dtype: str, sleep: str, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", head_dim=64)
    spec = tmp_path / "run.toml"
    spec.write_text(SPEC.format(dtype=dtype, sleep=sleep))
    done = drpo("train", spec, "--nproc", 1)
    assert done.returncode == 0, done.stderr
    steps = records(RunFolder(tmp_path / "runs" / "gpu").metrics)
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    assert all(line["peak_memory_gib"] > 0 for line in steps[1:])
