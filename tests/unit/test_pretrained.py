"""A model folder is loaded faithfully, or refused with what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForSequenceClassification,
)

from drpo_cli import pretrained
from drpo_cli.dist import World
from drpo_cli.errors import UserError
from drpo_cli.settings import CriticSettings, ReferenceSettings
from support.damaged import (
    EMBEDDING,
    HEAD,
    MATRIX,
    STRANGE,
    change,
    set_config,
    shard,
    with_more,
    with_value,
    without,
)
from support.models import tiny_model, world
from support.training import open_policy, open_trainer, weights

EXPERT = "model.layers.0.mlp.experts.3.up_proj.weight"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tied"), "qwen3")


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    with world() as joined:
        yield joined


@pytest.mark.parametrize("case", STRANGE)
def test_weights_that_are_not_the_models(
    llama: Path, tmp_path: Path, here: World, case: str
) -> None:
    new, said = STRANGE[case]
    folder = change(llama, tmp_path / "model", new)
    with pytest.raises(UserError, match=rf"^model\.path: .*{said}"):
        open_policy(folder, here)


def test_one_weight_under_two_names(llama: Path, tmp_path: Path, here: World) -> None:
    other = with_more(embed_tokens__weight=torch.ones(64, 128))
    folder = change(llama, tmp_path / "model", other)
    with pytest.raises(UserError, match=rf"has both embed_tokens\.weight and {EMBEDDING}, which"):
        open_policy(folder, here)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (without(EXPERT), rf"lacks 1 of the 48 matrices of the model's experts: {EXPERT};"),
        (
            lambda tensors: {n.replace("experts.3", "experts.8"): t for n, t in tensors.items()},
            rf"lacks 6 of .* experts: {EXPERT.replace('up', 'down')}, ",  # 8 there are all the same
        ),
        (
            lambda tensors: {n: t for n, t in tensors.items() if ".experts.7." not in n},
            r"experts\.down_proj is \[7, 128, 64\] in the file, \[8, ",
        ),
        (
            with_more(**{EXPERT.replace(".", "__"): torch.ones(3, 128)}),
            rf"{EXPERT} is \[3, 128\] in the file, \[64, 128\] by",
        ),
    ],
)
def test_experts_that_are_not_the_models(
    tmp_path: Path, here: World, new: Callable[..., Any], said: str
) -> None:
    folder = change(tiny_model(tmp_path / "sound", "qwen3_moe"), tmp_path / "model", new)
    with pytest.raises(UserError, match=rf"^model\.path: .*{said}"):
        open_policy(folder, here)


@pytest.mark.parametrize("path", ["reference.path", "critic.path"])
@pytest.mark.parametrize(
    ("new", "said"),
    [
        (without(MATRIX), rf"lacks 1 of .*: .*{MATRIX}"),
        (STRANGE["compiled"][0], "torch.compile"),
        (with_value(MATRIX, torch.nan), r"NaN or infinite values in .*layers\.0\.mlp\.up_proj"),
    ],
)
def test_reference_and_critic_too(
    llama: Path, tmp_path: Path, here: World, path: str, new: Any, said: str
) -> None:
    folder = str(change(llama, tmp_path / "model", new))
    chosen: dict[str, Any] = {"critic": CriticSettings(path=folder)}
    if path == "reference.path":
        chosen = {"reference": ReferenceSettings(path=folder)}
    with pytest.raises(UserError, match=rf"^{path}: .*{said}"):
        open_trainer(llama, here, **chosen)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(llama: Path, tmp_path: Path, here: World, value: float) -> None:
    folder = change(llama, tmp_path / "model", with_value(MATRIX, value))
    with pytest.raises(UserError, match=rf"^model\.path: .* in {MATRIX}; "):
        open_policy(folder, here)


def test_a_head_that_is_tied_in_name_only(tied: Path, tmp_path: Path, here: World) -> None:
    other = with_more(lm_head__weight=torch.ones(64, 128))
    folder = change(tied, tmp_path / "model", other)
    with pytest.raises(UserError, match=r"ties lm_head.* other values .* tie_word_embeddings = f"):
        open_policy(folder, here)
    with pytest.raises(UserError, match="ties lm_head"):
        open_trainer(tied, here, reference=ReferenceSettings(path=str(folder)))
    set_config(folder, tie_word_embeddings=False)  # as the message says
    assert weights(open_policy(folder, here))[HEAD].eq(1).all()


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(lambda tensors: {**tensors, HEAD: tensors[EMBEDDING].clone()}, id="equal"),
        pytest.param(
            lambda tensors: {HEAD if n == EMBEDDING else n: t for n, t in tensors.items()},
            id="head only",
        ),
        pytest.param(
            lambda tensors: {n.removeprefix("model."): t for n, t in tensors.items()},
            id="decoder's names",
        ),
        pytest.param(
            with_more(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16)),
            id="old buffer",
        ),
        pytest.param(
            with_more(model__layers__0__self_attn__masked_bias=torch.tensor(-1e4)), id="old mask"
        ),
    ],
)
def test_what_loads_as_before(
    tied: Path, tmp_path: Path, here: World, new: Callable[..., Any]
) -> None:
    expected = weights(open_policy(tied, here))
    found = weights(open_policy(change(tied, tmp_path / "model", new), here))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_that_transformers_declares_unimportant(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = Glm4MoeConfig(vocab_size=64, num_hidden_layers=1, **sizes, **heads)
    Glm4MoeForCausalLM(config).save_pretrained(tmp_path / "sound")
    extra = with_more(model__layers__92__eh_proj__weight=torch.ones(2, 2))  # for several tokens
    folder = change(tmp_path / "sound", tmp_path / "model", extra)
    pretrained.load(AutoModelForCausalLM, str(folder), "model.path", trust_remote_code=False)


def test_a_decoder_with_a_switch_that_has_no_effect(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = GPTNeoXConfig(vocab_size=64, num_hidden_layers=1, **sizes)
    assert not config.is_decoder
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    pretrained.load(AutoModelForCausalLM, str(tmp_path), "model.path", trust_remote_code=False)


def test_a_critic_may_start_from_a_classifier(llama: Path, tmp_path: Path, here: World) -> None:
    config = AutoModelForCausalLM.from_pretrained(llama).config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    open_trainer(llama, here, critic=CriticSettings(path=str(tmp_path)))


def test_rounded_weights(llama: Path, tmp_path: Path, here: World) -> None:
    whole = with_more(**{MATRIX.replace(".", "__"): torch.ones(256, 128, dtype=torch.int8)})
    folder = change(llama, tmp_path / "model", whole)
    with pytest.raises(UserError, match=rf"1 of .* stored as I8, .* scale: {MATRIX}; name"):
        open_policy(folder, here)
    set_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UserError, match=r"^model\.path: .* is quantised .*; name the model that"):
        open_policy(folder, here)


def test_an_encoder(tmp_path: Path, here: World) -> None:
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"of type bert .* is not causal.* name a causal"):
        open_policy(tmp_path, here)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _point(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda index, files: files[1].unlink(), "lacks model-00002-of-00002.safetensors, which"),
        (lambda index, files: _cut(files[1]), "00002.safetensors is damaged or cut short"),
        (lambda index, files: files[1].write_bytes(b""), "damaged or cut short"),
        (lambda index, files: _point(files[0]), "is a pointer of Git LFS.*git lfs pull"),
        (lambda index, files: index.write_text("{"), "index.json is not the .* of a model"),
        (lambda index, files: index.write_text('{"weight_map": [3]}'), "has no weight_map"),
        (
            lambda index, files: shutil.copy(files[0], files[0].with_name("model.safetensors")),
            "has both model.safetensors and model.safetensors.index.json",
        ),
        (
            lambda index, files: shutil.copy(files[0], files[1]),
            "00002.safetensors has no .* unlike its index says",
        ),
    ],
)
def test_broken_shards(
    llama: Path, tmp_path: Path, here: World, damage: Callable[..., Any], said: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    index, files = shard(folder)
    open_policy(folder, here)  # as they are, they load
    damage(index, files)
    with pytest.raises(UserError, match=rf"^model\.path: .*{said}"):
        open_policy(folder, here)


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        """`mark` is the file that the command makes."""
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_bin_file_with_code(llama: Path, tmp_path: Path, here: World) -> None:
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(llama, folder)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(dict(lm.state_dict()), folder / "pytorch_model.bin")
    open_policy(folder, here)  # weights alone load
    torch.save({**lm.state_dict(), "bomb": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^model\.path: .*more than weights, .* safetensors"):
        open_policy(folder, here)
    assert not mark.exists()
    for content in (b"", b"not a pickle"):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match=r"^model\.path: .* has no model that loads: \w"):
            open_policy(folder, here)
    torch.save(dict(lm.state_dict()), folder / "pytorch_model.bin")
    _cut(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"^model\.path: .* has no model that loads: \w"):
        open_policy(folder, here)


@pytest.mark.parametrize(
    "config", [{"hidden_size": "large"}, {"hidden_size": -3}, {"model_type": "unheard-of"}]
)
def test_a_configuration_that_makes_no_model(
    llama: Path, tmp_path: Path, here: World, config: dict[str, Any]
) -> None:
    folder = change(llama, tmp_path / "model", lambda tensors: tensors, **config)
    with pytest.raises(UserError, match=r"^model\.path: .* has no configuration that loads: \w"):
        open_policy(folder, here)


def test_an_engine_alone_checks_what_it_reads(llama: Path, tmp_path: Path) -> None:
    from drpo_cli.settings import ModelSettings

    def check(new: Any, name: str) -> None:
        folder = change(llama, tmp_path / name, new)
        pretrained.check(ModelSettings(path=str(folder)), "model.path")

    check(lambda tensors: tensors, "sound")
    with pytest.raises(UserError, match="lacks 1 of"):
        check(without(MATRIX), "lacking")
    with pytest.raises(UserError, match=f"NaN or infinite values in {MATRIX}"):
        check(with_value(MATRIX, torch.nan), "nan")


def test_a_hub_id_is_read_from_the_cache_and_checked(
    llama: Path, tmp_path: Path, here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub_id = Path("somebody/llama")
    cached = tmp_path / "models--somebody--llama"
    snapshot = cached / "snapshots" / "1234"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("1234")
    shutil.copytree(llama, snapshot)
    shard(snapshot)
    expected = weights(open_policy(llama, here))
    found = weights(open_policy(hub_id, here))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    _cut(snapshot / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"00002.safetensors is damaged or cut short"):
        open_policy(hub_id, here)
    (snapshot / "model.safetensors.index.json").unlink()
    with pytest.raises(
        UserError, match=r"^model\.path: somebody/llama has no model that loads: it"
    ):
        open_policy(hub_id, here)


def test_the_message_is_about_the_folder(llama: Path, tmp_path: Path, here: World) -> None:
    folder = change(llama, tmp_path / "model", lambda tensors: tensors)
    (folder / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match=r"model/config\.json is not the config\.json of a model"):
        open_policy(folder, here)
