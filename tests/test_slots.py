"""Several answers at once in one context: the same answers, shared work, places that are freed, nobody left waiting."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert
from gemma4gguf import BusyError, Gemma4, InputError
from gemma4gguf.native.context import Context
from gemma4gguf.runtime.delivery import delivered
from gemma4gguf.runtime.session import BESIDE_OTHERS, Span, evaluate
from tests.support.endless import Endless
from tests.support.storm import OneQuestion, Reference, storm

MODELS = Path(__file__).parents[1] / "models"
DIGITS, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
ASKED: list[dict[str, Any]] = [
    *({"prompt": f"What is {a} + {b}?"} for a, b in ((3, 4), (47, 38), (12, 9), (60, 25), (33, 44), (18, 18))),
    {"prompt": "What number is this?", "images": DIGITS},
    {"prompt": "What is said?", "audio": NUMBER},
    {"prompt": "What is 47 + 38?", "thinking": True},
    {"prompt": "Hello", "system": "Be brief. " * 60},
]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def alone(tiny_bundle: Path) -> list[str]:
    """Every answer, made by itself."""
    with Gemma4(tiny_bundle, context=1024, threads=1, draft="off") as model:
        return [model.generate(**asked, **GREEDY).text for asked in ASKED]


@pytest.mark.parametrize("draft", ["off", 3, "auto"])
def test_answers_do_not_depend_on_their_neighbours(tiny_bundle: Path, alone: list[str], draft: Any) -> None:
    with Gemma4(tiny_bundle, context=1024, threads=1, draft=draft, parallel=4) as model:
        most = 0

        def ask(number: int) -> str:
            nonlocal most
            text = ""
            for chunk in model.stream(**ASKED[number % len(ASKED)], **GREEDY):
                text += chunk.text
                most = max(most, len(model.engine.scheduler.live))
            return text

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(ask, range(3 * len(ASKED))))
    assert found == alone * 3
    assert most == 4, "all places were taken at some time"


def test_steps_go_in_the_order_of_their_sequences(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp evaluates steps together only so; in another order each costs as much as alone."""
    with Gemma4(tiny_bundle, context=1024, threads=1, draft="off", parallel=4) as model:
        seen: list[list[int]] = []
        decode_several = Context.decode_several

        def watched(self: Context, parts: Sequence[tuple[Sequence[int], int, int]]) -> None:
            seen.append([sequence for _, _, sequence in parts])
            decode_several(self, parts)

        monkeypatch.setattr(Context, "decode_several", watched)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: model.generate(f"What is {number} + 4?", **GREEDY), range(24)))
    assert max(map(len, seen)) > 1
    assert all(sequences == sorted(sequences) for sequences in seen)


