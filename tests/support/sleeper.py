"""What stands for `vllm.LLM` where sleep and wake are tested."""

from __future__ import annotations

from types import SimpleNamespace

import torch


class Sleeper:
    """Stands for `vllm.LLM` on a GPU, and keeps the order of what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        worker = SimpleNamespace(
            model_runner=SimpleNamespace(get_model=lambda: torch.nn.Module()),
            reload_weights=lambda weights_iterator: self.calls.append(
                f"load {[name for name, _ in weights_iterator]}"
            ),
        )
        driver = SimpleNamespace(driver_worker=SimpleNamespace(worker=worker))
        self.llm_engine = SimpleNamespace(model_executor=driver)

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {tags}")

    def reset_prefix_cache(self, reset_running_requests: bool) -> bool:
        self.calls.append("drop cache")
        return "refuse" not in self.calls
