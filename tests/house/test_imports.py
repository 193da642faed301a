"""Imports go one way, and what `drpo check` needs loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drpo_cli import plugins

PACKAGE = Path(plugins.__file__).parent

# A module imports only from rows above its own. Names in one row do not import each other, but a
# folder imports freely within itself. A longer name is an exception within its folder.
ORDER = (
    ("__init__",),
    ("secrets",),
    ("types", "errors", "settings", "processes", "terminal", "progress"),
    (
        *("architecture", "chat_templates", "console", "deferred", "devices", "experience"),
        *("model_folder", "products", "remote", "routers"),
    ),
    ("adapter_folder", "dist", "wrong_weights"),
    ("pretrained",),
    ("plugins",),
    ("spec",),
    ("plan", "suites"),
    ("calls", "expressions", "sandbox"),
    ("gym",),
    (
        *("data", "rollout", "environments", "rewards", "advantages", "objectives"),
        *("trainer", "evaluate", "trackers"),
    ),
    ("runs",),
    ("step",),
    ("report",),
    ("launch",),
    ("tools",),
    ("api", "worker"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, row in enumerate(ORDER) for name in row}
ROOMS = next(row for row in ORDER if "trainer" in row)
NOT_FOR_ROOMS = {"spec", "plan"}

HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "scipy",
    "reasoning_gym",
    "math_verify",
    "openai",
    "httpx",
    "tenacity",
    "jinja2",
    "pyarrow",
    "psutil",
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "mcp",
)
LIGHT = [
    "drpo_cli.cli",
    "drpo_cli.api",
    "drpo_cli.spec",
    "drpo_cli.plan",
    "drpo_cli.environments.toolkit.toolbox",
    *(f"drpo_cli.{kind}.{name}" for kind in plugins.KINDS for name in plugins.available(kind)),
]

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.relative_to(PACKAGE).parts
}


def unit(module: str) -> str:
    """The name in ORDER that a module inside the package belongs to."""
    first, _, rest = module.partition(".")
    longer = f"{first}.{rest.partition('.')[0]}"
    return longer if longer in LEVEL else first


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name inside the package of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, inside = name.partition(".")
            if package == PACKAGE.name:
                is_module = inside.partition(".")[0] in LEVEL
                yield node.lineno, inside if is_module else "__init__"


def violations(module: str, source: str) -> list[str]:
    """What a module imports against the order, one line each."""
    if module == "__init__":
        return []  # it names the API for type checkers, and imports it when it is used: see below
    own = unit(module)
    found = []
    for line, name in imported(ast.parse(source)):
        other = unit(name)
        backward = other != own and LEVEL[other] >= LEVEL[own]
        if backward or (own in ROOMS and other in NOT_FOR_ROOMS):
            found.append(f"{module}:{line} imports {name}: {own} may not import {other}")
    return found


def foreign_private(module: str, source: str) -> list[str]:
    """The underscored modules that a module imports from another folder, one line each."""
    own = module.rpartition(".")[0]
    found = []
    for line, name in imported(ast.parse(source)):
        folder, _, rest = name.partition("._")
        if rest and f"{folder}._{rest.partition('.')[0]}" in MODULES and folder != own:
            found.append(f"{module}:{line} imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_an_underscored_module_stays_in_its_folder(module: str) -> None:
    assert foreign_private(module, MODULES[module].read_text()) == []


def test_an_import_of_a_private_module_is_found() -> None:
    source = "from drpo_cli.objectives._common import log_ratio"
    assert foreign_private("trainer.trainer", source)
    assert not foreign_private("objectives.drpo", source)


def test_every_module_has_a_place_in_the_order() -> None:
    assert {unit(module) for module in MODULES} - LEVEL.keys() == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trainer.step", "from drpo_cli.objectives._common import log_ratio"),
        ("trainer.step", "def f():\n    from drpo_cli.spec import load"),
        ("rewards.grading.score", "from drpo_cli import plan"),
        ("types", "if TYPE_CHECKING:\n    from drpo_cli.plugins import Selected"),
        ("plan", "import drpo_cli.trainer.model"),
        ("evaluate.metrics", "from drpo_cli.step.build import data"),
        ("step.sync", "import drpo_cli.tools.check"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_importing_the_package_loads_nothing_else() -> None:
    code = (
        "import sys; import drpo_cli\n"
        "print(sorted(m for m in sys.modules if m.startswith(('drpo_cli', 'torch', 'pydantic'))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "['drpo_cli']"


def test_what_a_check_needs_loads_nothing_heavy() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [h for h in {HEAVY} if h in sys.modules]\n"
        "    if heavy: sys.exit(f'{name} imports {heavy}')"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
