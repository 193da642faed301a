"""What the tests' own ranks do when a rank fails or dies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drpo_cli.dist import World
from support.ranks import Ranks


def abort_once(here: World, mark: Path) -> int:
    """Aborts rank 1 in the first call, as the C library does when it finds a broken heap."""
    if here.rank == 1 and not mark.exists():
        mark.touch()
        os.abort()
    here.barrier()
    return here.rank


def fail(here: World) -> None:
    raise ValueError(f"rank {here.rank} fails")


def test_a_job_is_run_again_after_an_abort_only(two: Ranks, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="abort_once is run again: exit codes .*-6"):
        assert two.run(abort_once, mark=tmp_path / "aborted") == [0, 1]
    with pytest.raises(pytest.fail.Exception, match="ValueError: rank 0 fails"):
        two.run(fail)
    assert two.run(abort_once, mark=tmp_path / "aborted") == [0, 1]  # by new ranks
