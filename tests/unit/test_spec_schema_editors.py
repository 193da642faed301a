"""The linters of the TOML language servers, on the schema and the templates of `init`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drpo_cli.tools import init as scaffold

TOOLS = {
    "taplo": ("lint", "--no-auto-config"),
    "tombi": ("lint", "--offline", "--no-cache", "--error-on-warnings"),
}
by_tool = pytest.mark.parametrize("tool", TOOLS)


def linted(tool: str, *specs: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [Path(sys.executable).with_name(tool), *TOOLS[tool], *specs]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every template as `drpo init` writes it."""
    folder, source = tmp_path_factory.mktemp("written"), scaffold.template_folder()
    for name in scaffold.templates(source):
        assert scaffold.init(folder / name, name, source) == ()
    return folder


@by_tool
def test_templates_are_without_a_mark(tool: str, written: Path) -> None:
    specs = sorted(written.glob("*/*.toml"))
    assert len(specs) >= 5
    done = linted(tool, *specs)
    assert done.returncode == 0, done.stdout + done.stderr


@by_tool
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("delta = 0.2", "dleta = 0.2"),
        ("delta = 0.2", "epsilon_low = 0.2"),
        ("delta = 0.2", "delta = 0"),
        ("steps = 200", 'steps = "200"'),
        ('type  = "drpo"', 'type = "dpro"'),
        ("[checkpoint]", "[chekcpoint]"),
    ],
)
def test_a_mistake_is_marked(tool: str, right: str, wrong: str, written: Path) -> None:
    spec = written / "quickstart" / "run.toml"
    text = spec.read_text(encoding="utf-8")
    assert text.count(right) == 1
    changed = text.replace(right, wrong)
    broken = spec.with_name(f"{tool}.toml")
    broken.write_text(changed, encoding="utf-8")
    done = linted(tool, broken)
    said = done.stdout + done.stderr
    line = changed[: changed.index(wrong)].count("\n") + 1
    assert done.returncode == 1 and f"{broken.name}:{line}:" in said, said
