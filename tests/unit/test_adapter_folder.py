"""Adapter folders: what peft writes is merged exactly, what a run exports is what peft loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from drpo_cli.dist import World, full
from drpo_cli.errors import UserError
from drpo_cli.settings import LoraSettings
from drpo_cli.step import checkpoint
from drpo_cli.tools.evaluate import prepare_weights
from support.models import VOCABULARY, experience, samples, tiny_model, tokenizer, world
from support.training import open_trainer

IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "model", "llama")


def logits(lm: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.eval()(IDS).logits
    return found


def read(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapter(base: Path, folder: Path, named: str | None = None, **options: Any) -> Path:
    """A random adapter that peft writes."""
    lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "down_proj"], **options}
    found = get_peft_model(lm, LoraConfig(**options))
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
    found.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base) if named is None else named
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def gpt2(folder: Path) -> Path:
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, "down_proj": 6},
            "alpha_pattern": {"q_proj": 3},
        },
        {"gpt2": True, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    ],
    ids=["plain", "rslora", "patterns", "gpt2"],
)
def test_an_adapter_of_peft_is_merged_exactly(
    base: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = dict(options)
    base = gpt2(tmp_path / "gpt2") if options.pop("gpt2", False) else base
    folder = adapter(base, tmp_path / "adapter", **options)
    expected = logits(PeftModel.from_pretrained(read(base), folder))
    assert not torch.equal(expected, logits(read(base)))
    checkpoint.export(folder, tmp_path / "out", merged=True)
    torch.testing.assert_close(logits(read(tmp_path / "out")), expected, rtol=0, atol=1e-5)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    model = prepare_weights(folder, tmp_path / "scratch", "bfloat16")
    assert load_file(model / "model.safetensors").popitem()[1].dtype == torch.bfloat16


def test_a_run_with_adapters_gives_an_adapter_for_peft_or_a_model(
    base: Path, tmp_path: Path, here: World
) -> None:
    trainer = open_trainer(base, here, lora=LoraSettings(rank=4, alpha=12, rslora=True))
    trainer.step(experience(samples([(3, 9), (6, 2)])))
    store = checkpoint.Checkpoints(tmp_path, 3, here)
    saved = store.save(1, trainer, tokenizer(), {"dtype": "float32"})
    checkpoint.export(saved, tmp_path / "adapter")
    checkpoint.export(saved, tmp_path / "model", merged=True)
    with_peft = logits(PeftModel.from_pretrained(read(base), tmp_path / "adapter"))
    assert (with_peft - logits(read(base))).abs().max() > 1e-4
    with torch.no_grad():
        for layer in trainer.policy.adapted.values():  # what the run itself computes with
            a, b = (layer.get_parameter(f"lora_{x}.default.weight") for x in "AB")
            change = layer.scaling["default"] * (full(b) @ full(a))
            assert change.abs().max() > 0
    torch.testing.assert_close(logits(read(tmp_path / "model")), with_peft, rtol=0, atol=1e-5)
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert "config.json" not in names
    checkpoint.export(tmp_path / "adapter", tmp_path / "again", merged=True)
    same = load_file(tmp_path / "again" / "model.safetensors")
    for name, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(same[name], weight), name


def test_a_base_that_has_changed_is_not_merged(tmp_path: Path, here: World) -> None:
    own = tiny_model(tmp_path / "own", "llama")
    trainer = open_trainer(own, here, lora=LoraSettings(rank=4))
    store = checkpoint.Checkpoints(tmp_path, 3, here)
    saved = store.save(1, trainer, tokenizer(), {"dtype": "float32"})
    tensors = load_file(own / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="other weights than when this run started"):
        checkpoint.export(saved, tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_relative_base_counts_from_here_or_from_the_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter(base, base.parent / "beside", named="../model")
    checkpoint.export(folder, tmp_path / "one", merged=True)
    monkeypatch.chdir(base.parent)
    folder = adapter(base, tmp_path / "here", named="model")
    checkpoint.export(folder, tmp_path / "two", merged=True)
    assert (tmp_path / "one" / "config.json").is_file()
    assert (tmp_path / "two" / "config.json").is_file()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases that were trained"),
        ({"modules_to_save": ["lm_head"]}, "trained whole"),
        ({"target_modules": ["embed_tokens"]}, "not A and B of a linear layer"),
        ({"named": ""}, "does not name its base"),
        ({"other": {"hidden_size": 64}}, "another model than .*, whose .* is"),
        ({"other": {"num_hidden_layers": 1}}, "another model than .* no linear layer"),
    ],
)
def test_what_is_not_base_and_adapter_is_refused(
    base: Path, tmp_path: Path, options: dict[str, Any], what: str
) -> None:
    options = dict(options)
    if (other := options.pop("other", None)) is not None:
        options["named"] = str(tiny_model(tmp_path / "other", "llama", **other))
    folder = adapter(base, tmp_path / "adapter", **options)
    with pytest.raises(UserError, match=what):
        checkpoint.export(folder, tmp_path / "out", merged=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="already") as raised:
        checkpoint.export(folder, tmp_path / "out")
    assert "--merged" in raised.value.fix


TARGETS = ("q_proj", "down_proj")


def test_training_starts_from_an_adapter(base: Path, tmp_path: Path, here: World) -> None:
    folder = adapter(base, tmp_path / "adapter")
    lora = LoraSettings(rank=4, alpha=12.0, target_modules=TARGETS, start=folder)
    trainer = open_trainer(base, here, lora=lora)
    stored = load_file(folder / "adapter_model.safetensors")
    named = trainer.policy.named_adapters()
    assert {name for name, _ in named} == stored.keys()
    for name, weight in named:
        assert torch.equal(full(weight), stored[name])
    exp = experience(samples([(4, 6), (2, 9)]))
    expected = PeftModel.from_pretrained(read(base), str(folder))
    logp_T = trainer.replay(exp)
    found = []
    for prompt_ids, response in zip(exp.prompt_ids_S, exp.split(exp.token_T), strict=True):
        ids = torch.tensor([[*prompt_ids, *response.tolist()]])
        with torch.no_grad():
            logp_TV = expected.eval()(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
        found.append(logp_TV.gather(-1, response[:, None])[:, 0])
    torch.testing.assert_close(logp_T, torch.cat(found), atol=1e-5, rtol=0)
    trainer.step(exp)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": ("q_proj",)}, "adapters in other layers"),
        ({"rank": 8, "alpha": 24.0}, "A and B of .* are .* there, .* here"),
        ({"alpha": 4.0}, "scales .* by 3, and lora.alpha and lora.rank give 1"),
    ],
)
def test_an_adapter_that_the_spec_does_not_describe(
    base: Path, tmp_path: Path, here: World, changes: dict[str, Any], said: str
) -> None:
    folder = adapter(base, tmp_path / "adapter")
    given = {"rank": 4, "alpha": 12.0, "target_modules": TARGETS, "start": folder, **changes}
    with pytest.raises(UserError, match=f"lora.start: .*{said}"):
        open_trainer(base, here, lora=LoraSettings(**given))
