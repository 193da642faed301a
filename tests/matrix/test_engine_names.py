"""The names and shapes of a sync are those that vLLM's own models take, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support import by_family
from support.families import FAMILIES
from support.models_page import IN_VLLM, NOT_IN_VLLM, page

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What `support.engine_names` finds, in one process for all families."""
    return by_family.run("engine_names", FAMILIES)


@pytest.mark.engine
@pytest.mark.parametrize("kind", IN_VLLM)
def test_every_weight_has_its_place_in_vllm(found: dict[str, dict[str, Any]], kind: str) -> None:
    assert found[kind] == {"kind": kind, "class": IN_VLLM[kind], "lost": {}, "empty": []}


@pytest.mark.engine
@pytest.mark.parametrize("kind", NOT_IN_VLLM)
def test_what_vllm_does_not_run_is_still_so(found: dict[str, dict[str, Any]], kind: str) -> None:
    said, _ = NOT_IN_VLLM[kind]
    assert said in str(found[kind].get("refused") or found[kind]["lost"])


def test_the_page_is_made_from_the_declarations() -> None:
    assert IN_VLLM.keys() ^ NOT_IN_VLLM.keys() == FAMILIES.keys()
    written = (TESTS.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert written == page(), "python -m support.models_page > docs/models.md writes it"
