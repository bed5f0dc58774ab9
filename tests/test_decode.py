"""Decoding: the same answer with any drafts, at every limit, and a cache that is right afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf.bundle.reading import DRAFTER, Bundle
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.decode import Drafts, decode
from gemma4gguf.runtime.drafter import Drafter, drafter_weights
from gemma4gguf.runtime.pace import Pace
from gemma4gguf.runtime.session import Session, Span
from tests.support.drafters import NEVER, Scripted, chi_square, chi_square_bound
from tests.support.sessions import GREEDY, PROMPTS, ids, media, same

# ── drafts change nothing ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_session(small: Path) -> Iterator[Session]:
    with Weights(small) as model, Context(model, ContextOptions(1024, threads=1), hidden=True) as context:
        yield Session(context)


ODD_ARE_WRONG = lambda i: i % 2 == 0  # noqa: E731
THIRDS_ARE_WRONG = lambda i: i % 3 > 0  # noqa: E731


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_greedy_answers_are_the_same_with_any_drafts(
    bundle: Path, make_session: Callable[..., Session], kv_type: str
) -> None:
    """Its own drafter (of random weights), one that is always right, one always wrong, and mixtures; 1 to 8 guesses."""
    limit, opened = 16, Bundle.open(bundle)
    plain_session, session = make_session(kv_type=kv_type), make_session(kv_type=kv_type)
    with Drafter(drafter_weights(opened.require(DRAFTER), opened.text), session.context) as own:
        for number, prompt in enumerate(PROMPTS[1:9] + PROMPTS[10:]):
            plain = ids(plain_session, prompt, limit)
            others: list[Any] = [
                own,
                *(
                    Scripted(len(prompt), plain, right)
                    for right in (lambda i: True, lambda i: False, ODD_ARE_WRONG, THIRDS_ARE_WRONG)
                ),
            ]
            for which, drafter in enumerate(others):
                k = 1 + (number + 3 * which) % 8
                drafts = Drafts(drafter, Pace(k))
                found = ids(session, prompt, limit, drafts=drafts)
                assert same(plain_session, prompt, plain, found), (number, which, k)
                assert drafts.accepted <= drafts.proposed
                if which == 1 and found == plain:
                    assert drafts.accepted == drafts.proposed
                    assert drafts.steps == -(-(limit - 1) // (k + 1))
                if which == 2:
                    assert (drafts.accepted, drafts.steps) == (0, limit - 1)


@pytest.mark.parametrize("k", range(1, 16))
def test_every_draft_length(make_session: Callable[..., Session], k: int) -> None:
    session, prompt, limit = make_session(), PROMPTS[3], 40
    plain = ids(session, prompt, limit)
    drafts = Drafts(Scripted(len(prompt), plain, THIRDS_ARE_WRONG), Pace(k))
    assert same(session, prompt, plain, ids(session, prompt, limit, drafts=drafts))
    counts = drafts.counts()
    assert counts.proposed == sum(n * steps for n, steps in counts.lengths)
    assert counts.steps == sum(steps for _, steps in counts.lengths)
    assert len(counts.acceptance) <= k
    assert counts.acceptance[0] == pytest.approx(2 / 3, abs=0.34)


def test_the_same_seed_gives_the_same_text(small: Path, small_session: Session) -> None:
    """One draw of the sampler per token, in the answer's order, however many guesses are checked."""
    session, opened, agreed = small_session, Bundle.open(small), []

    def asked(*arguments: Any) -> list[int]:
        session.clear()
        return ids(session, *arguments)

    with Drafter(drafter_weights(opened.require(DRAFTER), opened.text), session.context) as own:
        for seed in range(20):
            how = SamplingOptions(temperature=0.7, top_k=40, top_p=0.95, min_p=0.01, seed=seed)
            prompt, k = PROMPTS[seed % len(PROMPTS)], 1 + seed % 3
            plain = asked(prompt, 20, how)
            assert plain != asked(prompt, 20)
            right = Drafts(Scripted(len(prompt), plain, THIRDS_ARE_WRONG), Pace(k))
            agreed.append(asked(prompt, 20, how, Drafts(own, Pace(k))) == plain)
            agreed.append(asked(prompt, 20, how, right) == plain)
            assert right.accepted > 3
    assert sum(agreed) >= 0.95 * len(agreed), "a draw may fall between two sums that differ in the last bits"


def test_sampled_answers_have_the_models_distribution(small_session: Session) -> None:
    """Chi-square of four-token answers against the exact probabilities, with guesses both right and wrong."""
    prompt = Span((*PROMPTS[3], 7))
    statistic, degrees, odds, drafts = chi_square(small_session, prompt, samples=2000, top_k=2, length=4)
    assert 0.2 < drafts.accepted / drafts.proposed < 0.8
    assert len(odds) == 2**4
    assert degrees >= 12
    assert statistic < chi_square_bound(degrees)


