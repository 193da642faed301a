"""What vLLM's own models do with the weights of a sync: `python -m support.engine_names KIND…`.

No engine is started, and no token sampled: this shows families that vLLM runs on GPUs alone, too.
Prints a line of JSON for each family. `class` is vLLM's; `refused` is why it has none here. Of a
sound sync every element fills exactly one element of vLLM's model, and none is left: `lost` has the
weights of which that is not so, `empty` those of vLLM's to which nothing came.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from drpo_cli.dist import World
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.step.sync import checkpoint_weights
from support.models import tiny_model, world
from support.training import open_policy


def prepare_vllm() -> None:
    """Has vLLM look at its models in this process, and import all of them."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm.model_executor.models import registry

    # it would start a process for each class
    registry._LazyRegisteredModel.inspect_model_cls = lambda self: (
        registry._ModelInfo.from_model_cls(self.load_model_cls())
    )
    if importlib.util.find_spec("torchvision") is None:  # there is no build for this machine
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2"):
            sys.modules[name] = MagicMock()  # some text models import image processing with it


def join_groups() -> None:
    """Makes vLLM's process groups, which its engine makes otherwise."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    with set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, backend="gloo")
        initialize_model_parallel(1, 1)


def look(kind: str, here: World) -> dict[str, Any]:
    """Sends the weights of a family to vLLM's model, one by one."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny_model(Path(scratch), kind)
        policy = open_policy(folder, here)
        sent = list(checkpoint_weights(policy, Precision("bfloat16", "bfloat16"), here))
        try:
            options = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 128}
            config = EngineArgs(model=str(folder), **options).create_engine_config()
            with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
                model = initialize_model(config)
                return {"class": type(model).__name__, **deliver(model, sent)}
        except Exception as error:  # what vLLM says is the cell's reason
            return {"refused": f"{type(error).__name__}: {error}"}


def deliver(model: Any, weights: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """What becomes of weights that a model of vLLM loads: see the top of this file."""
    for one in tensors(model):
        one.data.fill_(torch.nan)
    lost = {}
    for name, weight in weights:
        before = missing(model)
        try:
            model.load_weights([(name, weight)])
        except Exception as error:
            lost[name] = f"{type(error).__name__}: {error}"
            continue
        if (filled := before - missing(model)) != weight.numel():
            lost[name] = f"fills {filled} elements, and has {weight.numel()}"
    empty = [name for name, one in model.named_parameters() if one.isnan().any()]
    return {"lost": lost, "empty": empty}


def tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, and buffers of numbers that may be NaN."""
    held = {one.data_ptr(): one for one in (*model.buffers(), *model.parameters())}  # no views
    return [one for one in held.values() if one.is_floating_point()]


def missing(model: nn.Module) -> int:
    """How many elements nothing has filled yet."""
    return sum(int(one.isnan().sum()) for one in tensors(model))


if __name__ == "__main__":
    with world() as here:
        prepare_vllm()
        join_groups()
        for kind in sys.argv[1:]:
            sys.stdout.write("\n" + json.dumps({"kind": kind, **look(kind, here)}) + "\n")
            sys.stdout.flush()
        os._exit(0)
