"""The parts of `drpo plan`: growth by layers, micro-batches, the cache, devices."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from drpo_cli.errors import UserError
from drpo_cli.rollout.engine.capacity import GIB, cache_bytes
from drpo_cli.tools.memory.engine import parse_device
from drpo_cli.tools.memory.inputs import Batch, Lengths
from drpo_cli.tools.memory.traffic import Transfer, estimate_transfer

# In a process of its own: the fake process group may not meet a real one.
GROWTH = """
import sys, tempfile
from pathlib import Path
from support.models import tiny_model
from drpo_cli.devices import resolve
from drpo_cli.rollout.engine.precision import Precision
from drpo_cli.settings import ModelSettings, TrainSettings
from drpo_cli.tools.memory import passes
from drpo_cli.tools.memory.inputs import Batch, Lengths

kind, what, device = sys.argv[1:]
critic, checkpointing = what == "critic", what == "checkpointing"
with tempfile.TemporaryDirectory() as folder:
    model = tiny_model(Path(folder) / "m", kind, num_hidden_layers=6, layer_types=None)
    batch = Batch(Lengths(8, 25), 4, 8, 104)
    settings = TrainSettings(gradient_checkpointing=checkpointing)
    job = passes.Job(
        ModelSettings(path=str(model)), Precision("bfloat16", "bfloat16"),
        resolve(settings, device, "bfloat16"), 2, batch, batch,
        critic=critic, accumulate=True, device=device,
    )
    grown = passes.measure(job)
    passes.measure.cache_clear()
    passes.FEW = (6, 7)
    whole = passes.measure(job)
    exact = kind != "gemma3"  # masks of its two kinds of attention come and go with their layers
    for key, parts in whole.items():
        if "middle" not in key[1]:
            there, here = sum(grown[key].values()), sum(parts.values())
            assert grown[key] == parts if exact else abs(there / here - 1) < 0.01, key
    assert len(grown) > 20
"""


@pytest.mark.parametrize(
    ("kind", "what", "device"),
    [
        ("qwen3", "policy", "cuda"),
        ("llama", "critic", "cpu"),
        ("gemma3", "checkpointing", "cpu"),
        ("stablelm", "policy", "cpu"),  # padded
    ],
)
def test_a_few_layers_show_what_all_need(kind: str, what: str, device: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH, kind, what, device],
        env={"PYTHONPATH": "tests:."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize(
    ("group", "sequences", "budget", "tokens", "count"),
    [
        (1, 99, 100, 100, 4),  # 29 each, the last one cut
        (4, 99, 100, 100, 5),  # 10 + 4 × 19 = 86, then a prompt and 4 tokens
        (4, 3, 100, 67, 3),  # no more sequences than there are
        (1, 99, 20, 29, 1),  # longer than the budget: alone
    ],
)
def test_the_largest_micro_batch(
    group: int, sequences: int, budget: int, tokens: int, count: int
) -> None:
    batch = Batch(Lengths(10, 20), group, sequences, budget)
    assert (batch.tokens, len(batch.rows)) == (tokens, count)
    assert batch.shares_prompts == (group > 1)


def test_the_largest_padded_micro_batch() -> None:
    batch = Batch(Lengths(10, 20), 4, 99, 100, padded=True)
    assert (batch.tokens, len(batch.rows), batch.packed.sequences) == (3 * 29, 3, 3)
    assert not batch.shares_prompts
    assert len(Batch(Lengths(10, 20), 4, 99, 20, padded=True).rows) == 1  # longer than the budget


def text(**more: object) -> SimpleNamespace:
    """A configuration with the sizes that a cache depends on."""
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256, **more}
    config = SimpleNamespace(**sizes)
    config.get_text_config = lambda: config
    return config


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (text(), 4 * 2 * 8 * 32 * 160),
        (text(num_key_value_heads=2, head_dim=64), 4 * 2 * 2 * 64 * 160),
        (text(sliding_window=32), 4 * 2 * 8 * 32 * 32),
        (
            text(sliding_window=32, layer_types=["sliding_attention"] * 3 + ["full_attention"]),
            2 * 8 * 32 * (3 * 32 + 160),
        ),
        (text(kv_lora_rank=64, qk_rope_head_dim=16), 4 * 80 * 160),
    ],
)
def test_a_sequence_of_160_tokens_in_the_cache(config: SimpleNamespace, numbers: int) -> None:
    assert cache_bytes(config, 2, 150) == 2 * numbers  # whole blocks of 16 tokens


def test_ranks_of_an_engine_share_its_cache() -> None:
    whole = cache_bytes(text(num_key_value_heads=4), 2, 150)
    shares = [cache_bytes(text(num_key_value_heads=4), 2, 150, ranks) for ranks in (2, 4, 8)]
    assert shares == [whole // 2, whole // 4, whole // 4]  # two ranks have the same key head
    latent = text(kv_lora_rank=64, qk_rope_head_dim=16)
    assert cache_bytes(latent, 2, 150, 8) == cache_bytes(latent, 2, 150)


def test_devices_by_name_and_by_size() -> None:
    assert parse_device("H100-80G", 8).bytes == int(79.1 * GIB) and parse_device("h100-80g", 8).cuda
    assert parse_device("48g", 1).bytes == 48 * GIB and parse_device("48gib", 1).cuda
    assert parse_device("cpu-24g", 4).bytes == 24 * GIB and not parse_device("cpu-24g", 4).cuda
    assert parse_device("cpu", 2).bytes == parse_device("cpu", 1).bytes // 2
    for wrong in ("0g", "tpu", "24", "cpu-g"):
        with pytest.raises(UserError, match=f"--gpu {wrong}: is not a device"):
            parse_device(wrong, 1)


def test_what_a_sync_moves() -> None:
    assert estimate_transfer(100, 1, 1) == Transfer(100, 0, 0, 0)
    assert estimate_transfer(160, 8, 2) == Transfer(160, 140, 1120, 160)
    assert estimate_transfer(160, 8, 2, 2) == Transfer(160, 120, 960, 0)  # a copy in each node
    assert estimate_transfer(160, 8, 4, 2) == Transfer(160, 120, 960, 320)
    assert estimate_transfer(160, 8, 1, 8) == Transfer(160, 0, 0, 0)
