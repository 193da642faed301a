from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.models import tiny_model
from support.ranks import Ranks, open_ranks


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    """Two ranks, new ones for each file: a rank that failed does not spoil the others."""
    with open_ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))
