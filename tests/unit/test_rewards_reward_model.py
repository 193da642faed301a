"""The reward model: tiny random classifiers, made on the spot, through the code of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected
from drpo_cli.rewards import reward_model
from drpo_cli.rewards.grading.grader import Grader
from drpo_cli.types import Group, Prompt, Rollout
from support.damaged import MATRIX, STRANGE, change, with_value, without
from support.families import EOS_ID, FAMILIES
from support.models import SPREAD, tiny_model, tokenizer

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
TEXTS = ["4", "2+2 is 4.", "it is four, since two and two are", "x" * 40, "4?"]


def classifier(folder: Path, kind: str = "llama", labels: int = 1, **overrides: Any) -> Path:
    """A random model with a classification head, and a tokenizer with a chat template."""
    config = FAMILIES[kind].config(num_labels=labels, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{FAMILIES[kind].name}ForSequenceClassification")(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SPREAD)
    model.save_pretrained(folder)
    chat = tokenizer()
    chat.chat_template = TEMPLATE
    chat.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("rm"))


def scored(path: Path, completions: list[str], **options: Any) -> list[float]:
    config = reward_model.Config(path=str(path), **options)
    return reward_model.reward(config)("2+2=", completions)


def logits(path: Path, text: str) -> torch.Tensor:
    """What transformers gives for one text, alone and unpadded."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits[0]
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_padding_does_not_change_a_score(tmp_path: Path, kind: str) -> None:
    path = classifier(tmp_path, kind)
    alone = scored(path, TEXTS, batch_size=1)
    assert len(set(alone)) == len(TEXTS)
    for size in (2, 3, 8):
        assert scored(path, TEXTS, batch_size=size) == pytest.approx(alone, abs=1e-5)
    assert scored(path, TEXTS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_score_is_the_logit_of_the_conversation(folder: Path) -> None:
    expected = logits(folder, "u:2+2=\na:4\n").item()
    assert scored(folder, ["4"]) == pytest.approx([expected], abs=1e-5)
    squashed = torch.tensor(expected).sigmoid().item()
    assert scored(folder, ["4"], sigmoid=True) == pytest.approx([squashed], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_in_bfloat16_the_score_itself_is_not_rounded(tmp_path: Path, kind: str) -> None:
    path = classifier(tmp_path, kind)
    near = scored(path, TEXTS, dtype="float32")
    found = scored(path, TEXTS, dtype="bfloat16")
    assert found == pytest.approx(near, abs=0.1)
    rounded = [torch.tensor(score).bfloat16().item() for score in found]
    assert sum(a == b for a, b in zip(found, rounded, strict=True)) <= 1


def test_a_head_of_several_layers_gives_its_score_in_the_last() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.RobertaConfig(vocab_size=20, num_labels=1, intermediate_size=16, **sizes)
    model = transformers.RobertaForSequenceClassification(config)
    assert reward_model._score_heads(model) == [model.classifier.out_proj]


def test_the_date_of_a_template_is_the_same_on_every_day(folder: Path, tmp_path: Path) -> None:
    path = classifier(tmp_path)
    (path / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}" + TEMPLATE)
    expected = logits(folder, "2025u:2+2=\na:4\n").item()
    assert scored(path, ["4"]) == pytest.approx([expected], abs=1e-5)


def test_without_chat_prompt_and_completion_are_one_text(folder: Path) -> None:
    expected = logits(folder, "2+2=4").item()
    assert scored(folder, ["4"], chat=False) == pytest.approx([expected], abs=1e-5)
    ended = logits(folder, "2+2=4.").item()
    assert scored(folder, ["4"], chat=False, suffix=".") == pytest.approx([ended], abs=1e-5)


def test_long_texts_lose_their_start_and_are_counted(folder: Path) -> None:
    config = reward_model.Config(path=str(folder), chat=False, max_length=6)
    model = reward_model.reward(config)
    first, second = model("1+1=", ["99+99", "2"])
    assert first == pytest.approx(logits(folder, "=99+99").item(), abs=1e-5)
    assert second == pytest.approx(logits(folder, "1+1=2").item(), abs=1e-5)
    assert model.counts == {"truncated": 1, "tokens": 11}


def test_the_models_own_limit_is_the_longest(tmp_path: Path) -> None:
    path = classifier(tmp_path, max_position_embeddings=16)
    model = reward_model.reward(reward_model.Config(path=str(path), chat=False))
    model("1+1=", ["9" * 100])
    assert model.counts == {"truncated": 1, "tokens": 16}


@pytest.mark.parametrize("label", [1, "good"])
def test_label_picks_a_logit(tmp_path: Path, label: int | str) -> None:
    path = classifier(tmp_path, labels=2, id2label={0: "bad", 1: "good"})
    expected = logits(path, "2+2=4")[1].item()
    assert scored(path, ["4"], chat=False, label=label) == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "needs a label; set label to one of: 0 = bad, 1 = good"),
        (2, "has no label 2; set label to one of"),
        ("best", "has no label 'best'; set label to one of"),
    ],
)
def test_label_that_is_needed_or_not_there(
    tmp_path: Path, label: int | str | None, message: str
) -> None:
    path = classifier(tmp_path, labels=2, id2label={0: "bad", 1: "good"})
    with pytest.raises(UserError, match=message):
        scored(path, ["4"], label=label)


