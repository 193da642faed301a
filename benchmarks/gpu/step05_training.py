"""Training steps of 0.6B and 1.7B shapes: model FLOP/s as a share of a product, and memory.

The step is `Trainer.step` on packed sequences in bfloat16: packing, forward, backward, clipping and
AdamW. `row04_model_flops` says which FLOPs count. The peak of tensors on the device is compared
with what `drpo plan` predicts for the pass, without its allowances.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks._bench import in_own_process
from benchmarks._ranks import alone
from benchmarks._trainers import Shape, make_model, on_policy, open_trainer, random_rows, step
from benchmarks.gpu._finding import Finding, Findings, Size, at_most, peak_bytes, seconds
from benchmarks.row04_model_flops import model_flops

GIB = 2**30
SHAPES: dict[Size, dict[str, Shape]] = {
    "full": {
        "0.6B": Shape(151_936, 1024, 3072, layers=28, heads=16, kv_heads=8, head_dim=128),
        "1.7B": Shape(151_936, 2048, 6144, layers=28, heads=16, kv_heads=8, head_dim=128),
    },
    "smoke": {"tiny": Shape(320, 64, 128, layers=2, heads=4, kv_heads=2, head_dim=16)},
}
PROMPT: dict[Size, int] = {"full": 257, "smoke": 9}
RESPONSE: dict[Size, int] = {"full": 768, "smoke": 24}
GROUPS: dict[Size, list[int]] = {"full": [1] * 16, "smoke": [1] * 4}
SHARED: dict[Size, list[int]] = {"full": [8] * 2, "smoke": [4]}
BUDGET: dict[Size, int] = {"full": 16_384, "smoke": 64}
SIDE: dict[Size, int] = {"full": 8192, "smoke": 128}
PREDICTED = 0.1  # how far a measured peak may be above the predicted one


def measure(size: Size) -> Findings:
    """Yields rate, share and peak for each shape, with prompts apart and shared."""
    import torch

    with alone() as world:
        product = _product_rate(SIDE[size], world.device)
        for name, shape in SHAPES[size].items():
            with tempfile.TemporaryDirectory() as scratch, torch.device(world.device):
                folder = make_model(Path(scratch) / "model", shape)
                with torch.device("cpu"):
                    yield from _of_shape(name, folder, shape, world, size, product)


def _product_rate(side: int, device: Any) -> float:
    """FLOP/s of a large matrix product in bfloat16."""
    import torch

    left = torch.randn(side, side, device=device).bfloat16()
    return 2 * side**3 / seconds(lambda: left @ left, device)


def _of_shape(
    name: str, folder: Path, shape: Shape, world: Any, size: Size, product: float
) -> Findings:
    trainer = open_trainer(folder, world, "bfloat16", tokens_per_microbatch=BUDGET[size])
    for kind, groups in (("prompts apart", GROUPS[size]), ("shared prompts", SHARED[size])):
        prompts = [(PROMPT[size], group) for group in groups]
        rows = on_policy(trainer, random_rows(prompts, RESPONSE[size], shape.vocabulary))
        taken = seconds(lambda r=rows: step(trainer, r), world.device, times=3, warm=1)
        tokens = len(rows.token_T) + sum(tokens for tokens, _ in prompts)
        yield Finding(f"{name}, {kind}: tokens per second", tokens / taken, "tokens/s")
        if kind == "prompts apart":
            share = model_flops(shape, rows) / taken / product
            yield Finding(f"{name}, {kind}: model FLOP/s ÷ matrix product", share)
        peak = peak_bytes(lambda r=rows: step(trainer, r), world.device)
        predicted = in_own_process(predict, folder, size, groups[0], len(rows))
        yield Finding(f"{name}, {kind}: peak predicted", predicted / GIB, "GiB")
        if world.device.type == "cuda":
            yield Finding(f"{name}, {kind}: peak measured", peak / GIB, "GiB")
            ratio = peak / predicted
            yield at_most(f"{name}, {kind}: measured ÷ predicted", ratio, 1 + PREDICTED)


def predict(folder: Path, size: Size, group: int, rows: int) -> int:
    """Returns the peak of a pass in bytes by `drpo plan`, without its allowances.

    In a process without a process group, since it makes a fake one.
    """
    from drpo_cli.devices import resolve
    from drpo_cli.dist import device_type
    from drpo_cli.rollout.engine.precision import Precision
    from drpo_cli.settings import ModelSettings, TrainSettings
    from drpo_cli.tools.memory.inputs import Batch, Lengths
    from drpo_cli.tools.memory.passes import Job, highest
    from drpo_cli.tools.memory.passes import measure as passes

    lengths, device = Lengths(PROMPT[size], RESPONSE[size]), device_type()
    settings = TrainSettings(tokens_per_microbatch=BUDGET[size])
    job = Job(
        model=ModelSettings(path=str(folder), dtype="bfloat16"),
        precision=Precision("bfloat16", "bfloat16"),
        settings=resolve(settings, device, "bfloat16"),
        ranks=1,
        batch=Batch(lengths, group, rows, BUDGET[size]),
        probe=Batch(lengths, 1, 1, BUDGET[size]),
        accumulate=False,
        device=device,
    )
    return sum(highest(passes(job), ["train", "optimizer"]).values())
