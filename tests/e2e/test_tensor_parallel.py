"""Two engines over two ranks each compute what one engine alone does, before and after a sync."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.models import tiny_model

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.engine


def outcome(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "support.tensor_case", str(folder)],
        cwd=TESTS,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert [one["error"] for one in found if "error" in one] == []
    return found


@pytest.fixture
def shared_memory() -> Iterator[None]:
    """What a run leaves that used vLLM's shared memory and was killed: vLLM refuses to start."""
    left = [Path(f"/dev/shm/-tp:0-[{ranks}]-cpushm_0") for ranks in ("0-1", "2-3")]
    for path in left:
        path.touch()
    yield
    for path in left:
        path.unlink(missing_ok=True)


@pytest.mark.usefixtures("shared_memory")
def test_engines_over_two_ranks_are_as_one_alone(tmp_path: Path) -> None:
    """A tied head: each rank holds half of the vocabulary, packed again at every push."""
    *ranks, alone = outcome(tiny_model(tmp_path / "model"))
    assert [list(rank["before"]) for rank in ranks] == [
        ["12+34=", "7*8="],
        ["the sum of 1"],
        [],
        ["(2-3)/4=", "9-9="],
    ]
    for rank in ranks:
        for prompt, group in rank["before"].items():
            for (ids, logps), (same_ids, same_logps) in zip(
                group, alone["before"][prompt], strict=True
            ):
                assert ids == same_ids
                assert logps == pytest.approx(same_logps, abs=1e-5)
    assert [len(rank["talks"][0]) for rank in ranks] == [6, 3, 0, 6]
    for rank, held in zip(ranks, alone["talks"], strict=True):
        for (*said, logps), (*same, same_logps) in zip(rank["talks"][0], held, strict=True):
            assert said == same
            assert logps == pytest.approx(same_logps, abs=1e-5)
    for one in (*ranks, alone):
        assert one["fresh"] < 1e-5 < 1e-3 < one["stale"]
    assert len({rank["fresh"] for rank in ranks}) == 1
