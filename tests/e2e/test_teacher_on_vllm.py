"""A teacher on a real vLLM server on this machine teaches what it teaches beside the policy."""

from pathlib import Path

import pytest

from drpo_cli.runs.folder import RunFolder
from support.command import drpo, records
from support.models import tiny_model
from support.vllm_server import serving_vllm

pytestmark = pytest.mark.engine


def test_a_teacher_on_a_vllm_server(small: Path) -> None:
    teacher = tiny_model(small.parent / "teacher", seed=1)
    text = small.read_text()
    small.write_text(f'{text}\n[teacher]\npath = "{teacher.name}"\n')
    done = drpo("train", small, "--set", "run.name=local")
    assert done.returncode == 0, done.stderr
    with serving_vllm(teacher, 33) as url:  # the context of the policy, and one token
        small.write_text(f'{text}\n[teacher]\nurl = "{url}"\nmodel = "tiny"\n')
        done = drpo("train", small, "--set", "run.name=remote")
        assert done.returncode == 0, done.stderr
        name = ("--set", "run.name=refused", "--set")
        longer = drpo("train", small, *name, "rollout.context_length=33")
        assert longer.returncode == 2
        said = " ".join(longer.stderr.split())
        assert "answered 400 (" in said and "--max-model-len" in said
        name = ("--set", "run.name=unknown", "--set")
        other = drpo("train", small, *name, "teacher.model=other")
        assert other.returncode == 2
        assert "that it serves the model 'other'" in " ".join(other.stderr.split())
    runs = small.parent / "runs"
    local, remote = (records(RunFolder(runs / name).metrics)[1:] for name in ("local", "remote"))
    assert len(local) == len(remote) == 2
    for one, other_step in zip(local, remote, strict=True):
        assert one["teacher_kl"] > 0.01
        assert other_step["teacher_kl"] == pytest.approx(one["teacher_kl"], abs=1e-4)
        assert other_step["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert other_step["teacher_retries"] == 0
