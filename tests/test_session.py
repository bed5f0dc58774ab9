"""The session: whatever was asked before, the cache holds what the prompt says, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gemma4gguf import Gemma4
from gemma4gguf.errors import BusyError, ContextError, InputError, NativeError
from gemma4gguf.native.context import Context
from gemma4gguf.native.sampler import Sampler
from gemma4gguf.runtime.decode import decode
from gemma4gguf.runtime.session import Session, Span
from tests.support.drafters import NEVER
from tests.support.sessions import GREEDY, IMAGE, PROMPTS, VOCABULARY, ids, media, same


def test_a_shared_prefix_is_reused_and_no_more(make_session: Callable[..., Session]) -> None:
    session = make_session()
    prompt = tuple(PROMPTS[3])
    assert session.feed([Span(prompt)]) == 0
    assert session.feed([Span(prompt)]) == len(prompt) - 1
    assert session.feed([Span((*prompt, 400, 401))]) == len(prompt)
    assert session.feed([Span((*prompt[:10], 999, 400))]) == 10
    assert session.feed([Span((1, *prompt[1:]))]) == 0
    assert session.feed([Span(prompt[:5])]) == 0, "the first id differs"


def test_media_are_reused_whole_by_content_or_not_at_all(make_session: Callable[..., Session]) -> None:
    session, made = make_session(), []

    def picture(content: bytes, length: int = 40) -> Span:
        span = media(session, content, length, False)

        def rows() -> npt.NDArray[np.float32]:
            made.append(content)
            assert span.rows is not None
            return span.rows()

        return Span(span.ids, rows, content, False)

    head, tail = Span((2, 400, 401)), Span((410, 411))
    assert session.feed([head, picture(b"a"), tail]) == 0
    assert session.feed([head, picture(b"a"), tail, Span((420,))]) == 45
    assert made == [b"a"], "soft tokens that the cache holds are not computed again"
    assert session.feed([head, picture(b"b"), tail]) == 3
    assert session.feed([head, picture(b"b")]) == 3, "the last position is inside: the whole picture again"
    assert made == [b"a", b"b", b"b"]
    assert session.feed([head, Span((IMAGE,) * 40), tail]) == 3, "placeholder ids are not a picture"


def test_a_prefix_that_the_sliding_layers_forgot_is_read_again(make_session: Callable[..., Session]) -> None:
    """They hold their window and a batch: after a long prompt, a short one starts afresh and is right."""
    session, short = make_session(4096), PROMPTS[6]
    expected = ids(make_session(), short, 8)
    long = (*short, *PROMPTS[9], *PROMPTS[9], *PROMPTS[8])
    session.feed([Span(long)])
    assert session.context.first_position() > 0
    assert session.feed([Span((*long[:1500], 400))]) == 1500, "a near prefix is still there"
    assert session.feed([Span(tuple(short))]) == 0
    assert ids(session, short, 8) == expected


def test_batches_of_any_size_give_the_same_answer(make_session: Callable[..., Session]) -> None:
    expected = ids(make_session(), PROMPTS[9], 8)
    for batch, micro_batch in ((512, 128), (100, 100), (7, 7), (700, 3)):
        session = make_session(batch=batch, micro_batch=micro_batch)
        assert same(session, PROMPTS[9], expected, ids(session, PROMPTS[9], 8))


def test_a_failure_empties_the_session(make_session: Callable[..., Session]) -> None:
    session = make_session()
    session.feed([Span(tuple(PROMPTS[3]))])
    with pytest.raises(NativeError):
        session.step([VOCABULARY + 5])
    assert session.length == 0
    assert ids(session, PROMPTS[3], 4) == ids(make_session(), PROMPTS[3], 4)


def test_c_is_never_asked_for_what_would_end_the_process(make_session: Callable[..., Session]) -> None:
    context = make_session(batch=64, micro_batch=32, outputs=4).context
    width = context.model.n_embd
    for arguments, word in (
        ({"tokens": []}, "batch of 0"),
        ({"tokens": [5] * 65}, "batch of 65"),
        ({"rows": np.zeros((33, width), np.float32), "causal": False}, "micro-batch 32"),
        ({"tokens": [5] * 8, "outputs": 5}, "at most 4"),
        ({"tokens": [5, 5], "outputs": 3}, "at most 2"),
        ({"rows": np.zeros((2, width + 1), np.float32)}, "embedding rows"),
    ):
        with pytest.raises(NativeError, match=word):
            context.decode(start=0, **arguments)
    context.decode([5] * 8, start=0, outputs=2)
    for row in (-3, 0, 5, 8, 400):
        with pytest.raises(NativeError, match="no logits"):
            context.logits(row)
    assert np.array_equal(context.hidden(-1), context.hidden(7))
    with Context(context.model, context.options) as plain:
        plain.decode([5], start=0)
        with pytest.raises(NativeError, match="no hidden rows"):
            plain.hidden()


def test_more_than_the_context_holds_is_an_error_and_loses_nothing(make_session: Callable[..., Session]) -> None:
    session = make_session(600)
    session.feed([Span(tuple(range(300, 890)))])
    with pytest.raises(ContextError, match="room for 10"):
        session.step([5] * 11)
    assert session.length == 590
    with pytest.raises(ContextError, match="holds 600"):
        session.feed([Span((5,) * 600)])
    with pytest.raises(ContextError, match="empty"):
        session.feed([])
    session.step([5] * 10)
    assert session.room == 0


def test_answers_that_interleave_are_an_error_not_a_mixture(make_session: Callable[..., Session]) -> None:
    session, first, second = make_session(), PROMPTS[3], PROMPTS[4]
    expected = ids(make_session(), second, 8)
    session.feed([Span(tuple(first))])
    with Sampler(GREEDY, []) as one, Sampler(GREEDY, []) as two:
        left = decode(session, one, NEVER, 8)
        next(left)
        session.feed([Span(tuple(second))])
        right = decode(session, two, NEVER, 8)
        found = [next(right)]
        with pytest.raises(InputError, match="another question"):
            next(left)
        assert [*found, *right] == expected


def test_two_threads_get_an_error_or_a_right_answer(bundle: Path) -> None:
    with Gemma4(bundle, context=1024, threads=1) as model:
        how: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
        questions = ["One two three", "Something else altogether, and longer"]
        expected = [{model.generate(questions[i], **how).text for i in order} for order in ([0, 0, 0], [1, 1, 1])]
        outcomes: list[list[Any]] = [[], []]

        def ask(which: int) -> None:
            for _ in range(6):
                try:
                    outcomes[which].append(model.generate(questions[which], **how).text)
                except (BusyError, InputError) as error:
                    outcomes[which].append(error)

        threads = [threading.Thread(target=ask, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for which in range(2):
            assert len(outcomes[which]) == 6
            assert all(isinstance(o, (BusyError, InputError)) or o in expected[which] for o in outcomes[which])
        assert model.generate(questions[0], **how).text in expected[0]
