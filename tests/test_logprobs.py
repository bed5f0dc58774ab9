"""Log-probabilities: the model's own, or of what was drawn from, against slow twins; told once and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import Chunk, Gemma4, InputError
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.chooser import Chooser
from gemma4gguf.runtime.logprobs import LogprobNotes, log_softmax
from gemma4gguf.runtime.scoring import position_logits
from gemma4gguf.runtime.session import Session, Span
from tests.support.penalties import distribution, softmax

QUESTIONS = ["What is 47 + 38?", "What is the capital of France?", "Count from 3 to 9.", "Say it: 🐈 é"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=512, threads=1, draft="off") as model:
        yield model


# ── what they are ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 4}])
def test_they_are_the_log_softmax_of_the_logits_that_evaluate_gives(
    model: Gemma4, question: str, how: dict[str, Any]
) -> None:
    notes = model.generate(question, logprobs=True, top_logprobs=5, **{**GREEDY, **how}).logprobs
    prompt = model.evaluate(question)
    whole = Span([*prompt.ids.tolist(), *(note.token for note in notes)])
    rows = [row.copy() for row in position_logits(model.engine._scoring().context, [whole])]
    assert np.abs(rows[len(prompt.ids) - 1] - prompt.logits[-1]).max() < 1e-3
    for note, logits in zip(notes, rows[len(prompt.ids) - 1 :], strict=False):
        expected = np.log(softmax(logits.astype(np.float64)))
        assert note.logprob == pytest.approx(expected[note.token], abs=1e-3)
        assert [other.logprob for other in note.top] == pytest.approx(np.sort(expected)[::-1][:5].tolist(), abs=1e-3)
        for other in note.top:
            assert other.logprob == pytest.approx(expected[other.token], abs=1e-3)


SAMPLED = [
    SamplingOptions(1.0, 0, 1.0, 0.0, seed=1),
    SamplingOptions(0.7, 40, 0.9, 0.0, seed=2),
    SamplingOptions(1.5, 0, 0.8, 0.02, seed=3, logit_bias={400: 5.0, 401: -100.0, 7: 100.0}),
    SamplingOptions(1.0, 20, 1.0, 0.1, seed=4, repetition_penalty=1.3),
    SamplingOptions(1.2, 64, 0.95, 0.0, seed=5, frequency_penalty=1.1, presence_penalty=-0.7),
    SamplingOptions(0.9, 0, 1.0, 0.0, seed=6, repetition_penalty=0.8, frequency_penalty=-2, logit_bias={500: 3.5}),
]


@pytest.mark.parametrize("how", SAMPLED)
def test_on_request_they_are_of_what_was_drawn_from(make_session: Callable[..., Session], how: SamplingOptions) -> None:
    """All sampling options together, against numpy: the chosen token and every other that could have been."""
    session, prompt, answer = make_session(), (2, *range(400, 430), *range(400, 415)), list[int]()
    session.feed([Span(prompt)])
    notes = LogprobNotes(20, lambda token: b"", sampled=True)
    with Sampler(how, [], prompt if how.repetition_penalty != 1 else (), 24) as sampler:
        chooser = Chooser(sampler, notes=notes)
        for step in range(24):
            expected = distribution(session.context.logits(), how, prompt, answer)
            answer.append(chooser.sample(session.context))
            (note,) = notes.first(step + 1)[step:]
            assert note.token == answer[-1]
            assert np.exp(note.logprob) == pytest.approx(expected[note.token], rel=1e-3)
            for other in note.top:
                assert np.exp(other.logprob) == pytest.approx(expected[other.token], rel=1e-3, abs=1e-9)
            assert len(note.top) == min(20, np.count_nonzero(expected))
            session.step([answer[-1]])


def test_what_had_no_rival_is_certain(model: Gemma4) -> None:
    greedy = model.generate(QUESTIONS[0], logprobs="sampled", top_logprobs=3, **GREEDY)
    assert {note.logprob for note in greedy.logprobs} == {0.0}
    assert all(note.top[0].token == note.token and len(note.top) == 1 for note in greedy.logprobs)
    hot: dict[str, Any] = {"thinking": True, "max_thinking_tokens": 2, "temperature": 1, "seed": 1, "max_tokens": 40}
    for kind, certain in (("sampled", True), (True, False)):
        notes = model.generate(QUESTIONS[0], **{**hot, "logprobs": kind}).logprobs
        closing = next(note for note in notes if note.piece == b"<channel|>")
        assert (closing.logprob == 0) == certain


def test_log_softmax_of_extremes() -> None:
    logits = np.array([-np.inf, 1000.0, 1000.0, -1000.0], np.float32)
    assert log_softmax(logits).tolist() == pytest.approx([-np.inf, -np.log(2), -np.log(2), -2000.0], rel=1e-3)


# ── how they are told ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stop", [None, "8", "= 8"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_chunks_tell_each_token_once(model: Gemma4, question: str, stop: str | None) -> None:
    how: dict[str, Any] = {**GREEDY, "stop": stop, "thinking": True}
    chunks = list(model.stream(question, logprobs=True, **how))
    result = chunks[-1].result
    assert result is not None
    assert len(result.logprobs) == result.tokens.completion
    assert tuple(note for chunk in chunks for note in chunk.logprobs) == result.logprobs
    plain = list(model.stream(question, **how))
    assert [(chunk.text, chunk.thought) for chunk in plain] == [(chunk.text, chunk.thought) for chunk in chunks]
    assert {chunk.logprobs for chunk in plain} == {()}


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.8, "seed": 2}])
def test_asking_and_drafts_change_nothing(small: Path, how: dict[str, Any]) -> None:
    opened: dict[str, Any] = {"context": 512, "threads": 1}
    with Gemma4(small, draft="off", **opened) as model, Gemma4(small, draft=3, **opened) as drafting:
        for question in QUESTIONS:
            plain = model.generate(question, max_tokens=24, **how)
            for kind in (True, "sampled"):
                asked: dict[str, Any] = {"max_tokens": 24, "logprobs": kind, "top_logprobs": 4, **how}
                noted, drafted = (each.generate(question, **asked) for each in (model, drafting))
                assert plain.text == noted.text == drafted.text
                for a, b in zip(noted.logprobs, drafted.logprobs, strict=True):
                    assert a.token == b.token
                    assert a.logprob == pytest.approx(b.logprob, abs=1e-2)


def test_as_the_openai_api_has_them(model: Gemma4) -> None:
    first = model.generate(QUESTIONS[1], logprobs=True, top_logprobs=2, **GREEDY).logprobs[0].openai()
    assert set(first) == {"token", "logprob", "bytes", "top_logprobs"}
    others = first["top_logprobs"]
    assert isinstance(others, list)
    assert {frozenset(other) for other in others} == {frozenset({"token", "logprob", "bytes"})}
    assert others[0]["token"] == first["token"]
    assert bytes(others[0]["bytes"]).decode() == first["token"]


def test_chunks_that_have_nothing_to_tell() -> None:
    assert LogprobNotes(0, lambda token: b"", sampled=False).told([], 3) == []
    assert LogprobNotes(0, lambda token: b"", sampled=False).told([Chunk("a")], 1) == [Chunk("a")]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logprobs": 3}, "logprobs is 3"),
        ({"logprobs": "raw"}, "logprobs is 'raw'"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21"),
        ({"top_logprobs": 2}, "logprobs is off"),
        ({"logprobs": False, "top_logprobs": 2}, "logprobs is off"),
    ],
)
def test_what_cannot_be_asked(model: Gemma4, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate("Hi", **wrong)
