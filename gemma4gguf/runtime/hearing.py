"""A place in which a prompt is read while its sound is still being made.

In: the spans before and after the sound, then frames as they come, at last the answer's own work. Out: the answer's
items. What was read is what the answer's prompt begins with, so that only the rest of that is left to read. Where sound
pauses, that is one position: what ends the turn is read too, and taken back if sound goes on. Does not know messages.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..media.audio import FRAME_SECONDS
from .delivery import Admitted, Put
from .prompt import BEFORE_SOUND
from .scheduler import Scheduler
from .session import Rest, Session, Span, Work

PIECE = 4  # frames that are worth a call: processors compute rows of many types by fours (docs/decisions.md)

Begin = Callable[[Session], Iterator[Any]]


class Hearing(Protocol):
    """A sound that is being heard, in whichever process. See `HearingPlace`."""

    @property
    def most(self) -> int: ...

    @property
    def dropped(self) -> int: ...

    @property
    def behind(self) -> float: ...

    def feed(self, frames: NDArray[np.float32]) -> None: ...

    def pause(self) -> None: ...

    def close(self) -> None: ...


class HearingPlace:
    """One sound being heard in a place of its own, which it holds until it is answered or left. Any thread may feed."""

    def __init__(
        self,
        scheduler: Scheduler,
        before: Sequence[Span],
        after: Sequence[Span],
        heard: Callable[[NDArray[np.float32], bytes], Span],
        most: int,
        dropped: int = 0,
    ) -> None:
        """`after`: what ends the turn. `heard`: makes a span of frames and the digest of the one before them. `most`:
        frames there is room for. `dropped`: turns that were left out of what comes before.
        """
        self.most, self.dropped = most, dropped
        self._before, self._after, self._heard = before, after, heard
        self._changing = threading.Lock()
        self._waiting: list[NDArray[np.float32]] = []
        self._answer: tuple[Begin, Put] | None = None
        self._failure: BaseException | None = None
        self._pausing = self._ended = False
        self._wake, self._leave = scheduler.hold(before, self._work, self._put)

    @property
    def behind(self) -> float:
        """Seconds of sound that were fed and are not read yet."""
        with self._changing:
            return sum(map(len, self._waiting)) * FRAME_SECONDS

    def feed(self, frames: NDArray[np.float32]) -> None:
        """Have frames float32 [n, 640] read soon. Raises what has ended the listening."""
        with self._changing:
            self._check()
            self._waiting.append(frames)
            self._pausing = False
        self._wake()

    def pause(self) -> None:
        """Have what ends the turn read, too, unless more is fed first. Raises what has ended the listening."""
        with self._changing:
            self._check()
            self._pausing = True
        self._wake()

    def submit(self, spans: Sequence[Span], begin: Begin, wait: bool | float, put: Put) -> Callable[[], None]:
        """Answer here, as `Scheduler.submit` does elsewhere: `begin` reads the prompt `spans` and answers it."""
        with self._changing:
            self._check()
            self._answer = begin, put
        put(Admitted())
        self._wake()
        return self.close

    def close(self) -> None:
        """Listen or answer no more. Whoever waits for the answer is told, also where there was no place yet."""
        with self._changing:
            self._ended, answer = True, self._answer
        self._leave()
        if answer:
            answer[1](None)

    def _check(self) -> None:
        if self._failure:
            raise self._failure
        if self._ended or self._answer:
            raise InputError("this turn is over; listen anew")

    # ── in the scheduler's thread ────────────────────────────────────────────────────────────────────────────────

    def _work(self, session: Session) -> Iterator[Work | Rest | Any]:
        yield from session.feeding(self._before)
        last, read = BEFORE_SOUND, session.length
        while True:
            with self._changing:
                answer, frames = self._answer, self._waiting
                enough = sum(map(len, frames)) >= (1 if self._pausing else PIECE)
                end = self._pausing and not enough
                if enough or answer:
                    self._waiting = []
                if end:
                    self._pausing = False
            if answer:  # its prompt holds the frames that waited
                yield from answer[0](session)
                return
            if not (enough or end):
                yield Rest()
                continue
            session.rewind(read)  # what a pause took for the end
            if end:
                for span in self._after:
                    yield from session.appending(span)
                continue
            span = self._heard(np.concatenate(frames), last)
            yield from session.appending(span)
            last, read = span.each[-1], session.length

    def _put(self, item: Any) -> None:
        """Hand on what the answer makes. What ends the listening before that is kept for whoever feeds it."""
        with self._changing:
            answer = self._answer
            if item is None or isinstance(item, BaseException):
                self._ended, self._failure = True, item
        if answer:
            answer[1](item)
