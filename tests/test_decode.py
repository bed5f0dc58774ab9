"""The session and what decodes from it: the same answer with any drafts, whatever was asked before, at every limit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import DRAFTER, Bundle
from gemma4gguf.errors import ContextError, InputError, NativeError
from gemma4gguf.native.context import Context, ContextOptions
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.decode import Drafts, decode
from gemma4gguf.runtime.drafter import Drafter
from gemma4gguf.runtime.pace import Pace
from gemma4gguf.runtime.session import Session, Span
from tests.support import cases
from tests.support.drafters import NEVER, TIE, Scripted, chi_square, chi_square_bound, gap

GREEDY = SamplingOptions(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
IMAGE, VOCABULARY = 258, 1024  # of the stand-in: see tests/standin.py

PROMPTS = [
    *([2, *(int(i) for i in np.random.default_rng(seed).integers(300, 1000, size))] for seed, size in enumerate(
        (1, 2, 7, 30, 63, 64, 65, 100, 200, 700)
    )),
    [2, *[500] * 40],
    [2, *range(400, 460), *range(400, 430)],
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(bundle: Path) -> Iterator[Weights]:
    with Weights(bundle) as model:
        yield model


@pytest.fixture(scope="module")
def small(make_bundle: Callable[..., Path]) -> Path:
    """In Q4_0, where a row's logits are the same bits in a batch of one to four (and all else depends on the batch)."""
    return make_bundle("Q4_0")


@pytest.fixture
def small_session(small: Path) -> Iterator[Session]:
    with Weights(small) as model, Context(model, ContextOptions(1024, threads=1), hidden=True) as context:
        yield Session(context)


@pytest.fixture
def make_session(weights: Weights) -> Iterator[Callable[..., Session]]:
    """A function from context options to a session; hidden rows are kept.

    In float32 throughout, because llama.cpp's arithmetic depends on the batch: there by 0.002 of a logit, in types of
    fewer bits by what a differently rounded activation makes of itself in twelve random layers.
    """
    contexts: list[Context] = []

    def make(context: int = 1024, kv_type: str = "f32", flash_attention: str = "auto", **how: Any) -> Session:
        flash_attention = "off" if kv_type == "f32" else flash_attention
        options = ContextOptions(context, threads=1, kv_type=kv_type, flash_attention=flash_attention, **how)
        contexts.append(Context(weights, options, hidden=True))
        return Session(contexts[-1])

    yield make
    for each in contexts:
        each.close()


ODD_ARE_WRONG = lambda i: i % 2 == 0  # noqa: E731
THIRDS_ARE_WRONG = lambda i: i % 3 > 0  # noqa: E731


def ids(
    session: Session,
    prompt: Sequence[int],
    limit: int,
    how: SamplingOptions = GREEDY,
    drafts: Drafts | None = None,
    end: frozenset[int] = NEVER,
) -> list[int]:
    session.feed([Span(tuple(prompt))])
    with Sampler(how, []) as sampler:
        return list(decode(session, sampler, end, limit, drafts))