def test_pads_with_what_the_model_takes_for_padding(tmp_path: Path) -> None:
    # Here the tokenizer's own <pad> would be read as text, and its <eos> is what pads.
    path = classifier(tmp_path, pad_token_id=EOS_ID)
    alone = scored(path, TEXTS, batch_size=1)
    assert scored(path, TEXTS) == pytest.approx(alone, abs=1e-5)


def test_without_any_padding_token_one_at_a_time(tmp_path: Path) -> None:
    path = classifier(tmp_path, pad_token_id=None)
    bare = tokenizer()
    bare.pad_token = bare.eos_token = None
    bare.chat_template = TEMPLATE
    bare.save_pretrained(path)
    with pytest.raises(UserError, match="set batch_size = 1"):
        scored(path, TEXTS)
    assert len(set(scored(path, TEXTS, batch_size=1))) == len(TEXTS)


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    path = tiny_model(tmp_path, "llama")
    with pytest.raises(UserError, match=r"^reward model: .* lacks 1 of .*: score\.weight"):
        scored(path, ["4"], chat=False)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (STRANGE["compiled"][0], "torch.compile"),
        (without(MATRIX), MATRIX),
        (with_value(MATRIX, torch.nan), f"NaN or infinite values in {MATRIX}"),
    ],
)
def test_weights_that_are_not_the_classifiers(
    folder: Path, tmp_path: Path, new: Any, said: str
) -> None:
    path = change(folder, tmp_path / "model", new)
    with pytest.raises(UserError, match=f"^reward model: .*{said}"):
        scored(path, ["4"], chat=False)


def test_a_tokenizer_without_a_chat_template(tmp_path: Path) -> None:
    path = classifier(tmp_path)
    (path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template; set chat = false"):
        scored(path, ["4"])


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^reward model: .* has no config\.json \(it is empty\)"):
        scored(tmp_path, ["4"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "./nowhere"}, "there is no model folder"),
        ({"path": "a/b", "device": "gpu"}, "device"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        reward_model.Config.model_validate(options, context={"folder": tmp_path})


def test_a_folder_counts_from_the_spec(folder: Path) -> None:
    config = reward_model.Config.model_validate(
        {"path": folder.name}, context={"folder": folder.parent}
    )
    assert config.path == str(folder)


def test_in_a_worker_it_scores_groups_and_reports_counts(folder: Path) -> None:
    config = reward_model.Config(path=str(folder), batch_size=2)
    prompt = Prompt("p/0", "2+2=", (), None, {})
    rollouts = tuple(Rollout((1,), (-0.1,), text, False) for text in TEXTS)
    with Grader([Selected("rewards", "reward_model", config)]) as grader:
        graded = grader.score([Group(prompt, rollouts), Group(prompt, rollouts[:1])])
    first, second = graded.scores_P
    assert first.total_G == pytest.approx(scored(folder, TEXTS), abs=1e-5)
    assert second.total_G == pytest.approx(first.total_G[:1], abs=1e-5)
    usage = graded.usage["reward_model"]
    assert (usage.calls, usage.failures.total(), usage.counts["truncated"]) == (2, 0, 0)
    assert usage.counts["tokens"] > sum(map(len, TEXTS))


def test_tokens_that_the_embedding_has_no_row_for(folder: Path, tmp_path: Path) -> None:
    path = change(folder, tmp_path / "model", lambda tensors: tensors, pad_token_id=None)
    larger = tokenizer()
    larger.add_tokens(["<new>"])
    larger.add_special_tokens({"pad_token": "<padding>"})
    larger.save_pretrained(path)
    assert scored(path, TEXTS, chat=False) == pytest.approx(
        scored(path, TEXTS, chat=False, batch_size=1), abs=1e-5
    )
    with pytest.raises(ValueError, match=r"token '<new>' \(id 64\), .* has only 64 rows"):
        scored(path, ["a<new>"], chat=False)
