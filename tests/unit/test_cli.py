"""The command as a user runs it: outputs, exit codes, and no traceback for a user's mistake."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli import __version__
from drpo_cli.errors import UserError
from drpo_cli.tools import init as scaffold
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
    assert done.returncode == 0 and f"\n    drpo {verb} " in done.stdout


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
    assert f"warning: {spec}:11:9: objective.delta" in done.stderr
    assert "  11 │ delta = 12.5\n     │         ^^^^\n" in done.stderr
    assert done.stdout.endswith(f"{spec} is valid: 1 warning in {spec}\n")


def test_a_wrong_spec_exits_2_without_a_traceback(spec: Path) -> None:
    done = drpo("check", spec, "--set", "rollout.top_p=0.9", "--set", "run.steps=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("warning: ") and done.stderr.endswith(
        f"2 errors, 1 warning in {spec}\n"
    )
    assert "\n--set rollout.top_p=0.9: rollout.top_p: is 0.9;" in done.stderr
    done = drpo("check", spec.parent / "gone.toml")
    assert done.returncode == 2
    assert "gone.toml: there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_finds_no_room_is_one_message(spec: Path) -> None:
    for buffered in ("", "1"):
        environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
        for arguments in (["check", spec], ["schema"], ["--help"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run(
                    [sys.executable, "-m", "drpo_cli", *arguments],
                    stdout=full, stderr=subprocess.PIPE, text=True, env=environment,
                )  # fmt: skip
            last = done.stderr.splitlines()[-1]
            assert last.endswith("the disk is full; free some space and try again")
            assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["check"], ["check", "x", "--nproc", "0"], ["eval"], ["init"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = drpo(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def on_a_terminal(**environment: str) -> str:
    """What a wrong verb says on stderr when that is a terminal."""
    controller, terminal = pty.openpty()
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **environment}
    command = [sys.executable, "-m", "drpo_cli", "chekc"]
    done = subprocess.run(command, stderr=terminal, env=environment | {"TERM": "xterm"})
    os.close(terminal)
    text = os.read(controller, 65536).decode()
    os.close(controller)
    assert done.returncode == 2
    return text


def test_wrong_usage_is_coloured_on_terminals_alone() -> None:
    assert "\x1b[1;31mError: \x1b[0mNo such command 'chekc'." in on_a_terminal()
    assert "31m" not in on_a_terminal(NO_COLOR="1")
    piped = drpo("chekc").stderr
    assert piped.endswith("\nError: No such command 'chekc'. Did you mean 'check'?\n")
    assert piped.startswith("Usage: drpo [OPTIONS] COMMAND [ARGS]...\n")


def test_init_writes_a_template_and_refuses_to_overwrite(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "run"
    scaffold.init(target, "quickstart", source)
    found = sorted(path.name for path in target.iterdir())
    assert found == ["README.md", "run.schema.json", "run.toml"]
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
