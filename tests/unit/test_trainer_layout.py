"""The layout of a packed row: every token once, every span whole, every context in front."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from drpo_cli.trainer.layout import SAME_LENGTH, Span, layout

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


@given(lengths=LENGTHS)
def test_every_token_is_found_again(lengths: list[int]) -> None:
    shape = layout(neighbours(lengths))
    laid_out = torch.cat([bucket.query_BL.flatten() for bucket in shape.buckets])
    assert torch.equal(laid_out[shape.inverse_T], torch.arange(sum(lengths)))


@given(lengths=LENGTHS)
def test_buckets_hold_whole_spans_padded_with_their_last_token(lengths: list[int]) -> None:
    spans = neighbours(lengths)
    seen = []
    for bucket in layout(spans).buckets:
        assert torch.equal(bucket.query_BL, bucket.key_BK)
        for row in bucket.query_BL.tolist():
            span = next(span for span in spans if span.start == row[0])
            tokens = list(range(span.start, span.start + span.length))
            assert row == tokens + tokens[-1:] * (len(row) - span.length)
            assert span.length >= SAME_LENGTH * len(row)
            seen.append(span)
    assert sorted(span.start for span in seen) == [span.start for span in spans]


@given(sizes=FAMILIES)
def test_a_response_sees_its_own_prompt_and_itself(sizes: list[tuple[int, list[int]]]) -> None:
    spans = {span.start: span for span in families(sizes)}
    shape, total = layout(list(spans.values())), sum(span.length for span in spans.values())
    laid_out = torch.cat([bucket.query_BL.flatten() for bucket in shape.buckets])
    assert torch.equal(laid_out[shape.inverse_T], torch.arange(total))
    for bucket in shape.buckets:
        for query, key in zip(bucket.query_BL.tolist(), bucket.key_BK.tolist(), strict=True):
            context = spans[query[0]].context
            front = [] if context is None else range(context.start, context.start + context.length)
            assert key == [*front, *query]
