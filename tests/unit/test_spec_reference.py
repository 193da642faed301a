"""docs/spec.md is what the schema says today."""

from __future__ import annotations

from pathlib import Path

from drpo_cli import plugins, settings
from drpo_cli.spec.model import ORDER
from drpo_cli.spec.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "spec.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_every_section_key_and_plugin_has_its_place() -> None:
    page = reference()
    headings = [line.strip("# `[]") for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["preset", *ORDER]
    for model in vars(settings).values():
        if isinstance(model, type) and issubclass(model, settings.Settings):
            row = "`{}`" if model is settings.Shot else "\n| `{}` | "  # a table inside a cell
            assert all(row.format(name) in page for name in model.model_fields)
    for kind in plugins.KINDS:
        assert all(f'= "{name}"`' in page for name in plugins.available(kind))


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert rows and not [row for row in rows if row.endswith("|  |")]
