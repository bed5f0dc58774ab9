"""The owner of what runs next: several answers in one context, each in a sequence of its own, evaluated together.

Jobs come in: prompts, and generators of work and of items for whoever asked. The items come out as they are made. One
thread does all the work: the steps of all live answers in one call, then one piece of a prompt that is being read, and
so on. This module does not know tokens or text.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import BusyError, Gemma4Error, InputError
from ..native.context import Context
from .keeping import Keeper, Kept
from .session import Checkpoint, Key, Piece, Session, Span, Step, Work, evaluate, shared_prefix

Item = TypeVar("Item")
MOST_WAITING = 64  # jobs in the queue
WORTH_KEEPING = 64  # positions that another place must save before a cache is moved there


@dataclass(frozen=True)
class Parked:
    """A whole sequence's cache that had to make room, and what it held."""

    held: tuple[Key, ...]
    checkpoints: tuple[Checkpoint, ...]
    kept: Kept

    def usable(self, spans: Sequence[Span], wanted: Sequence[Key]) -> int:
        """How many positions of a prompt need not be evaluated after restoring it."""
        shared = shared_prefix(self.held, spans, wanted)
        if shared == len(self.held):
            return shared
        return max((c.length for c in self.checkpoints if c.length <= shared and c.kept.data is not None), default=0)


@dataclass(eq=False)
class Job(Generic[Item]):
    """One answer: its prompt, what makes it, and the way back to whoever asked."""

    spans: Sequence[Span]
    begin: Callable[[Session], Iterator[Work | Item]]
    out: queue.SimpleQueue[Item | BaseException | None] = field(default_factory=queue.SimpleQueue)
    admitted: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    session: Session | None = None
    making: Iterator[Work | Item] | None = None
    work: Work | None = None


class Scheduler:
    """Makes answers in `sessions`, which belong to one context. Any thread may ask; close it before the context."""

    def __init__(self, context: Context, sessions: Sequence[Session], keeper: Keeper) -> None:
        self._context, self._keeper = context, keeper
        self.free = list(sessions)  # the least recently used first
        self._waiting: list[Job[Any]] = []
        self.live: list[Job[Any]] = []
        self._parked: list[Parked] = []
        self._changed = threading.Condition()
        self._running: Work | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process = os.getpid()

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def run(
        self, spans: Sequence[Span], begin: Callable[[Session], Iterator[Work | Item]], wait: bool | float = True
    ) -> Generator[Item, None, None]:
        """Yield the items that `begin(session)` makes, once a session is free for the prompt `spans`.

        `wait` False, or seconds: raises BusyError if none is free at once, or by then. Leaving the generator early
        ends the job within a step. Raises what the job raises.
        """
        job: Job[Item] = Job(spans, begin)
        self._submit(job, at_once=wait is False)
        try:
            if wait is not True and wait is not False and not job.admitted.wait(wait):
                raise BusyError(f"the model is at work for others, and waiting {wait} s was not enough")
            while (item := job.out.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._cancel(job)

    def _submit(self, job: Job[Any], *, at_once: bool) -> None:
        if os.getpid() != self._process:
            raise InputError("this model was opened before the process forked; open it again in the child")
        with self._changed:
            if self._closed:
                raise InputError("this model is closed; open it again")
            if at_once and (self._waiting or not self.free):
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
                job.out.put(error)
            self._closed = True
            raise

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self.live or self._waiting):
                    self._changed.wait()
                closed = self._closed
                admitted = [] if closed else self._admit()
            if closed:
                break
            for job in admitted:
                try:
                    self._place(job)
                except Gemma4Error as error:
                    self._end(job, error)
                else:
                    self._advance(job)
            for job in [job for job in self.live if job.cancelled]:
                self._end(job, None)
            self._turn()
        for job in [*self.live, *self._waiting]:
            self._end(job, InputError("this model is closed; open it again"))

    def _turn(self) -> None:
        """One call for the next step of every answer, and one for a piece of a prompt."""
        for session in (job.session for job in self.live):
            assert session
            session.shared = len(self.live) > 1
        stepping = [job for job in self.live if isinstance(job.work, Step)]
        if stepping:
            self._evaluate(stepping)
        reading = next((job for job in self.live if isinstance(job.work, Piece)), None)
        if reading and not reading.cancelled:
            self.live.remove(reading)  # those that read take turns
            self.live.append(reading)
            self._evaluate([reading])

    def _evaluate(self, jobs: Sequence[Job[Any]]) -> None:
        works = [job.work for job in jobs if job.work]
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
                if isinstance(item, (Piece, Step)):
                    job.work = item
                    return
                job.out.put(item)
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
        job.out.put(error)  # None: nothing more will come
        with self._changed:
            if job in self.live:
                self.live.remove(job)
            if job.session:
                job.session.shared = False
                self.free.append(job.session)
                job.session = None

    # ── places ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _admit(self) -> list[Job[Any]]:
        """Give the first in the queue the free sessions that suit them best."""
        admitted = []
        while self._waiting and self.free:
            job = self._waiting.pop(0)
            wanted = [key for span in job.spans for key in span.entries()]
            job.session = max(self.free, key=lambda s: (s.usable(job.spans, wanted), -s.length))
            self.free.remove(job.session)
            self.live.append(job)
            job.admitted.set()
            admitted.append(job)
        return admitted

    def _place(self, job: Job[Any]) -> None:
        """Bring what others hold of a job's prompt into its session, if that saves much; park what must go for it."""
        session, spans = job.session, job.spans
        assert session
        wanted = [key for span in spans for key in span.entries()]
        here = session.usable(spans, wanted)
        others = [other.session for other in self.live if other.session and other.session is not session]
        others += self.free
        source = max(others, key=lambda s: s.usable(spans, wanted), default=session)
        there = source.usable(spans, wanted)
        self._parked = [parked for parked in self._parked if parked.kept.data is not None]
        parked = max(self._parked, key=lambda p: p.usable(spans, wanted), default=None)
        stored = parked.usable(spans, wanted) if parked else 0
        if session.turn_end - here > WORTH_KEEPING:  # another conversation's
            self._park(session)
        if max(there, stored) - here <= WORTH_KEEPING:
            pass
        elif there >= stored:
            self._context.copy(source.sequence, session.sequence)
            session.adopt(source.held, source.checkpoints)
        elif parked:
            self._unpark(parked, session)
        job.making = job.begin(session)

    def _park(self, session: Session) -> None:
        """Keep what a session holds, if anything may be kept at all."""
        if not self._keeper.budget:
            return
        session.shorten_to_turn_end()
        state = self._context.state(session.sequence, window=False)
        if self._keeper.fits(len(state)):
            kept = self._keeper.keep(state)
            self._parked.append(Parked(tuple(session.held), tuple(session.checkpoints), kept))

    def _unpark(self, parked: Parked, session: Session) -> None:
        state = self._keeper.use(parked.kept)
        session.clear()
        if state is not None and self._context.restore(session.sequence, state, window=False):
            session.adopt(parked.held, parked.checkpoints)
            self._parked.remove(parked)
            self._keeper.drop(parked.kept)
