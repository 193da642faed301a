"""The sync of families is proven on the real vLLM: every weight arrives, and log-probs agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.models_page import PROVEN, REFUSED

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What `support.engine_case` finds, in one process: starting it takes longer than a family."""
    done = subprocess.run(
        [sys.executable, "-m", "support.engine_case", *PROVEN, *REFUSED],
        cwd=TESTS,
        env={
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one["kind"]: one for one in lines}


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
