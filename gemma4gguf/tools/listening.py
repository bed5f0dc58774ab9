"""A spoken conversation: sound comes in without an end, turn by turn it is answered, and speaking stops an answer.

Blocks of 16 kHz samples come in, from a file or a device; what is heard and said is told. Also measures whether a model
is fast enough for it. Does not print.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib import import_module
from itertools import chain
from threading import Event
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..conversation import Conversation
from ..errors import InputError
from ..listening import Ear
from ..media.audio import FRAME_SECONDS, SAMPLE_RATE, listen
from ..media.speech import HOP, hops
from ..model import Gemma4
from ..records import Chunk
from ..runtime.options import GenerateOptions

NEEDED = round(1 / FRAME_SECONDS)  # positions that a second of sound takes
EXTRA = "pip install 'gemma4gguf[listen]'"

Samples: TypeAlias = "NDArray[np.float32]"
Heard = Callable[[Ear], None]
"""Told of a turn while it is heard."""
Said = Callable[[Chunk | None], None]
"""Told of an answer, piece by piece; None where it was spoken into."""
Failed = Callable[[Exception], None]
"""Told of an answer's error at once; it is raised when there is sound again."""


# ── whether it can be done here ──────────────────────────────────────────────────────────────────────────────────


def reading_speed(model: Gemma4) -> float:
    """Positions that a model reads in a second here, measured on noise. Takes the time of two seconds of sound."""
    speeds = []
    for seed in (1, 2):  # the first one brings the weights into memory
        noise = np.random.default_rng(seed).normal(0, 0.1, SAMPLE_RATE)
        sound = {"type": "audio", "audio": (noise.astype(np.float32), SAMPLE_RATE)}
        result = model.chat([{"role": "user", "content": [sound]}], temperature=0, max_tokens=1)
        speeds.append((result.tokens.prompt - result.tokens.reused) / result.timings.prefill_s)
    return max(speeds)


def verdict(speed: float) -> str:
    """Whether a model that reads so many positions a second can listen, in a line."""
    measured = f"reads {speed:.0f} positions a second here, and listening takes {NEEDED}"
    if speed >= NEEDED:
        return f"yes: {measured}"
    return f"no: {measured}; an answer comes {NEEDED / speed - 1:.1f} s late for each second that is spoken"


# ── where sound comes from ───────────────────────────────────────────────────────────────────────────────────────


def at_the_pace(
    blocks: Iterable[Samples],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Samples]:
    """Blocks as a microphone gives them: none before it has been spoken."""
    begun, given = clock(), 0
    for hop in hops(blocks):
        given += len(hop)
        sleep(max(0.0, begun + given / SAMPLE_RATE - clock()))
        yield hop


def recording(path: str) -> Iterator[Samples]:
    """Blocks of a sound file. Raises InputError at once where it is none."""
    blocks = listen(path)
    return chain([next(blocks)], blocks)


def microphone() -> Iterator[Samples]:
    """Blocks from the default device, for ever. Raises InputError without the extra `listen`, or without a device."""
    try:
        library: Any = import_module("sounddevice")
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is not there
        raise InputError(f"the microphone needs sounddevice, which does not load ({error}): {EXTRA}") from error
    recorded: queue.SimpleQueue[Samples] = queue.SimpleQueue()

    def take(block: Samples, *_: object) -> None:
        recorded.put(block[:, 0].copy())

    try:
        stream = library.InputStream(SAMPLE_RATE, HOP, channels=1, dtype="float32", callback=take)
    except library.PortAudioError as error:
        raise InputError(f"the microphone cannot be opened ({error}); give a sound file instead") from error
    return _recorded(stream, recorded)


def _recorded(stream: Any, blocks: queue.SimpleQueue[Samples]) -> Iterator[Samples]:
    with stream:
        while True:
            yield blocks.get()


def by_key(blocks: Iterable[Samples], pressed: Callable[[], bool]) -> Iterator[Samples | None]:
    """Sound in turns that a key ends: `pressed` says whether it was since. The next press begins another turn."""
    is_open = heard = False
    for number, hop in enumerate(hops(blocks)):
        if number == 0 or pressed():
            if heard:
                yield None
            is_open, heard = not is_open, False
        if is_open:
            heard = True
            yield hop
    if heard:
        yield None


# ── the conversation ─────────────────────────────────────────────────────────────────────────────────────────────


def talk(
    chat: Conversation,
    turns: Iterable[Samples | None],
    heard: Heard,
    said: Said,
    *,
    options: GenerateOptions,
    failed: Failed | None = None,
    text: str = "",
    transcript_prompt: str | None = None,
    patient: bool = False,
) -> None:
    """Answer turn after turn: sound as it comes, empty where it pauses, None where a turn ends (see `speech.spoken`).

    `text`: told before the sound of each. Sound that comes during an answer stops it; `patient`: it is not looked at
    before the answer has ended, as where a file is read faster than it was spoken. `said` is called in another thread.
    """
    ear: Ear | None = None
    answer: Telling | None = None
    with ThreadPoolExecutor(1, "gemma4gguf-answer") as pool:
        try:
            for sound in turns:
                if sound is None:
                    assert ear
                    answer, ear = Telling(pool, ear, said, options, failed), None
                    if patient:
                        answer.wait()
                    continue
                if ear is None:
                    if answer:
                        answer.stop()
                    ear = chat.hear(text, transcript_prompt=transcript_prompt)
                if len(sound):
                    ear.feed(sound, SAMPLE_RATE)
                else:
                    ear.pause()
                heard(ear)
            if answer:
                answer.wait()
        except BaseException:
            if answer:
                answer.leave()
            raise
        finally:
            if ear:
                ear.close()


class Telling:
    """One answer, told in a thread of its own. `stopped`: is to be told no further."""

    def __init__(
        self, pool: ThreadPoolExecutor, ear: Ear, said: Said, options: GenerateOptions, failed: Failed | None = None
    ) -> None:
        self.stopped = Event()
        self._ear, self._said, self._failed, self._options = ear, said, failed, options
        self._done: Future[None] = pool.submit(self._told)

    def _told(self) -> None:
        try:
            self._tell()
        except Exception as error:
            if self._failed and not self.stopped.is_set():
                self._failed(error)
            raise

    def _tell(self) -> None:
        with self._ear, closing(self._ear.stream(**self._options)) as chunks:
            for chunk in chunks:
                self._said(chunk)
                if self.stopped.is_set() and not chunk.result:
                    self._said(None)
                    return

    def leave(self) -> None:
        """End it at once, whatever becomes of the conversation."""
        self.stopped.set()
        self._ear.close()

    def stop(self) -> None:
        """Stop it, if it has not ended, and wait until the conversation can go on. Raises what it raised."""
        self.stopped.set()
        self.wait()

    def wait(self) -> None:
        """Wait for its end. Raises what it raised."""
        self._done.result()
