"""What every built-in data source must satisfy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from drpo_cli import plugins
from drpo_cli.settings import SourceSettings
from drpo_cli.settings.meanings import meanings
from drpo_cli.types import Problem
from support.beside import HAS_VERIFIERS

SOURCES = plugins.available("data")
GAME = Path(__file__).parents[1] / "support" / "verifiers_game.py"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The options that a source cannot do without; a source that is missing here must need none."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{i}", "answer": i}) + "\n" for i in range(4)))
    (tmp_path / "rows.csv").write_text("prompt,answer\n" + "".join(f"p{i},{i}\n" for i in range(4)))
    table = pyarrow.table({"prompt": [f"p{i}" for i in range(4)], "answer": range(4)})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    return {
        "csv": {"path": "rows.csv"},
        "jsonl": {"path": "rows.jsonl"},
        "parquet": {"path": "rows.parquet"},
        "huggingface": {"path": "rows.jsonl"},
        "reasoning_gym": {"task": "chain_sum"},
        "verifiers": {"load": f"{GAME}:once"},
    }


@pytest.mark.parametrize("name", SOURCES)
def test_source_returns_problems(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    if name == "verifiers" and not HAS_VERIFIERS:
        pytest.skip("needs the package verifiers")
    plugin = plugins.load("data", name)
    config = plugin.Config.model_validate(options.get(name, {}), context={"folder": tmp_path})
    rows = plugin.entry(config)
    assert len(rows) >= 4
    assert all(isinstance(rows[i], Problem) for i in (0, len(rows) - 1))
    assert rows[0] == rows[0]
    assert rows[0].prompt != rows[1].prompt
    assert json.loads(json.dumps(dict(rows[0].metadata))).keys() == rows[0].metadata.keys()
    with pytest.raises(IndexError):
        rows[len(rows)]


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_documented(name: str) -> None:
    plugin = plugins.load("data", name)
    assert plugin.doc.splitlines()[0].endswith((".", ":"))
    assert issubclass(plugin.Config, SourceSettings)
    assert plugin.Config.model_config["extra"] == "forbid"
    assert meanings(plugin.Config).keys() == plugin.Config.model_fields.keys()


@pytest.mark.parametrize("kind", ["data", "rewards"])
def test_loading_a_config_imports_nothing_heavy(kind: str) -> None:
    heavy = ["torch", "transformers", "datasets", "scipy", "numpy", "sympy", "vllm", "pyarrow"]
    code = (
        "import sys; from drpo_cli import plugins\n"
        f"for name in plugins.available({kind!r}): plugins.load({kind!r}, name).Config\n"
        f"print([m for m in {heavy} + ['math_verify', 'reasoning_gym'] if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
