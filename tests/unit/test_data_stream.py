"""Held-out problems, the order of training prompts, and tokenizing."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from drpo_cli.data import arithmetic, jsonl
from drpo_cli.data._rows import content
from drpo_cli.data._split import split
from drpo_cli.data._stream import Batching, Data, open_data, tokenize
from drpo_cli.errors import UserError
from drpo_cli.plugins import Selected, absolute
from drpo_cli.settings import SourceSettings
from drpo_cli.types import Problem, Prompt

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def make_tokenizer(ends: str = "", chat: str | None = None) -> PreTrainedTokenizerFast:
    """One token a character; `ends` as `^~` puts special tokens around plain text."""
    vocab = {chr(c): c - 32 for c in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if ends:
        single = f"{ends[0]} $A {ends[1]}"
        special = [(token, vocab[token]) for token in ends]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=special
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="^", eos_token="~", chat_template=chat
    )


PLAIN = make_tokenizer()
SUMS = Selected("data", "arithmetic", arithmetic.Config(digits=1))


def rows_of(path: Path, *prompts: object, **options: object) -> Selected:
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    config = jsonl.Config.model_validate({"path": str(path), **options})
    return Selected("data", "jsonl", config)


def data(*sources: Selected, n: int = 8, seed: int = 0, rank: int = 0, world: int = 1) -> Data:
    batching = Batching(n, seed, rank, world)
    return open_data(sources, (), 10, PLAIN, 64, batching)


def steps(opened: Data, count: int) -> list[list[Prompt]]:
    return [opened.stream.next() for _ in range(count)]


def flat(batches: list[list[Prompt]]) -> list[str]:
    return [prompt.text for batch in batches for prompt in batch]


def test_held_out_never_trains_and_everything_else_does_once_an_epoch() -> None:
    opened = data(SUMS, n=9)
    held_out = {prompt.text for prompt in opened.held_out}
    assert len(held_out) == 10
    served = flat(steps(opened, 20))  # 90 training rows: two epochs
    everything = {row.prompt for row in arithmetic.load(SUMS.config)}
    for epoch in (served[:90], served[90:]):
        assert set(epoch) == everything - held_out
        assert len(set(epoch)) == 90
    assert served[:90] != served[90:]


def test_held_out_does_not_depend_on_the_seed_and_the_order_does() -> None:
    one, other = data(SUMS), data(SUMS, seed=1)
    assert one.held_out == other.held_out
    assert flat(steps(one, 4)) != flat(steps(other, 4))
    assert flat(steps(data(SUMS), 4)) == flat(steps(data(SUMS), 4))


def test_equal_prompts_are_held_out_of_every_source(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "a", "b", "b")
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]
    first = rows_of(tmp_path / "1.jsonl", "a", "c", "A")
    second = rows_of(tmp_path / "2.jsonl", chat, "c")
    parts = split([first, second], [evaluation], 10)
    assert sorted(p.prompt for p in parts.held_out) == ["a", "b"]
    assert [p.prompt for p in parts.train] == ["c", "A", "c"]
    assert len(split([evaluation], [], 1).train) in (1, 2)  # the second "b" goes with the first


def test_the_held_out_choice_stays() -> None:
    # Scores of one version are compared with those of the next: the choice is part of the contract.
    assert [p.prompt for p in split([SUMS], [], 3).held_out] == ["0+2=", "4+3=", "3+9="]


def test_split_agrees_with_the_stream() -> None:
    parts, opened = split([SUMS], [], 10), data(SUMS, n=90)
    assert [p.prompt for p in parts.held_out] == [p.text for p in opened.held_out]
    assert {p.prompt for p in parts.train} == set(flat(steps(opened, 1)))


@pytest.mark.parametrize("world", [2, 4])
def test_order_does_not_depend_on_the_world_size(world: int) -> None:
    ranks = [data(SUMS, rank=rank, world=world) for rank in range(world)]
    alone = data(SUMS)
    for _ in range(30):  # into the third epoch, over two tails that are shorter than a step
        shares = [opened.stream.next() for opened in ranks]
        assert {len(share) for share in shares} == {8 // world}
        assert flat(shares) == flat([alone.stream.next()])


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("before", [0, 5, 13])
def test_a_saved_cursor_continues_on_any_world_size(world: int, before: int) -> None:
    first = data(SUMS)
    steps(first, before)
    state = json.loads(json.dumps(first.stream.state_dict()))
    ranks = [data(SUMS, rank=rank, world=world) for rank in range(world)]
    for opened in ranks:
        opened.stream.load_state_dict(state)
    for _ in range(15):
        assert flat([opened.stream.next() for opened in ranks]) == flat([first.stream.next()])


def test_a_cursor_of_other_data_is_refused(tmp_path: Path) -> None:
    other = data(rows_of(tmp_path / "a.jsonl", *map(str, range(20))))
    with pytest.raises(UserError, match="20 training rows, now there are 100"):
        data(SUMS).stream.load_state_dict(other.stream.state_dict())


def test_sources_mix_and_their_ids_tell_them_apart(tmp_path: Path) -> None:
    words = rows_of(tmp_path / "a.jsonl", *(f"a{i}" for i in range(40)))
    more = rows_of(tmp_path / "b.jsonl", *(f"b{i}" for i in range(40)), template="<{prompt}>")
    opened = data(SUMS, words, more, n=170)
    assert opened.train_rows == 180
    (served,) = steps(opened, 1)
    by_source = {p.id.split("/")[0] for p in served[:60]}
    assert by_source == {"arithmetic", "jsonl", "jsonl#2"}
    assert len({p.id for p in served + opened.held_out}) == 180
    assert all(p.text == f"<b{p.id.split('/')[1]}>" for p in served if p.id.startswith("jsonl#2"))


def test_evaluation_sources_give_all_they_have(tmp_path: Path) -> None:
    evaluation = rows_of(tmp_path / "e.jsonl", "x", "y")
    opened = open_data([SUMS], [evaluation], 50, PLAIN, 64, Batching(4, 0))
    assert sorted(p.id for p in opened.held_out) == ["eval:jsonl/0", "eval:jsonl/1"]


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(UserError, match=r"all 100 rows.*eval.problems = 100.*lower eval.problems"):
        split([SUMS], [], 100)


def test_prompts_must_divide_among_ranks() -> None:
    with pytest.raises(UserError, match="prompts_per_step = 8 does not divide among 3"):
        data(SUMS, world=3)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return []", "the source has no rows"),
        ("return 3", r"load\(\) returned int"),
        ("return ['a']", "own.py:load/0: the source returned str"),
    ],
)
def test_a_source_of_the_users_own_is_held_to_the_contract(
    tmp_path: Path, body: str, message: str
) -> None:
    (tmp_path / "own.py").write_text(f"def load(config):\n    {body}\n")
    source = Selected("data", absolute("./own.py:load", tmp_path), SourceSettings())
    with pytest.raises(UserError, match=message):
        split([source], [], 1)


def text_of(tokenizer: PreTrainedTokenizerFast, problem: Problem, **options: object) -> Prompt:
    prompt = tokenize(problem, SourceSettings(**options), tokenizer, "own/7", 64)
    assert prompt is not None
    return prompt


def test_plain_text_keeps_its_start_and_loses_an_added_end() -> None:
    problem = Problem(prompt="{x} \\frac{a}{b}", answer="1", metadata={"k": 1})
    prompt = text_of(make_tokenizer("^~"), problem, template="Q {prompt}\nA")
    assert prompt.text == "Q {x} \\frac{a}{b}\nA"
    decoded = make_tokenizer().convert_ids_to_tokens(prompt.token_ids)
    assert (decoded[0], decoded[-1]) == ("^", "A")
    assert (prompt.id, prompt.answer, prompt.metadata) == ("own/7", "1", {"k": 1})
    assert len(text_of(PLAIN, Problem(prompt="x" * 64)).token_ids) == 64
    own_end = text_of(PLAIN, Problem(prompt="a~"))
    assert PLAIN.convert_ids_to_tokens(own_end.token_ids) == ["a", "~"]


def test_chat_prompts_use_the_tokenizers_template_once() -> None:
    tokenizer = make_tokenizer("^~", CHAT_TEMPLATE)
    messages = ({"role": "user", "content": "hi"},)
    given = text_of(tokenizer, Problem(prompt=messages), system="be kind")
    wrapped = text_of(tokenizer, Problem(prompt="hi"), system="be kind", chat=True)
    assert given == wrapped
    assert given.text == "s:be kind;u:hi;a:"
    assert len(given.token_ids) == len(given.text)  # no ^ or ~ around it


@pytest.mark.parametrize(
    ("problem", "options", "message"),
    [
        (Problem("hi"), {"chat": True}, "own/7: a chat prompt needs a chat template"),
        (Problem("hi"), {"system": "s"}, "own/7: `system` needs a chat prompt"),
        (Problem(""), {}, "own/7: the prompt is empty"),
        (Problem("x" * 65), {}, "own/7: the prompt has 65 tokens.*room for 64.*context_length"),
    ],
)
def test_prompts_that_cannot_be_used(problem: Problem, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tokenize(problem, SourceSettings(**options), PLAIN, "own/7", 64)


def test_a_chat_template_may_refuse() -> None:
    problem = Problem(prompt=({"role": "tool", "content": "4"},))
    with pytest.raises(UserError, match=r"own/7: .* refuses the messages \(tool\): no tools"):
        text_of(make_tokenizer(chat=CHAT_TEMPLATE), problem)


def test_too_long_prompts_are_skipped_alike_on_every_rank(tmp_path: Path) -> None:
    prompts = [f"{i:02d}" if i % 3 else f"{i:02d}" * 40 for i in range(60)]
    source = rows_of(tmp_path / "a.jsonl", *prompts, too_long="skip")
    ranks = [data(source, rank=rank, world=2) for rank in range(2)]
    alone = data(source)
    for _ in range(12):
        together = flat([opened.stream.next() for opened in ranks])
        assert together == flat([alone.stream.next()])
        assert all(len(text) == 2 for text in together)
    with pytest.raises(UserError, match="every held-out prompt is longer than 1 tokens"):
        open_data([source], (), 10, PLAIN, 1, Batching(8, 0))


def test_one_prompt_that_fits_is_enough(tmp_path: Path) -> None:
    source = rows_of(tmp_path / "a.jsonl", *("x" * 70 for _ in range(5)), "fits", too_long="skip")
    evaluation = rows_of(tmp_path / "e.jsonl", "other")
    opened = open_data([source], [evaluation], 1, PLAIN, 64, Batching(1, 0))
    assert flat(steps(opened, 50)) == ["fits"] * 50


def test_only_too_long_prompts_left(tmp_path: Path) -> None:
    source = rows_of(tmp_path / "a.jsonl", *("x" * n for n in range(70, 90)), too_long="skip")
    evaluation = rows_of(tmp_path / "e.jsonl", "x")
    opened = open_data([source], [evaluation], 1, PLAIN, 64, Batching(8, 0))
    with pytest.raises(UserError, match="every training prompt is longer than 64 tokens"):
        opened.stream.next()


def test_content_tells_prompts_apart() -> None:
    user = ({"role": "user", "content": "a"},)
    system = ({"role": "system", "content": "s"}, *user)
    assert content(Problem("a")) == content(Problem(user, answer="1")) == content(Problem(system))
    turns = (*user, {"role": "assistant", "content": "b"})
    assert len({content(Problem(p)) for p in ("a", "a ", "A", turns)}) == 4