def same(session: Session, prompt: Sequence[int], plain: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two greedy answers agree, up to a step whose two best logits are as good as equal."""
    if list(plain) == list(other):
        return True
    step = next(i for i, (a, b) in enumerate(zip(plain, other, strict=True)) if a != b)
    return gap(session, [Span(tuple(prompt))], plain[:step]) < TIE


# ── drafts change nothing ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_greedy_answers_are_the_same_with_any_drafts(
    bundle: Path, make_session: Callable[..., Session], kv_type: str
) -> None:
    """Its own drafter (of random weights), one that is always right, one always wrong, and mixtures; 1 to 8 guesses."""
    limit, opened = 16, Bundle.open(bundle)
    plain_session, session = make_session(kv_type=kv_type), make_session(kv_type=kv_type)
    with Drafter(opened.require(DRAFTER), opened.text, session.context) as own:
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
    report = drafts.report()
    assert report["proposed"] == sum(n * steps for n, steps in report["lengths"])
    assert report["steps"] == sum(steps for _, steps in report["lengths"])
    assert len(report["acceptance"]) <= k
    assert report["acceptance"][0] == pytest.approx(2 / 3, abs=0.34)


def test_the_same_seed_gives_the_same_text(small: Path, small_session: Session) -> None:
    """One draw of the sampler per token, in the answer's order, however many guesses are checked."""
    session, opened, agreed = small_session, Bundle.open(small), []

    def asked(*arguments: Any) -> list[int]:
        session.clear()
        return ids(session, *arguments)

    with Drafter(opened.require(DRAFTER), opened.text, session.context) as own:
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


def media(session: Session, content: bytes, length: int, causal: bool) -> Span:
    """A picture or clip whose soft tokens come from its content."""
    width = session.context.model.n_embd
    rows = np.random.default_rng(list(content)).standard_normal((length, width)).astype(np.float32)
    return Span((IMAGE,) * length, lambda: rows, content, causal)


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
        how = {"temperature": 0, "max_tokens": 12}
        questions = ["One two three", "Something else altogether, and longer"]
        expected = [{model.generate(questions[i], **how).text for i in order} for order in ([0, 0, 0], [1, 1, 1])]
        outcomes: list[list[Any]] = [[], []]

        def ask(which: int) -> None:
            for _ in range(6):
                try:
                    outcomes[which].append(model.generate(questions[which], **how).text)
                except InputError as error:
                    outcomes[which].append(error)

        threads = [threading.Thread(target=ask, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for which in range(2):
            assert len(outcomes[which]) == 6
            assert all(isinstance(o, InputError) or o in expected[which] for o in outcomes[which])
        assert model.generate(questions[0], **how).text in expected[0]


# ── reuse and rewinding ──────────────────────────────────────────────────────────────────────────────────────────


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
            context.decode(start=0, **arguments)  # type: ignore[arg-type]
    context.decode([5] * 8, start=0, outputs=2)
    for row in (-3, 0, 5, 8, 400):
        with pytest.raises(NativeError, match="no logits"):
            context.logits(row)
    assert np.array_equal(context.hidden(-1), context.hidden(7))
    with Context(context.model, context.options) as plain:
        plain.decode([5], start=0)
        with pytest.raises(NativeError, match="no hidden rows"):
            plain.hidden()


# ── the whole model ──────────────────────────────────────────────────────────────────────────────────────────────

CAT = Path(__file__).parent.parent / "models" / "demo" / "cat.jpg"
ASKED = [
    ("Hello there", {}),
    ("What is this?", {"images": [CAT]}),
    ("And what is said?", {"audio": [(cases.clip("short"), cases.RATE)]}),
    ("Both", {"images": [cases.picture("banner")], "audio": [(cases.clip("short"), cases.RATE)]}),
    ("Hello there, once more", {"system": "Be brief.", "thinking": True}),
]


@pytest.mark.parametrize("draft", ["auto", 3])
def test_answers_do_not_depend_on_drafting(small: Path, draft: str | int) -> None:
    with (
        Gemma4(small, context=2048, threads=1, image_tokens=70, draft="off") as plain,
        Gemma4(small, context=2048, threads=1, image_tokens=70, draft=draft) as model,
    ):
        for prompt, how in ASKED:
            for temperature in (0.0, 0.8):
                how = {**how, "temperature": temperature, "seed": 5, "max_tokens": 24}
                expected, found = plain.generate(prompt, **how), model.generate(prompt, **how)
                assert (found.text, found.thought, found.finish_reason, found.tokens.completion) == (
                    *(expected.text, expected.thought, expected.finish_reason, expected.tokens.completion),
                )
                assert found.draft["steps"] >= 1
                assert expected.draft == {"steps": 0, "proposed": 0, "accepted": 0}


def test_a_stop_string_inside_a_draft(bundle: Path) -> None:
    with Gemma4(bundle, context=1024, threads=1, draft=6) as model:
        how = {"temperature": 0, "max_tokens": 20}
        whole = model.generate("Hello there", **how)
        ids = list(model._ready()[1]._held[whole.tokens.prompt :])

        class Knowing:
            def guesses(self, token: int, hidden: Any, position: int) -> Iterator[tuple[int, float]]:
                yield from ((int(i), 1.0) for i in [*ids[position - whole.tokens.prompt + 1 :], *[5] * 20])

        own, model._drafter = model._drafter, Knowing()  # type: ignore[assignment]
        for at in range(3, 8):
            stop = whole.text[at : at + 3]
            result = model.generate("Hello there", stop=stop, **how)
            assert result.text == whole.text[: whole.text.index(stop)]
            assert result.finish_reason == "stop"
        again = model.generate("Hello there", **how)
        assert again.text == whole.text
        assert again.draft["accepted"] > 10
        model._drafter = own


def test_many_prompts_leave_memory_flat(bundle: Path) -> None:
    """Media among them, streams left early, every other answer drafted."""
    with Gemma4(bundle, context=1024, threads=1, image_tokens=70, draft=3) as model:
        used = []
        for i in range(60):
            prompt, how = ASKED[i % len(ASKED)]
            chunks = model.stream(f"{i} {prompt}", temperature=0, max_tokens=6, **how)
            if i % 7 == 0:
                next(chunks)
                chunks.close()  # type: ignore[attr-defined]
            else:
                list(chunks)
            used.append(resident_mb())
        assert max(used[-10:]) - max(used[20:40]) < 4


def resident_mb() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
    except OSError:  # not Linux: the highest so far
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
