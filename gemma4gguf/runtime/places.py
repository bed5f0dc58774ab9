"""The owner of the places for answers: sessions, what each of them holds, and what is kept of those that made room.

A prompt comes in; a session goes out that holds as much of it as any of them, or any parked cache, does. All calls come
from one thread at a time. This module does not know jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..native.context import Context
from .checkpoints import Checkpoint, best, reach
from .disk import Disk, Stored
from .keeping import Keeper, Kept
from .session import Key, Session, Span, shared_prefix

WORTH_KEEPING = 64  # positions that must be saved before a cache is kept, or brought back
CELLS_FOR_A_POSITION = 1024  # a copy moves every cell, used or not (16 KiB each, for the 12B); see docs/decisions.md


@dataclass(frozen=True)
class Wanted:
    """A prompt, and what each of its positions is to hold."""

    spans: Sequence[Span]
    keys: Sequence[Key]

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Wanted:
        return cls(spans, [key for span in spans for key in span.entries()])

    def shared(self, other: Wanted) -> int:
        """How many positions need not be evaluated where another prompt was read."""
        return shared_prefix(other.keys, self.spans, self.keys)

    def held_by(self, session: Session) -> int:
        """How many positions need not be evaluated in a session."""
        return session.usable(self.spans, self.keys)


@dataclass(frozen=True)
class Parked:
    """A whole sequence's cache that had to make room, and what it held."""

    held: tuple[Key, ...]
    checkpoints: tuple[Checkpoint, ...]
    kept: Kept

    def usable(self, wanted: Wanted, window: int) -> int:
        """How many positions of a prompt need not be evaluated after restoring it."""
        shared = shared_prefix(self.held, wanted.spans, wanted.keys)
        return max(reach(len(self.held), shared, window), best(self.checkpoints, shared, window)[0])


class Places:
    """Sessions of one context."""

    def __init__(self, context: Context, sessions: Sequence[Session], keeper: Keeper, disk: Disk | None = None) -> None:
        """`disk`: what outlives the process. A prompt's first turn, most often the system's, is kept there once it has
        been read.
        """
        self._context, self._sessions, self._keeper, self.disk = context, sessions, keeper, disk
        self.free = list(sessions)  # the least recently used first
        self._parked: list[Parked] = []
        self.worth_a_copy = max(16, context.size // CELLS_FOR_A_POSITION)  # positions that a copy must save

    def take(self, wanted: Wanted) -> Session:
        """The free session that suits a prompt best. There must be one."""
        session = max(self.free, key=lambda s: (wanted.held_by(s), -s.length))
        self.free.remove(session)
        return session

    def give_back(self, session: Session) -> None:
        """A session is free again. It keeps what it holds."""
        self.free.append(session)

    def fill(self, session: Session, wanted: Wanted) -> None:
        """Bring what others hold of a prompt into a session, if that saves much; park what must go for it."""
        here = wanted.held_by(session)
        source = max(self._sessions, key=wanted.held_by)
        there = wanted.held_by(source)
        window = self._context.model.n_swa
        self._parked = [parked for parked in self._parked if parked.kept.data is not None]
        parked = max(self._parked, key=lambda p: p.usable(wanted, window), default=None)
        stored = parked.usable(wanted, window) if parked else 0
        copied = there >= stored and there - here > self.worth_a_copy
        state = self._unpark(parked, stored) if parked and not copied and stored - here > WORTH_KEEPING else None
        if session.turn_end - here > WORTH_KEEPING:  # another conversation's
            session.use(wanted.spans, wanted.keys)
            self._park(session)
        if copied:
            self._context.copy(source.sequence, session.sequence)
            session.adopt(source.held, source.checkpoints)
        elif parked and state is not None:
            session.clear()
            if self._context.restore(session.sequence, state, window=False):
                session.adopt(parked.held, parked.checkpoints)
        if self.disk:
            self._fetch(self.disk, session, wanted)

    def forget(self) -> None:
        """Forget what free sessions hold and what is parked: for benchmarks that want a cold cache."""
        self._parked.clear()
        for session in self.free:
            session.clear()

    # ── what outlives the process ────────────────────────────────────────────────────────────────────────────────

    def _fetch(self, disk: Disk, session: Session, wanted: Wanted) -> None:
        """Bring a prompt's beginning from disk, if that saves much; else keep its first turn there once it is read."""

        def usable(stored: Stored) -> int:
            shared = shared_prefix(stored.held, wanted.spans, wanted.keys)
            return reach(len(stored.held), shared, self._context.model.n_swa)

        stored = max(disk.stored, key=usable, default=None)
        if stored and usable(stored) - wanted.held_by(session) > WORTH_KEEPING:
            state = disk.read(stored)
            if state is not None:
                session.clear()
                if self._context.restore(session.sequence, state, window=False):
                    session.adopt(stored.held, ())
        first = next(iter(session.turn_ends(wanted.keys)), 0)
        worth_it = first > max(WORTH_KEEPING, wanted.held_by(session))
        session.passing = (first, partial(self._store, disk, session)) if worth_it else None

    def _store(self, disk: Disk, session: Session) -> None:
        disk.write(session.held, self._context.state(session.sequence, window=False))

    def close(self) -> None:
        """Keep on disk what is held, if there is a disk. No job may be at work."""
        if not self.disk:
            return
        for parked in self._parked:
            if parked.kept.data is not None:
                self.disk.write(parked.held, parked.kept.data)
        for session in self._sessions:
            session.shorten_to_turn_end()
            if session.length > WORTH_KEEPING:
                self._store(self.disk, session)
        self.disk.close()

    def _park(self, session: Session) -> None:
        """Keep what a session holds, if anything may be kept at all."""
        if not self._keeper.budget:
            return
        session.shorten_to_turn_end()
        state = self._context.state(session.sequence, window=False)
        if self._keeper.fits(len(state)):
            kept = self._keeper.keep(state)
            self._parked.append(Parked(tuple(session.held), tuple(session.checkpoints), kept))

    def _unpark(self, parked: Parked, length: int) -> bytes | bytearray | None:
        """A parked cache, for its first `length` positions. If it is not needed any more, others get its room."""
        state = self._keeper.use(parked.kept)
        if len(parked.held) - length <= WORTH_KEEPING:
            self._parked.remove(parked)
            self._keeper.drop(parked.kept)
        return state
