"""`gemma4gguf listen` and its parts: turns, answers that are spoken into, whether a machine is fast enough."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from gemma4gguf import Chunk, Gemma4, InputError
from gemma4gguf.cli import cli
from gemma4gguf.media.speech import HOP, detector, spoken
from gemma4gguf.tools import listening
from gemma4gguf.tools.listening import Telling, at_the_pace, by_key, microphone, verdict
from tests.support.spoken import RATE, clips, is_said, memo

HOW = ("--draft", "off", "--context", "512", "--threads", "1", "--temperature", "0")
ASK = "What is said?"
WORDS = 4


@pytest.fixture(scope="module")
def sound() -> NDArray[np.float32]:
    """Some words with pauses between them."""
    samples, said = memo(0)
    return samples[: int((said[WORDS - 1].end + 1) * RATE)]


@pytest.fixture(scope="module")
def file(sound: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "talk.flac"
    soundfile.write(path, sound, RATE)
    return path


def listened(bundle: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["listen", str(bundle), *HOW, *arguments])


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_turn_is_answered(tiny_bundle: Path, file: Path) -> None:
    exact = ("--kv-type", "f32", "--flash-attention", "off")  # in how many pieces a turn is read makes no difference
    done = listened(tiny_bundle, *exact, "--file", str(file), "--fast", "--json", "--prompt", ASK)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["positions_a_second"] > 0
    heard: list[list[NDArray[np.float32]]] = [[]]
    for piece in spoken([soundfile.read(file, dtype="float32")[0]], detector()):
        if piece is None:
            heard.append([])
        else:
            heard[-1].append(piece)
    assert len(heard) == WORDS + 1
    with Gemma4(tiny_bundle, context=512, kv_type="f32", flash_attention="off", draft="off", threads=1) as model:
        chat = model.conversation()
        whole = [chat.say(ASK, audio=[(np.concatenate(turn), RATE)], temperature=0).text for turn in heard[:-1]]
    assert [turn["text"] for turn in told["turns"]] == whole
    assert [turn["stopped"] for turn in told["turns"]] == [False] * WORDS
    assert is_said(clips()[0][0], whole[0])


def test_enter_ends_a_turn(tiny_bundle: Path, file: Path) -> None:
    """Nothing is pressed here: all of the file is one turn."""
    done = listened(tiny_bundle, "--file", str(file), "--fast", "--key", "--max-tokens", "8")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1
    assert "Enter ends your turn" in done.stderr


def test_a_machine_that_is_too_slow_is_told(tiny_bundle: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for speed, told in ((8.0, "no: reads 8 positions a second here, and listening takes 25"), (99.0, "yes: reads 99")):
        monkeypatch.setattr(listening, "reading_speed", lambda model, speed=speed: speed)
        done = listened(tiny_bundle, "--file", str(file), "--fast", "--key", "--max-tokens", "4")
        assert done.exit_code == 0, done.output
        assert told in " ".join(done.stderr.split())
        examined = CliRunner().invoke(cli, ["doctor", str(tiny_bundle), "--json"])
        assert told in json.loads(examined.stdout)[-1]["value"]
    assert verdict(12.5).endswith("an answer comes 1.0 s late for each second that is spoken")


def test_what_is_wrong_is_told_in_one_line(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listened(tiny_bundle, "--fast").exit_code == 2
    (tmp_path / "page.wav").write_text("<html></html>")
    done = listened(tiny_bundle, "--file", str(tmp_path / "page.wav"), "--fast")
    assert "page.wav: cannot be read as sound" in done.stderr
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    done = listened(tiny_bundle, "--key")
    assert done.stderr.startswith("error: the microphone needs sounddevice")
    assert "pip install 'gemma4gguf[listen]'" in done.stderr


# ── its parts ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_turns_hold_what_was_spoken(sound: NDArray[np.float32]) -> None:
    turns: list[int] = [0]
    for piece in spoken([sound], detector()):
        turns[-1] += 0 if piece is None else len(piece)
        if piece is None:
            turns.append(0)
    assert len(turns) == WORDS + 1
    for length, (_, clip) in zip(turns[:WORDS], clips(), strict=False):
        assert 0 < (length - len(clip)) / RATE < 0.4  # what is around it


def test_silence_is_held_back_until_speech_goes_on() -> None:
    loud, quiet = np.ones(HOP, np.float32), np.zeros(HOP, np.float32)
    sound = np.concatenate([*[quiet] * 9, loud, *[quiet] * 5, loud, *[quiet] * 15, loud, *[quiet] * 40, loud])
    pieces = list(spoken([sound], lambda hop: float(hop[0])))
    shown = ["over" if piece is None else len(piece) for piece in pieces]
    # A little before speech and behind it, and what fills the last frame; what was held back then comes with speech.
    first = [3 * HOP, HOP, HOP, HOP, 3 * HOP, HOP, HOP, HOP, 640 - 12 * HOP % 640, 0]
    second = [16 * HOP - sum(first[5:9]), HOP, HOP, HOP]
    last = [-(sum(first) + sum(second)) % 640, 0, "over", 3 * HOP, "over"]
    assert shown == [*first, *second, *last]
    turn = np.concatenate([piece for piece in pieces[: shown.index("over")] if piece is not None])
    assert np.array_equal(turn, sound[7 * HOP : 7 * HOP + len(turn)])
    assert len(turn) % 640 == 0


def test_a_key_ends_a_turn_and_begins_the_next() -> None:
    presses = iter([False, True, False, True, False])
    pieces = list(by_key([np.zeros(6 * HOP, np.float32)], lambda: next(presses)))
    assert [piece is None for piece in pieces] == [False, False, True, False, False, True]


def test_the_pace_of_a_microphone() -> None:
    now, waited = [5.0], list[float]()

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    for _ in at_the_pace([np.zeros(4 * HOP, np.float32)], lambda: now[0], sleep):
        now[0] += 0.05 if now[0] < 5.04 else 0.0  # the first takes longer than the next one lasts
    assert waited == pytest.approx([0.032, 0.0, 0.014, 0.032])


def test_an_answer_that_is_spoken_into_stops(tiny_bundle: Path) -> None:
    told: list[Chunk | None] = []
    made = Event()
    answers: list[Telling] = []

    def said(chunk: Chunk | None) -> None:
        told.append(chunk)
        assert made.wait(60)
        answers[0].stopped.set()

    with Gemma4(tiny_bundle, context=512, draft="off", threads=1) as model, ThreadPoolExecutor(1) as pool:
        chat = model.conversation()
        ear = chat.hear(ASK)
        ear.feed(clips()[0][1], RATE)
        answers.append(Telling(pool, ear, said, {"temperature": 0}))
        made.set()
        answers[0].wait()
        assert len(told) == 2
        assert told[0]
        assert told[1] is None
        assert chat.messages[-1] == {"role": "assistant", "content": told[0].text.strip()}


def test_the_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: there is no device here."""
    block = np.ones((HOP, 1), np.float32)

    class Stream:
        def __init__(self, rate: int, size: int, callback: Any, **how: Any) -> None:
            assert (rate, size, how) == (RATE, HOP, {"channels": 1, "dtype": "float32"})
            self._callback = callback

        def __enter__(self) -> None:
            self._callback(block, HOP, None, None)

        def __exit__(self, *_: object) -> None: ...

    def missing(*_: object, **__: object) -> None:
        raise OSError("no device")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=Stream, PortAudioError=OSError))
    blocks: Iterator[NDArray[np.float32]] = microphone()
    assert np.array_equal(next(blocks), block[:, 0])
    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=missing, PortAudioError=OSError))
    with pytest.raises(InputError, match="cannot be opened \\(no device\\)"):
        next(microphone())
