"""The layout of a packed row: every token once, every span whole, every context in front."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.trainer.layout import SAME_LENGTH, Layout, Padded, Span

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
RESPONSES = st.lists(st.integers(1, 9), max_size=5)
FAMILIES = st.lists(st.tuples(st.integers(1, 9), RESPONSES), max_size=6)


def neighbours(lengths: list[int]) -> list[Span]:
    """Spans of these lengths, one after the other."""
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [Span(end - length, length) for end, length in zip(ends, lengths, strict=True)]


def families(sizes: list[tuple[int, list[int]]]) -> list[Span]:
    """A prompt and its responses, and the next prompt and its responses, and so on."""
    spans: list[Span] = [Span(0, 3)]
    for prompt, responses in sizes:
        parent = Span(spans[-1].start + spans[-1].length, prompt)
        spans.append(parent)
        for response in responses:
            spans.append(Span(spans[-1].start + spans[-1].length, response, parent))
    return spans


def laid_out(spans: list[Span]) -> tuple[Padded, list[list[int]], list[list[int]]]:
    """The layout; the packed tokens of each span's queries, and of each span's keys."""
    shape = Layout(spans, CPU).padded
    queries, keys, at, key_at = [], [], 0, 0
    for bucket in shape.buckets:
        for _ in range(bucket.spans):
            queries.append(shape.query_N[at : (at := at + bucket.queries)].tolist())
            keys.append(shape.key_M[key_at : (key_at := key_at + bucket.keys)].tolist())
    assert (at, key_at) == (len(shape.query_N), len(shape.key_M))
    return shape, queries, keys


def seen(shape: Padded, keys: list[list[int]]) -> list[list[set[int]]]:
    """The packed tokens that each query of each span sees."""
    found, rows = [], iter(keys)
    for number, bucket in enumerate(shape.buckets):
        mask = shape.mask(number, torch.zeros(1))
        if mask is None:
            mask = torch.full((bucket.queries, bucket.keys), -torch.inf).triu(1)
        allowed = (mask == 0).expand(bucket.spans, 1, bucket.queries, bucket.keys)[:, 0]
        for allowed_LK in allowed.tolist():
            row = next(rows)
            found.append(
                [{k for k, yes in zip(row, line, strict=True) if yes} for line in allowed_LK]
            )
    return found


@given(lengths=LENGTHS)
def test_every_token_is_found_again(lengths: list[int]) -> None:
    shape, _, _ = laid_out(neighbours(lengths))
    assert torch.equal(shape.query_N[shape.inverse_I], torch.arange(sum(lengths)))


@given(lengths=LENGTHS)
def test_buckets_hold_whole_spans_padded_with_their_last_token(lengths: list[int]) -> None:
    spans = {span.start: span for span in neighbours(lengths)}
    _, queries, keys = laid_out(list(spans.values()))
    assert queries == keys
    assert sorted(row[0] for row in queries) == list(spans)
    for row in queries:
        span = spans[row[0]]
        tokens = list(range(span.start, span.start + span.length))
        assert row == tokens + tokens[-1:] * (len(row) - span.length)
        assert span.length >= SAME_LENGTH * len(row)


@given(sizes=FAMILIES)
def test_a_token_sees_its_prompt_and_what_went_before(sizes: list[tuple[int, list[int]]]) -> None:
    spans = {span.start: span for span in families(sizes)}
    shape, queries, keys = laid_out(list(spans.values()))
    total = sum(span.length for span in spans.values())
    assert torch.equal(shape.query_N[shape.inverse_I], torch.arange(total))
    for row, by_query in zip(queries, seen(shape, keys), strict=True):
        span = spans[row[0]]
        context = span.context
        before = [] if context is None else range(context.start, context.start + context.length)
        history = [*before, *range(span.start, span.start + span.length)]
        for i in range(span.length):
            assert by_query[i] == set(history[: span.seen + i + 1])


def test_responses_to_prompts_of_like_length_share_a_bucket() -> None:
    shape, _, _ = laid_out(families([(9, [4, 4]), (7, [4, 3]), (2, [4])]))
    assert sorted((b.spans, b.context) for b in shape.buckets if b.context) == [(1, 2), (4, 9)]


def test_a_mask_is_made_once_for_all_layers() -> None:
    shape, _, _ = laid_out(families([(9, [4, 4])]))
    number = next(i for i, bucket in enumerate(shape.buckets) if bucket.context)
    assert shape.mask(number, torch.zeros(1)) is shape.mask(number, torch.zeros(1))


@given(sizes=FAMILIES)
def test_end_to_end_every_query_is_at_the_end_of_the_keys_that_it_sees(
    sizes: list[tuple[int, list[int]]],
) -> None:
    spans = families(sizes)
    ragged = Layout(spans, CPU).ragged
    total = sum(span.length for span in spans)
    keys = list(range(total)) if ragged.key_M is None else ragged.key_M.tolist()
    assert (ragged.key_M is None) == (not any(span.seen for span in spans))
    assert ragged.query_ends.dtype == ragged.key_ends.dtype == torch.int32
    query_ends, key_ends = ragged.query_ends.tolist(), ragged.key_ends.tolist()
    assert (query_ends[-1], key_ends[-1]) == (total, len(keys))
    assert ragged.longest_query == max(span.length for span in spans)
    assert ragged.longest_key == max(span.seen + span.length for span in spans)
    for place, span in enumerate(spans):
        assert query_ends[place] == span.start
        parent = span.context or Span(0, 0)
        before = range(parent.start, parent.start + parent.length)
        own = range(span.start, span.start + span.length)
        assert keys[key_ends[place] : key_ends[place + 1]] == [*before, *own]
