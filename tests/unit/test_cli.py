"""The command as a user runs it: outputs, exit codes, and no traceback for a user's mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli import __version__, scaffold
from drpo_cli.errors import UserError
from support.command import drpo

SPEC = """\
[run]
name = "test"
steps = 10
[model]
path = "some-org/some-model"
[[data]]
type = "./my.py:rows"
[[reward]]
type = "./my.py:good"
[objective]
delta = 12.5
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text("def rows(): ...\ndef good(): ...\n")
    path = tmp_path / "run.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of templates."""
    folder = tmp_path / "templates"
    for name in ("quickstart", "maths"):
        (folder / name / "__pycache__").mkdir(parents=True)
        (folder / name / "run.toml").write_text(SPEC)
        (folder / name / "README.md").write_text(f"# The {name} run\n\nMore.\n")
    return folder


def test_version_and_help() -> None:
    assert drpo("--version").stdout == f"drpo {__version__}\n"
    text = drpo("--help").stdout
    assert all(verb in text for verb in ("init", "check", "train", "eval", "export"))


@pytest.mark.parametrize(
    "verb", ["init", "check", "doctor", "train", "eval", "export", "runs list", "runs diff"]
)
def test_every_verb_shows_an_example(verb: str) -> None:
    done = drpo(*verb.split(), "--help")
    assert done.returncode == 0 and f"Example: drpo {verb} " in done.stdout


def test_help_and_check_import_nothing_heavy(spec: Path) -> None:
    code = (
        "import sys; from drpo_cli.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'vllm', 'datasets', 'scipy', 'numpy'}\n"
        "print('heavy:', *sorted(heavy & set(sys.modules)))"
    )
    for arguments in (["--help"], ["check", str(spec)]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == ["heavy:"], done.stderr


def test_check_shows_the_arithmetic_and_the_warnings(spec: Path) -> None:
    done = drpo("check", spec, "--set", "rollout.samples_per_prompt=4", "--nproc", "2")
    assert done.returncode == 0
    assert "64 prompts × 4 samples = 256 sequences" in done.stdout
    assert "2 × 32 prompts" in done.stdout
    assert f"warning: {spec}:11:1: objective.delta" in done.stderr


def test_a_wrong_spec_exits_2_without_a_traceback(spec: Path) -> None:
    done = drpo("check", spec, "--set", "rollout.top_p=0.9", "--set", "run.steps=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error:\n--set rollout.top_p=0.9: rollout.top_p: is 0.9;")
    assert len(done.stderr.splitlines()) == 3
    done = drpo("check", spec.parent / "gone.toml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["check"], ["check", "x", "--nproc", "0"], ["eval"], ["init"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = drpo(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_init_writes_a_template_and_refuses_to_overwrite(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    scaffold.init(target, "quickstart", source)
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "run.toml"]
    assert [path.name for path in target.parent.iterdir()] == ["run"]
    (target / "run.toml").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        scaffold.init(target, "maths", source)
    assert (target / "run.toml").read_text() == "mine"


def test_init_into_an_empty_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    scaffold.init(tmp_path / "empty", "maths", source)
    assert (tmp_path / "empty" / "README.md").read_text().startswith("# The maths run")


def test_init_knows_its_templates(source: Path, tmp_path: Path) -> None:
    assert scaffold.templates(source) == {
        "maths": "The maths run",
        "quickstart": "The quickstart run",
    }
    with pytest.raises(UserError, match=r"no template 'quickstrat'; did you mean 'quickstart'\?"):
        scaffold.init(tmp_path / "x", "quickstrat", source)
    assert not (tmp_path / "x").exists()


def test_init_where_nothing_can_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        scaffold.init(tmp_path / "file" / "run", "maths", source)
