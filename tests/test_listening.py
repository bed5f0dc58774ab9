"""Sound that is read while it is spoken: the same logits and answers as for the whole clip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf import ContextError, Gemma4, InputError, frame
from gemma4gguf.media.framing import Framer
from gemma4gguf.runtime.fitting import LATEST_SOUND
from tests.support.spoken import RATE, clips, is_said

ASK = "What is said?"
# So that it makes no difference in how many pieces a prompt is read (docs/decisions.md).
EXACT: Any = {"kv_type": "f32", "flash_attention": "off", "draft": "off", "threads": 1}
PIECES = {8000: 1000, 16000: 160, 44100: 37, 48000: 4800}  # rate in Hz -> samples that are fed at a time


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=512, **EXACT) as opened:
        yield opened


@pytest.fixture(scope="module")
def exact(bundle: Path) -> Iterator[Gemma4]:
    """The stand-in in float32 throughout."""
    with Gemma4(bundle, context=512, **EXACT) as opened:
        yield opened


def noise(seconds: float, rate: int) -> NDArray[np.float32]:
    return np.random.default_rng(rate).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def fed(ear: Any, samples: NDArray[np.float32], rate: int, piece: int) -> None:
    for start in range(0, len(samples), piece):
        ear.feed(samples[start : start + piece], rate)


# ── as the whole clip ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("rate", "piece"), PIECES.items())
def test_frames_are_those_of_the_whole_clip(rate: int, piece: int) -> None:
    samples, framer = noise(1.23, rate), Framer()
    frames = [framer.feed(samples[start : start + piece], rate) for start in range(0, len(samples), piece)]
    assert np.array_equal(np.concatenate([*frames, framer.end()]), frame((samples, rate)))


@pytest.mark.parametrize(("rate", "piece"), PIECES.items())
def test_logits_are_those_of_the_whole_clip(exact: Gemma4, rate: int, piece: int) -> None:
    samples = noise(2.02, rate)
    with exact.conversation().hear(ASK) as ear:
        fed(ear, samples, rate, piece)
        result = ear.answer(temperature=0, max_tokens=1)
    heard = exact.engine.session.context.logits().copy()
    assert result.tokens.audio == 51
    exact.engine.scheduler.places.forget()
    asked = {"role": "user", "content": [{"type": "text", "text": ASK}, {"type": "audio", "audio": (samples, rate)}]}
    whole = exact.chat([asked], temperature=0, max_tokens=1)
    assert whole.tokens.reused == 0
    assert whole.tokens.prompt == result.tokens.prompt
    possible = np.isfinite(heard)  # sampling has masked the others
    logits = exact.engine.session.context.logits()
    assert np.array_equal(np.isfinite(logits), possible)
    assert np.abs(logits[possible] - heard[possible]).max() < 0.03
    assert heard[possible].std() > 0.1


def test_answers_are_those_of_the_whole_clip(model: Gemma4) -> None:
    right = 0
    for word, clip in clips():
        whole = model.conversation().say(ASK, audio=[(clip, RATE)], temperature=0)
        with model.conversation().hear(ASK) as ear:
            fed(ear, clip, RATE, 700)
            spoken = ear.answer(temperature=0)
        assert spoken.text == whole.text
        right += is_said(word, spoken.text)
    assert right >= 15  # of twenty


def test_only_the_end_is_left_to_read_when_the_turn_ends(model: Gemma4) -> None:
    model.engine.scheduler.places.forget()
    with model.conversation().hear(ASK) as ear:
        ear.feed(noise(4, RATE), RATE)
        assert ear.seconds == 4
        wait_until_read(model, 100)
        result = ear.answer(temperature=0, max_tokens=4)
    assert result.tokens.audio == 100
    assert result.tokens.prompt - result.tokens.reused < 16  # what ends the turn


@pytest.mark.parametrize("before", [1, 150], ids=["short", "beyond the window"])
def test_pauses_change_nothing(bundle: Path, before: int) -> None:
    """What ends the turn is read in each, and taken back; also where sliding layers have forgotten the beginning."""
    samples = noise(24 if before > 1 else 2, RATE)
    pauses = [len(samples) // 640 * part // 4 for part in (1, 2, 4)]  # in frames
    asked = {"role": "user", "content": [{"type": "text", "text": ASK}, {"type": "audio", "audio": (samples, RATE)}]}
    with Gemma4(bundle, context=2048, **EXACT) as model:
        chat = model.conversation(system="x " * before)
        with chat.hear(ASK) as ear:
            for start, end in zip([0, *pauses], pauses, strict=False):
                ear.pause()
                ear.feed(samples[start * 640 : end * 640], RATE)
                ear.pause()
                ear.pause()
                wait_until_read(model, end, to_the_end=True)
            result = ear.answer(temperature=0, max_tokens=1)
        heard = model.engine.session.context.logits().copy()
        assert result.tokens.prompt - result.tokens.reused == 1
        first = model.engine.session.context.first_position(0)
        assert (first > 0) == (before > 1)
        model.engine.scheduler.places.forget()
        whole = model.chat([{"role": "system", "content": "x " * before}, asked], temperature=0, max_tokens=1)
        assert (whole.tokens.reused, whole.tokens.prompt) == (0, result.tokens.prompt)
        logits = model.engine.session.context.logits().copy()
    possible = np.isfinite(heard)  # sampling has masked the others
    assert np.abs(logits[possible] - heard[possible]).max() < 0.03


def wait_until_read(model: Gemma4, frames: int, *, to_the_end: bool = False) -> None:
    """Wait for the engine, which says itself what it holds."""
    while True:
        held = [key for session in model.engine.sessions for key in list(session.held)]
        if sum(not isinstance(key, int) for key in held) >= frames and isinstance(held[-1], int) >= to_the_end:
            return
        time.sleep(0.01)


# ── conversations ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_spoken_turn_is_a_turn_like_others(model: Gemma4) -> None:
    chat = model.conversation(system="Be brief.")
    for number, (_, clip) in enumerate(clips()[:2]):
        with chat.hear(ASK) as ear:
            ear.feed(clip, RATE)
            *_, last = ear.stream(temperature=0)
        assert last.result
        assert chat.messages[-1]["content"] == last.result.text
        assert last.result.tokens.reused > 40 * number  # the turn before is not read again
    assert [m["role"] for m in chat.messages] == ["system", *["user", "assistant"] * 2]
    again = model.chat(chat.messages[:-1], temperature=0)
    assert again.text == chat.messages[-1]["content"]
    chat.undo()
    assert len(chat.messages) == 3


def test_speaking_into_an_answer_keeps_what_was_told(model: Gemma4) -> None:
    chat = model.conversation()
    _, clip = clips()[0]
    with chat.hear(ASK) as ear:
        ear.feed(clip, RATE)
        with closing(ear.stream(temperature=0)) as chunks:
            told = next(chunks).text
    assert told
    assert [m["role"] for m in chat.messages] == ["user", "assistant"]
    assert chat.messages[-1]["content"] == told.strip()
    with chat.hear(ASK) as ear:
        ear.feed(clip, RATE)
        assert ear.answer(temperature=0).text
    assert len(chat.messages) == 4


def test_a_turn_that_is_left_leaves_nothing(model: Gemma4) -> None:
    chat = model.conversation()
    with chat.hear(ASK) as ear:
        ear.feed(noise(1, RATE), RATE)
    with chat.hear() as ear:
        ear.feed(np.zeros(RATE * 40, np.float32), RATE)  # two windows wait to be written down
    assert not chat.messages
    assert chat.say("What is 2 + 3?", temperature=0, max_tokens=4).text  # its place is free again


def test_a_listener_keeps_its_place_beside_others(tiny_bundle: Path) -> None:
    _, clip = clips()[0]
    with Gemma4(tiny_bundle, context=512, parallel=2, **EXACT) as several:
        alone = several.conversation().say(ASK, audio=[(clip, RATE)], temperature=0)
        several.engine.scheduler.places.forget()
        with several.conversation().hear(ASK) as ear:
            for start in range(0, len(clip), 2000):
                ear.feed(clip[start : start + 2000], RATE)
                several.generate(f"What is {start} + 1?", temperature=0, max_tokens=3)
            result = ear.answer(temperature=0)
        assert result.text == alone.text
        assert result.tokens.reused >= 12


# ── what does not fit ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_long_turn_is_written_down_window_by_window(model: Gemma4) -> None:
    """A context of 512 has room for about 16 s in a turn."""
    (_, one), (_, two) = clips()[:2]
    quiet = np.zeros(RATE * 18, np.float32)
    chat = model.conversation()
    with chat.hear(transcript_prompt=ASK) as ear:
        fed(ear, np.concatenate([one, quiet, two]), RATE, 8000)
        result = ear.answer(temperature=0, max_tokens=8)
    assert result.tokens.audio == 0
    (question, _) = chat.messages
    assert [part["type"] for part in question["content"]] == ["text"]  # type: ignore[attr-defined]
    assert "I hear" in question["content"][0]["text"]  # type: ignore[index]


def test_a_late_turn_is_written_down(tiny_bundle: Path) -> None:
    _, clip = clips()[0]
    with Gemma4(tiny_bundle, context=1024, **EXACT) as model:
        chat = model.conversation(system="Be brief. " * (LATEST_SOUND // 2))
        with chat.hear("Hm?", transcript_prompt=ASK) as ear:
            ear.feed(clip, RATE)
            ear.answer(temperature=0, max_tokens=4)
        alone = model.chat(
            [{"role": "user", "content": [{"type": "audio", "audio": (clip, RATE)}, {"type": "text", "text": ASK}]}],
            temperature=0,
        )
        assert chat.messages[1]["content"] == [{"type": "text", "text": f"Hm?\n{alone.text}"}]


def test_what_cannot_be_heard(model: Gemma4, tiny_bundle: Path) -> None:
    chat = model.conversation()
    with chat.hear() as ear:
        with pytest.raises(InputError, match="nothing was heard"):
            ear.answer()
        ear.feed(noise(1, RATE), RATE)
        with pytest.raises(InputError, match="rate is 8000 Hz, and the sound began at 16000 Hz"):
            ear.feed(noise(1, 8000), 8000)
        with pytest.raises(InputError, match="not finite"):
            ear.feed([0.0, float("nan")], RATE)
        ear.end()
        with pytest.raises(InputError, match="this turn is over"):
            ear.feed(noise(1, RATE), RATE)
        with pytest.raises(InputError, match="this turn is over"):
            ear.pause()
    with Gemma4(tiny_bundle, context=32, **EXACT) as small, pytest.raises(ContextError, match="no room to listen"):
        small.conversation().hear()


def test_a_model_that_is_closed_says_so_to_who_listens(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, context=512, **EXACT) as model:
        ear = model.conversation().hear(ASK)
        ear.feed(noise(1, RATE), RATE)
    with pytest.raises(InputError, match="closed"):
        ear.feed(noise(1, RATE), RATE)


def test_many_turns_leave_nothing_behind(model: Gemma4) -> None:
    chat = model.conversation()
    _, clip = clips()[0]
    for _ in range(12):
        with chat.hear(ASK, transcript_prompt=ASK) as ear:
            ear.feed(clip, RATE)
            ear.answer(temperature=0, max_tokens=12)
    assert chat.dropped
    assert len(chat.messages) < 24
    assert not model.engine.scheduler.live
    assert len(model.engine.scheduler.places.free) == 1
