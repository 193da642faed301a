"""Counts the kernels that a device would be given, on fake tensors that compute nothing.

The tensors claim to be on a CPU: torch without CUDA refuses a backward pass of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# operations that make a view or take memory, and start no kernel
FREE = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "device", "empty"),
    *("empty_like", "expand", "is_same_size", "lift_fresh", "new_empty", "permute", "select"),
    *("slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze", "view"),
}


class _Counter(TorchDispatchMode):
    """Counts operations by name; each starts at least one kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := func.overloadpacket.__name__) not in FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_kernels() -> Iterator[Counter[str]]:
    """Counts the kernels of what is done inside, where tensors are fake."""
    with FakeTensorMode(), _Counter() as counter:
        yield counter.counts