# ── what the drafter is given ────────────────────────────────────────────────────────────────────────────────────


def conversations(session: Session) -> list[list[Span]]:
    """Prompts one after another in one cache: text, pictures, sound, a reused prefix, a second turn, another chat."""
    text = [Span(tuple(PROMPTS[3]))]
    picture = [Span((2, 400)), media(session, b"picture", 70, False), Span((410, 411, 412))]
    sound = [Span((2, 400)), media(session, b"sound", 33, True), Span((413,))]
    both = [*picture, media(session, b"other", 40, False), media(session, b"sound", 5, True), Span((500, 501))]
    return [text, picture, both, [*picture, Span((600, 601))], sound, text, [*text, Span((640, 641, 642))], picture[:2]]


def test_the_hidden_row_is_that_of_the_last_row_evaluated(make_session: Callable[..., Session]) -> None:
    """After every kind of prompt and at every step: the row that a fresh context computes for that position."""
    session, fresh = make_session(), make_session(outputs=512)
    for prompt in conversations(session):
        length, limit = sum(map(len, prompt)), 16
        session.feed(prompt)
        with Sampler(GREEDY, []) as sampler:
            plain = list(decode(session, sampler, NEVER, limit))
        session.feed(prompt)
        drafter = Scripted(length, plain, THIRDS_ARE_WRONG)
        with Sampler(GREEDY, []) as sampler:
            assert list(decode(session, sampler, NEVER, limit, Drafts(drafter, Pace(3)))) == plain
        fresh.clear()
        fresh.feed(prompt)
        hidden = {length - 1: fresh.context.hidden().copy()}
        fresh.step(plain)
        hidden |= {length + i: fresh.context.hidden(i).copy() for i in range(limit)}
        assert len(drafter.given) > 4
        for token, position, row in drafter.given:
            assert token == plain[position - length]
            assert np.abs(row - hidden[position - 1]).max() < 0.02 * np.abs(row).max()


# ── limits, ends, and what comes after ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", range(1, 9))
def test_a_limit_inside_a_draft(make_session: Callable[..., Session], limit: int) -> None:
    session, prompt = make_session(), PROMPTS[3]
    plain = ids(session, prompt, 12)
    drafts = Drafts(Scripted(len(prompt), plain), Pace(5))
    assert ids(session, prompt, limit, drafts=drafts) == plain[:limit]
    assert session.length <= len(prompt) + limit


@pytest.mark.parametrize("at", range(8))
def test_an_end_token_inside_a_draft(make_session: Callable[..., Session], at: int) -> None:
    session, prompt = make_session(), PROMPTS[2]
    plain = ids(session, prompt, 12)
    end = frozenset([plain[at]])
    expected = plain[: plain.index(plain[at]) + 1]
    for right in (lambda i: True, ODD_ARE_WRONG):
        drafts = Drafts(Scripted(len(prompt), plain, right), Pace(5))
        assert ids(session, prompt, 12, drafts=drafts, end=end) == expected


@pytest.mark.parametrize("spare", range(1, 8))
def test_the_context_ends_inside_a_draft(make_session: Callable[..., Session], spare: int) -> None:
    prompt = [2, *range(300, 420)]
    session = make_session(len(prompt) + spare)
    plain = ids(session, prompt, 100)
    assert len(plain) == spare + 1, "the last token needs no place"
    drafts = Drafts(Scripted(len(prompt), plain), Pace(5))
    assert ids(session, prompt, 100, drafts=drafts) == plain
    assert session.room == 0


@pytest.mark.parametrize("taken", [1, 2, 5, 9])
def test_an_abandoned_answer_leaves_a_cache_that_is_right(make_session: Callable[..., Session], taken: int) -> None:
    session, prompt = make_session(), PROMPTS[3]
    plain = ids(session, prompt, 12)
    longer = (*prompt, *plain[:6], 700)
    expected = ids(make_session(), longer, 12)
    session.feed([Span(tuple(prompt))])
    with Sampler(GREEDY, []) as sampler:
        stream = decode(session, sampler, NEVER, 12, Drafts(Scripted(len(prompt), plain, ODD_ARE_WRONG), Pace(4)))
        assert list(itertools.islice(stream, taken)) == plain[:taken]
        stream.close()  # type: ignore[attr-defined]
    assert session.feed([Span(longer)]) >= len(prompt) + min(taken - 1, 5)
    assert ids(session, longer, 12) == expected
