"""Completion as a shell asks for it: the script that the command prints, in a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli import plugins
from drpo_cli.tools import init as scaffold
from support.command import drpo

HEAVY = ("torch", "transformers", "vllm", "datasets", "scipy", "numpy")
ASK = """
source completion.sh
mapfile -t COMP_WORDS < words.txt
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_drpo_completion drpo
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run folder of a template, a run, and the completion script of bash."""
    folder = tmp_path_factory.mktemp("home")
    scaffold.init(folder / "demo", "quickstart", scaffold.template_folder())
    run = folder / "demo" / "runs" / "first"
    run.mkdir(parents=True)
    (run / "spec.toml").write_text("[run]\n")
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "broken.toml").write_text("[run\n")
    command = folder / "drpo"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m drpo_cli "$@"\n')
    command.chmod(0o755)
    shown = drpo("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0, shown.stderr
    (folder / "completion.sh").write_text(shown.stdout)
    return folder


def offered(folder: Path, *words: str) -> list[str]:
    """What bash has to offer after these words, the last of which is unfinished."""
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in ("drpo", *words)))
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["expo"], ["export"]),
        (["reward", "sh"], ["show"]),
        (["runs", "d"], ["diff"]),
        (["runs", "demo", "--js"], ["--json"]),
        (["runs", "diff", "demo/runs/"], ["demo/runs/first"]),
        (["train", "--res"], ["--resume"]),
        (["init", "--template", "qu"], ["quickstart"]),
        (["explain", "d"], ["dppo", "drpo"]),
        (["reward", "show", "rege"], ["regex"]),
        (["train", ""], ["demo/run.toml"]),
        (["check", "demo/"], ["demo/run.toml"]),
        (["eval", "de"], ["demo/runs/first"]),
        (["eval", "demo/runs/"], ["demo/runs/first"]),
        (["eval", "--spec", "demo/r"], ["demo/run.toml"]),
        (["export", "nowhere/"], [""]),
        (["train", "--set", "train.learn"], ["train.learning_rate="]),
        (["train", "--set", "model.dtype"], ["model.dtype=bfloat16", "model.dtype=float32"]),
        (["train", "demo/run.toml", "--set", "data.0.dig"], ["data.0.digits="]),
        (["train", "broken.toml", "--set", "objective.delta_h"], ["objective.delta_high="]),
        (["compare", "demo/run.toml", "--set", "preset=gr"], ["preset=grpo"]),
    ],
    ids=" ".join,
)
def test_bash_completes(words: list[str], expected: list[str], folder: Path) -> None:
    assert offered(folder, *words) == expected


def test_all_plugins_and_templates_are_offered(folder: Path) -> None:
    assert offered(folder, "reward", "show", "") == plugins.names("rewards")
    known = scaffold.templates(scaffold.template_folder())
    assert offered(folder, "init", "--template", "") == list(known)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(shell: str) -> None:
    shown = drpo("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0 and "_DRPO_COMPLETE=complete_" + shell in shown.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_answered_too(shell: str) -> None:
    """What their scripts ask, without the shell: few machines have them."""
    for words, expected in (("drpo expo", "export"), ("drpo train --set train.lea", "learning")):
        asked = {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        done = drpo(_DRPO_COMPLETE=f"complete_{shell}", **asked)
        assert done.returncode == 0 and expected in done.stdout


def test_completing_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys\n"
        "from drpo_cli.cli import completion as c\n"
        "found = [f('') for f in (c.templates, c.objectives, c.rewards, c.specs, c.run_folders)]\n"
        "found.append(list(c._all_keys(c._read_toml('demo/run.toml'))))\n"
        "assert all(found), found\n"
        f"print(*set({HEAVY}) & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
