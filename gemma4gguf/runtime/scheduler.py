"""The owner of what runs next: several answers in one context, each in a sequence of its own, evaluated together.

Jobs come in: prompts, and generators of work and of items for whoever asked. The items come out as they are made. One
thread does all the work: the steps of all live answers in one call, then one piece of a prompt that is being read, and
so on. What one job reads is copied for others whose prompts begin like it. This module does not know tokens or text.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ..errors import CLOSED, BusyError, Gemma4Error, InputError
from ..native.context import Context
from .delivery import Admitted, Put
from .places import Places, Wanted
from .session import Piece, Rest, Session, Span, Step, Work, evaluate

Item = TypeVar("Item")
MOST_WAITING = 64  # jobs in the queue


@dataclass(eq=False)
class Job(Generic[Item]):
    """One answer: its prompt, what makes it, and the way back to whoever asked: items, then an error or None."""

    wanted: Wanted
    begin: Callable[[Session], Iterator[Work | Rest | Item]]
    put: Put
    cancelled: bool = False
    awake: bool = True
    ended: bool = False
    session: Session | None = None
    making: Iterator[Work | Rest | Item] | None = None
    work: Work | Rest | None = None
    ahead: tuple[Job[Any], int] | None = None  # who reads the beginning of the same prompt, and up to which position

    @property
    def may_begin(self) -> bool:
        """Nobody is reading what this job would have to read again."""
        if self.ahead is None:
            return True
        other, shared = self.ahead
        read = other.session.length if other.session and other.making else 0
        return other.ended or read >= shared


class Scheduler:
    """Makes answers in `places`, which belong to one context. Any thread may ask; close it before the context."""

    def __init__(self, context: Context, places: Places) -> None:
        self._context, self.places = context, places
        self._waiting: list[Job[Any]] = []
        self.live: list[Job[Any]] = []
        self._changed = threading.Condition()
        self._running: Work | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self, spans: Sequence[Span], begin: Callable[[Session], Iterator[Work | Item]], wait: bool | float, put: Put
    ) -> Callable[[], None]:
        """Queue a job for the prompt `spans`: once it has a session, `begin(session)` makes items, and `put` gets them.

        Returns how to leave it, which ends it within a step. Raises BusyError where `wait` is False and no session is
        free, or too many wait already.
        """
        job: Job[Item] = Job(Wanted.of(spans), begin, put)
        self._submit(job, at_once=wait is False)
        return partial(self._cancel, job)

    def hold(
        self, spans: Sequence[Span], begin: Callable[[Session], Iterator[Work | Rest | Item]], put: Put
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Queue a job that may rest, in a place that stays its own. Returns how to wake it, and how to leave it."""
        job: Job[Item] = Job(Wanted.of(spans), begin, put)
        self._submit(job, at_once=False)
        return partial(self._wake, job), partial(self._cancel, job)

    def _wake(self, job: Job[Any]) -> None:
        with self._changed:
            job.awake = True
            self._changed.notify_all()

    def _submit(self, job: Job[Any], *, at_once: bool) -> None:
        if os.getpid() != self._process:
            raise InputError("this model was opened before the process forked; open it again in the child")
        with self._changed:
            if self._closed:
                raise InputError(CLOSED)
            if at_once and (self._waiting or not self.places.free):
                raise BusyError("the model is at work for others")
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} others wait for the model already")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="gemma4gguf", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _cancel(self, job: Job[Any]) -> None:
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            if isinstance(self._running, Piece) and self._running.session is job.session:
                self._context.abort()
            self._changed.notify_all()

    def close(self) -> None:
        """End every job with an InputError, and the thread. Waits for the call that is being evaluated."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread and self._thread is not threading.current_thread() and os.getpid() == self._process:
            self._thread.join()

    # ── working, all in one thread ───────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        try:
            self._work()
        except BaseException as error:  # a fault of this module's own: nobody may be left waiting
            for job in [*self.live, *self._waiting]:
                job.put(error)
            self._closed = True
            raise

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._can_go_on()):
                    self._changed.wait()
                closed = self._closed
                if not closed:
                    self._admit()
            if closed:
                break
            self._tell_of_company()
            for job in [job for job in self.live if job.making is None]:
                if not job.may_begin:
                    continue
                try:
                    self._begin(job)
                except Gemma4Error as error:
                    self._end(job, error)
                else:
                    self._advance(job)
            for job in [job for job in self.live if job.cancelled]:
                self._end(job, None)
            for job in [job for job in self.live if job.awake and isinstance(job.work, Rest)]:
                job.awake = False
                self._advance(job)
            self._turn()
        for job in [*self.live, *self._waiting]:
            self._end(job, InputError(CLOSED))

    def _can_go_on(self) -> bool:
        """Whether there is anything to do: for a job in the queue, or for one that does not rest."""
        resting = [job for job in self.live if isinstance(job.work, Rest) and not job.awake and not job.cancelled]
        return len(resting) < len(self.live) or bool(self._waiting and self.places.free)

    def _admit(self) -> None:
        """Give the first in the queue the free sessions that suit them best."""
        while self._waiting and self.places.free:
            job = self._waiting.pop(0)
            job.session = self.places.take(job.wanted)
            job.ahead = self._ahead_of(job)
            self.live.append(job)
            job.put(Admitted())

    def _tell_of_company(self) -> None:
        """Tell each session whether others are at work, before it says how much of its prompt comes next."""
        busy = [job for job in self.live if job.awake or not isinstance(job.work, Rest)]
        for job in busy:
            assert job.session
            job.session.shared = len(busy) > 1

    def _ahead_of(self, job: Job[Any]) -> tuple[Job[Any], int] | None:
        """The job that reads most of the same prompt, and how much; None where that would save little."""
        assert job.session
        reading = [(other, job.wanted.shared(other.wanted)) for other in self.live if not isinstance(other.work, Step)]
        ahead = max(reading, key=lambda pair: pair[1], default=None)
        return ahead if ahead and ahead[1] - job.wanted.held_by(job.session) > self.places.worth_a_copy else None

    def _begin(self, job: Job[Any]) -> None:
        assert job.session
        self.places.fill(job.session, job.wanted)
        job.making = job.begin(job.session)

    def _turn(self) -> None:
        """One call for the next step of every answer, and one for a piece of a prompt."""
        stepping = [job for job in self.live if isinstance(job.work, Step)]
        if stepping:
            self._evaluate(stepping)
        reading = next((job for job in self.live if isinstance(job.work, Piece)), None)
        if reading and not reading.cancelled:
            self.live.remove(reading)  # those that read take turns
            self.live.append(reading)
            self._evaluate([reading])

    def _evaluate(self, jobs: Sequence[Job[Any]]) -> None:
        works = [job.work for job in jobs if isinstance(job.work, (Piece, Step))]
        self._running = works[0]
        try:
            evaluate(self._context, works)
        except Exception as error:
            for job in jobs:  # what their sequences hold is uncertain now
                assert job.session
                job.session.clear()
                self._end(job, None if job.cancelled else error)
            return
        finally:
            self._running = None
        for job in jobs:
            self._advance(job)

    def _advance(self, job: Job[Any]) -> None:
        """Let a job go on until it needs an evaluation, or ends."""
        assert job.making
        try:
            for item in job.making:
                if isinstance(item, (Piece, Step, Rest)):
                    job.work = item
                    return
                job.put(item)
        except BaseException as error:
            assert job.session
            job.session.clear()
            self._end(job, error)
            return
        self._end(job, None)

    def _end(self, job: Job[Any], error: BaseException | None) -> None:
        close = getattr(job.making, "close", None)
        if close:
            close()
        job.making = job.work = None
        job.ended = True
        with self._changed:
            if job in self.live:
                self.live.remove(job)
            if job.session:
                job.session.shared = False
                self.places.give_back(job.session)
                job.session = None
        job.put(error)  # None: nothing more will come