def test_a_text_beside_a_stream_is_read_in_short_pieces(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first piece on: the stream waits for each of them."""
    with Gemma4(tiny_bundle, context=2048, threads=1, draft="off", parallel=2) as model:
        stream = delivered(Endless(model).start)
        next(stream)
        rows: list[int] = []
        decode = Context.decode

        def watched(self: Context, tokens: Sequence[int], *given: Any, **how: Any) -> None:
            rows.append(len(tokens))
            decode(self, tokens, *given, **how)

        monkeypatch.setattr(Context, "decode", watched)
        result = model.generate("The quick brown fox jumps over the lazy dog. " * 40, **GREEDY)
        stream.close()
    assert sum(rows) in (result.tokens.prompt, result.tokens.prompt - 1)
    assert max(rows) <= BESIDE_OTHERS < result.tokens.prompt


def test_a_stream_that_is_left_frees_its_place(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, context=4096, threads=1, parallel=2) as model:
        left = [delivered(Endless(model).start) for _ in range(2)]
        for stream in left:
            next(stream)
        with pytest.raises(BusyError):
            model.generate("Hi", wait=False, **GREEDY)
        with pytest.raises(BusyError, match="was not enough"):
            model.generate("Hi", wait=0.01, **GREEDY)
        left[0].close()
        assert model.generate("What is 3 + 4?", **GREEDY).text
        del left[:], stream
        assert model.generate("What is 3 + 4?", **GREEDY).text
        assert len(model.engine.scheduler.places.free) == 2


def test_closing_ends_every_stream_and_whoever_waits(tiny_bundle: Path) -> None:
    model = Gemma4(tiny_bundle, context=4096, threads=1)
    stream = delivered(Endless(model).start)
    next(stream)
    waiting: list[object] = []

    def wait() -> None:
        try:
            waiting.append(model.generate("Hi", **GREEDY))
        except InputError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    model.close()
    thread.join(20)
    assert "closed" in str(waiting)
    with pytest.raises(InputError, match="closed"):
        list(stream)


def test_what_others_hold_is_not_read_again(tiny_bundle: Path) -> None:
    """A second chat about the same beginning copies it; a first one that had to make room comes back."""
    beginning = "The quick brown fox jumps over the lazy dog. " * 12
    with Gemma4(tiny_bundle, context=2048, threads=1, parallel=2) as model:
        whole = model.generate(beginning + "One?", **GREEDY)
        assert whole.tokens.reused == 0
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda end: model.generate(beginning + end, **GREEDY), ["Two?", "Three?"]))
        assert min(result.tokens.reused for result in both) > 100
    with Gemma4(tiny_bundle, context=2048, threads=1) as model:
        first = model.generate(beginning + "One?", **GREEDY)
        model.generate("Something else. " * 40, **GREEDY)
        again = model.generate(beginning + "One?", **GREEDY)
        assert again.tokens.reused > first.tokens.prompt - 20
        assert again.text == first.text
    with Gemma4(tiny_bundle, context=2048, threads=1, cache_memory=0) as model:
        first = model.generate(beginning + "One?", **GREEDY)
        model.generate("Something else. " * 40, **GREEDY)
        assert model.generate(beginning + "One?", **GREEDY).tokens.reused < 20


def test_going_back_past_the_window_costs_only_what_is_new(tiny_bundle: Path) -> None:
    """What a long thought pushed out of the sliding layers comes back from a checkpoint: the logits of a cold run."""
    rng = np.random.default_rng(0)
    ids = [int(i) for i in rng.integers(300, 2000, 3000)]
    new = [int(i) for i in rng.integers(300, 2000, 40)]
    with Gemma4(tiny_bundle, context=4096, threads=1, draft="off", kv_type="f32", flash_attention="off") as model:
        session = model.engine.session
        for piece in session.feeding([Span(ids[:400])], limit=3000):
            evaluate(session.context, [piece])
        for start in range(400, 3000, 100):
            session.step(ids[start : start + 10])
            session.step(ids[start + 10 : start + 20])
            for at in range(start + 20, start + 100, 16):
                session.step(ids[at : at + 16])
        assert session.context.first_position() > 400
        assert session.checkpoints
        assert session.feed([Span([*ids[:390], *new])]) == 384, "a little before the end of the turn"
        warm = session.context.logits().copy()
        session.clear()
        session.feed([Span([*ids[:390], *new])])
        assert np.abs(session.context.logits() - warm).max() < 1e-3


def test_a_long_prompt_is_interrupted_and_no_other_answer_suffers(tiny_bundle: Path, alone: list[str]) -> None:
    with Gemma4(tiny_bundle, context=4096, threads=1, parallel=2) as model:
        told: list[int] = []

        def leave(done: int, total: int) -> None:
            told.append(done)
            if done > 256:
                raise KeyboardInterrupt

        def read() -> None:
            with pytest.raises(KeyboardInterrupt):
                model.generate("word " * 3500, on_progress=leave, **GREEDY)

        reader = threading.Thread(target=read)
        reader.start()
        answers = [model.generate(**asked, **GREEDY).text for asked in ASKED[:6]]
        reader.join(60)
        assert answers == alone[:6]
        assert told[-1] < 3000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_after_a_fork_gets_an_error_at_once(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, context=512, threads=1) as model:
        chat = model.conversation()
        chat.say("Hi", **GREEDY)
        hi: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
        ways: list[Callable[[], object]] = [
            *(lambda: model.generate("Hi", **GREEDY), lambda: next(model.stream("Hi", **GREEDY))),
            *(lambda: model.chat(hi, **GREEDY), lambda: model.chat(hi, on_full="drop", **GREEDY)),
            *(lambda: chat.say("Hi", **GREEDY), lambda: asyncio.run(model.agenerate("Hi", **GREEDY))),
        ]
        said = multiprocessing.get_context("fork").SimpleQueue()

        def child() -> None:
            for way in ways:
                try:
                    said.put(repr(way()))
                except InputError as error:
                    said.put(str(error))
            os._exit(0)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(20)
        assert process.exitcode == 0
        told = [said.get() for _ in ways]
        assert all("forked" in each for each in told), told


def test_a_storm_of_questions(tmp_path: Path) -> None:
    """Whole answers are right, and nobody hangs; `scripts/stress` is the long one. The seed is told where it fails."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    # Nothing is rounded to fewer bits: a conversation is read in other pieces than it was written in.
    exact: dict[str, Any] = {"context": 1024, "threads": 1, "kv_type": "f32", "flash_attention": "off"}
    file = tmp_path / "exact.gguf"
    convert(MODELS / "tiny", file, quant="F32", drafter=MODELS / "tiny-assistant")
    questions = [OneQuestion(str(asked), asked) for asked in ASKED]
    with Gemma4(file, **exact, draft="off") as slow, Gemma4(file, **exact, parallel=3) as model:
        tally = storm(model, questions, Reference(slow), seed=seed, count=12)
        assert not tally.wrong
        assert tally.right > 20
        until = time.monotonic() + 60
        while model.engine.scheduler.live and time.monotonic() < until:
            time.sleep(0.01)
        assert not model.engine.scheduler.live
        assert len(model.engine.scheduler.places.free) == 3


def test_pickling_says_what_to_do(tiny_bundle: Path) -> None:
    import pickle

    with Gemma4(tiny_bundle) as model, pytest.raises(TypeError, match="open it in each process"):
        pickle.dumps(model)


def test_parallel_is_checked(tiny_bundle: Path) -> None:
    for wrong in (0, 17, 1.5):
        with pytest.raises(InputError, match="parallel"):
            Gemma4(tiny_bundle, parallel=wrong)  # type: ignore[arg-type]
