"""The command as a user runs it: outputs, exit codes, and no traceback for a user's mistake."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from drpo_cli import __version__
from drpo_cli.cli import app
from drpo_cli.cli.common import verbs, verbs_by_part
from drpo_cli.cli.reference import reference
from drpo_cli.errors import UserError
from drpo_cli.tools import init as scaffold
from support.command import drpo
from support.specs import GOOD, SMALLEST, plugin_folder, write

GROUP: Any = typer.main.get_command(app)
VERBS = {name: verb for found in verbs_by_part(GROUP).values() for name, verb in found}
by_verb = pytest.mark.parametrize("name", [name for name, _ in verbs(GROUP)])
WARNED = GOOD.replace("delta = 0.2", "delta = 12.5")
LINE = WARNED.splitlines().index("delta = 12.5") + 1


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A valid spec with a warning about its `delta`."""
    return write(plugin_folder(tmp_path), WARNED)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of templates."""
    folder = tmp_path / "templates"
    for name in ("quickstart", "maths"):
        (folder / name / "__pycache__").mkdir(parents=True)
        (folder / name / "run.toml").write_text(SMALLEST)
        (folder / name / "README.md").write_text(f"# The {name} run\n\nMore.\n")
    return folder


def test_version() -> None:
    assert drpo("--version").stdout == f"drpo {__version__}\n"


def test_help_lists_all_verbs_by_the_parts_of_a_runs_life() -> None:
    shown = drpo("--help", COLUMNS="80").stdout
    places = [shown.index(f"\n{text}") for text in ("Before a run:", "  init ", "  check ")]
    places += [shown.index(f"\n{text}") for text in ("During a run:", "  train ")]
    places += [shown.index(f"\n{text}") for text in ("After a run:", "  eval ", "  runs diff ")]
    assert places == sorted(places)
    listed = [line for line in shown.splitlines() if re.match(r"  [a-z]", line)]
    assert [line.split("  ")[1] for line in listed if "drpo" not in line.split()[:1]] == list(VERBS)
    assert max(map(len, shown.splitlines())) <= 80
    assert "\nCommands:\n  test " in drpo("reward", "--help").stdout


@by_verb
def test_a_verb_is_documented_with_examples_that_parse(name: str) -> None:
    command = VERBS[name]
    assert all(parameter.help.endswith(".") for parameter in command.params)
    shown = drpo(*name.split(), "--help", COLUMNS="80").stdout
    assert shown.startswith(f"Usage: drpo {name} ")
    lines = shown.partition("\n  Examples:\n")[2].splitlines()
    assert lines and all(line.startswith(f"    drpo {name.split()[0]}") for line in lines)
    for line in lines:  # as long as the author wrote them: help does not wrap them
        assert f"\n {line[3:]}" in command.epilog
        words = shlex.split(line.removeprefix("    drpo "))
        short = name == "runs list" and words[1:2] != ["list"]  # `drpo runs` means `runs list`
        words = words[len(name.split()) - short :]
        command.make_context(name, words)  # raises where an option is unknown


def test_the_page_of_the_docs_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `make docs`"


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
    done = drpo("check", spec, "--set", "rollout.samples_per_prompt=16", "--nproc", "2")
    assert done.returncode == 0
    assert "8 prompts × 16 samples = 128 sequences" in done.stdout
    assert "2 × 4 prompts" in done.stdout
    assert f"warning: {spec}:{LINE}:9: objective.delta" in done.stderr
    assert f"  {LINE} │ delta = 12.5\n     │         ^^^^\n" in done.stderr
    assert done.stdout.endswith(f"{spec} is valid: 1 warning in {spec}\n")


def test_a_wrong_spec_exits_2_without_a_traceback(spec: Path) -> None:
    done = drpo("check", spec, "--set", "rollout.top_p=0.9", "--set", "run.steps=-1")
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
                    stdout=full,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            last = done.stderr.splitlines()[-1]
            assert last.endswith("the disk is full; free some space, then try again")
            assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["check"], ["check", "x", "--nproc", "0"], ["eval"], ["init"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = drpo(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_wrong_usage_is_said_with_the_usage_and_a_suggestion() -> None:
    said = drpo("chekc").stderr
    assert said.startswith("Usage: drpo [OPTIONS] COMMAND [ARGS]...\n")
    assert said.endswith("\nError: No such command 'chekc'. Did you mean 'check'?\n")


def test_runs_lists_by_default(tmp_path: Path) -> None:
    for arguments in (["runs", tmp_path], ["runs", "list", tmp_path], ["runs", "--json", tmp_path]):
        done = drpo(*arguments)
        assert done.returncode == drpo("runs", "list", tmp_path).returncode
        assert "No such command" not in done.stderr and "Traceback" not in done.stderr
    assert "\nCommands:\n  list " in drpo("runs", "--help").stdout


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
    with pytest.raises(UserError, match="something else is there already; move it away"):
        scaffold.init(tmp_path / "file" / "run", "maths", source)
