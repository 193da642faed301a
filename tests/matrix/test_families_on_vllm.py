"""The sync of families is proven on the real vLLM: every weight arrives, and log-probs agree."""

from __future__ import annotations

from typing import Any

import pytest

from support import by_family
from support.models_page import PROVEN, REFUSED

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What `support.engine_case` finds, in one process: starting it takes longer than a family."""
    return by_family.run("engine_case", [*PROVEN, *REFUSED])


@pytest.mark.parametrize("kind", PROVEN)
def test_every_weight_of_a_family_arrives(found: dict[str, dict[str, Any]], kind: str) -> None:
    assert found[kind].get("said") is None
    assert found[kind]["gap"] < 2e-5


@pytest.mark.parametrize("kind", REFUSED)
def test_an_engine_that_computes_another_model_is_refused(
    found: dict[str, dict[str, Any]], kind: str
) -> None:
    said, _ = REFUSED[kind]
    assert said in found[kind]["said"]
    assert 'rollout.engine = "transformers"' in found[kind]["said"]
