"""Deferred tensors are computed as the plain ones are, row by row where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from drpo_cli.deferred import Deferred, read_files, stored, whole

ROWS, COLUMNS = 6, 4


class Source:
    """Rows in memory, which remembers the numbers of rows that were read."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.read: list[int] = []

    def __getitem__(self, place: slice) -> Tensor:
        self.read.append(place.stop - place.start)
        return self.values[place]


def halves(x: Tensor) -> Tensor:
    """Rows of pairs, put next to each other: as rotary weights are permuted."""
    return x.reshape(2, ROWS // 2, COLUMNS).transpose(0, 1).reshape(ROWS, COLUMNS).contiguous()


EXPRESSIONS: dict[str, tuple[Callable[[list[Tensor]], Tensor], int | None]] = {
    "as it is": (lambda x: x[0], 2),
    "rounded": (lambda x: x[0][...].to(torch.bfloat16).detach(), 2),
    "stacked": (lambda x: torch.stack(x, dim=0), 2 * ROWS),
    "stacked and joined": (
        lambda x: torch.cat([torch.stack(x), torch.stack(x[::-1])], dim=1).to(torch.float64),
        4 * ROWS,
    ),
    "joined columns": (lambda x: torch.cat(x, dim=1), 3 * 2),
    "a part of the rows": (lambda x: torch.chunk(x[0], 2, dim=0)[1].contiguous(), 2),
    "a part of the columns": (lambda x: torch.chunk(x[0], 2, dim=1)[1].contiguous(), 2),
    "one expert": (lambda x: torch.chunk(torch.stack(x), 3)[1].squeeze(), ROWS),
    "joined rows": (lambda x: torch.cat(x, dim=0), None),
    "transposed": (lambda x: x[0].transpose(0, 1).contiguous(), None),
    "permuted": (lambda x: halves(x[0]), None),
    "with a plain tensor": (lambda x: torch.cat([x[0], torch.ones(ROWS, 1)], dim=1), 2),
}
"""An expression over three matrices, and the rows that two of its rows need; None for all."""


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_rows_are_those_of_the_plain_tensor(case: str) -> None:
    express, needed = EXPRESSIONS[case]
    plain = [torch.randn(ROWS, COLUMNS) for _ in range(3)]
    sources = [Source(one) for one in plain]
    tensors: list[Tensor] = [stored(one, one.values.to("meta")) for one in sources]
    found, expected = express(tensors), express(plain)
    assert isinstance(found, Deferred) and not any(one.read for one in sources)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    rows = found.rows(1, 3)
    assert torch.equal(rows, expected[1:3]) and rows.dtype == expected.dtype
    if needed is not None:
        assert sum(sum(one.read) for one in sources) == needed
    assert torch.equal(whole(found), expected)


def test_what_is_not_a_tensor_is_computed() -> None:
    values = torch.randn(ROWS, COLUMNS)
    one, other = (stored(source, values.to("meta")) for source in (values, values + 1))
    assert torch.equal(one, one.clone()) and not torch.equal(one, other)


def test_initialising_leaves_what_is_stored_and_makes_plain_tensors() -> None:
    source = Source(torch.randn(ROWS, COLUMNS))
    one = stored(source, source.values.to("meta"))
    one[2].zero_()
    one.copy_(torch.empty_like(one).uniform_(1, 2).log_())
    fresh = torch.zeros_like(one)
    fresh[:2] = 1.0
    assert type(fresh) is Tensor and fresh.sum() == 2 * COLUMNS
    assert not source.read
    assert torch.equal(whole(one), source.values)


def test_files(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(5, 3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "empty": torch.ones(0, 3),
        "numbers": torch.arange(4),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save({"more": torch.ones(2, 2), "one": torch.tensor(1.0)}, tmp_path / "b.bin")
    found = read_files([tmp_path / "a.safetensors", tmp_path / "b.bin"])
    expected = {**tensors, "more": torch.ones(2, 2), "one": torch.tensor(1.0)}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(whole(found[name]), tensor) and whole(found[name]).dtype == tensor.dtype
