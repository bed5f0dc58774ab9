"""Logits of every position, against one prompt after another that ends there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gemma4gguf.errors import NativeError
from gemma4gguf.runtime.scoring import position_logits
from gemma4gguf.runtime.session import Session, Span
from tests.support.sessions import PROMPTS, media

ROUNDING = 0.02  # of a logit: llama.cpp computes one row and many in another order


@pytest.mark.parametrize("first", [0, 3, 12, 20, 27])
@pytest.mark.parametrize("outputs", [2, 16])
def test_each_row_is_that_of_a_prompt_that_ends_there(
    make_session: Callable[..., Session], first: int, outputs: int
) -> None:
    session = make_session(outputs=outputs)
    sound = media(session, b"sound", 10, True)
    text, question = Span(tuple(PROMPTS[2])), Span(tuple(range(400, 410)))
    spans = [text, sound, question]
    total = sum(map(len, spans))
    rows = [row.copy() for row in position_logits(session.context, spans, first=first)]
    assert len(rows) == total - first
    slow = make_session()
    for position in range(first, total):
        prefix, left = [], position + 1
        for span in spans:
            part = min(left, len(span))
            if part:
                make = None if span.rows is None else (lambda part=part: sound.rows()[:part])  # type: ignore[misc]
                prefix.append(Span(span.ids[:part], make, span.content))
            left -= part
        slow.feed(prefix)
        assert np.abs(rows[position - first] - slow.context.logits()).max() < ROUNDING


def test_what_the_cache_held_does_not_matter(make_session: Callable[..., Session]) -> None:
    session, spans = make_session(), [Span(tuple(PROMPTS[3]))]
    before = [row.copy() for row in position_logits(session.context, spans)]
    list(position_logits(session.context, [Span(tuple(PROMPTS[7]))]))
    after = [row.copy() for row in position_logits(session.context, spans)]
    assert np.array_equal(before, after)


def test_a_picture_is_scored_whole_or_not_at_all(make_session: Callable[..., Session]) -> None:
    few, many = make_session(outputs=16), make_session(outputs=64)

    def prompt(session: Session) -> list[Span]:
        return [Span((2,)), media(session, b"picture", 30, False), Span((500, 501))]

    after = [row.copy() for row in position_logits(few.context, prompt(few), first=31)]
    whole = [row.copy() for row in position_logits(many.context, prompt(many))]
    assert (len(after), len(whole)) == (2, 33)
    assert np.abs(np.array(after) - whole[31:]).max() < ROUNDING
    with pytest.raises(NativeError, match="logits of 29 rows, expected at most 16"):
        list(position_logits(few.context, prompt(few), first=2))
