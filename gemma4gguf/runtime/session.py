"""The owner of one sequence of the KV cache: it knows what every position holds, reuses a shared prefix, and rewinds.

A prompt comes in as spans of token ids or soft tokens. Then the sequence holds exactly that prompt, with logits for its
last position. This module does not know sampling, text or files. What is to be evaluated goes out as `Work`, so that a
scheduler can put the work of several sequences into one call; `feed` and `step` do it at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import CLOSED, BusyError, ContextError, InputError
from ..native.context import Context
from .checkpoints import Checkpoint, best, spare, stops
from .keeping import Keeper

Key = int | tuple[bytes, int]  # what one position holds: a token id, or (content, row) of a medium
BESIDE_OTHERS = 256  # rows of a prompt that are read at a time while other answers wait for their next token


@dataclass(frozen=True)
class Span:
    """A run of prompt positions: text (`ids`), or one picture or clip (`ids` all the placeholder's).

    `rows` computes a medium's soft tokens, float32 [n, hidden]; it is called only if the cache does not hold them.
    `content`: a digest of the medium. `causal` False: its rows attend to each other in both directions. `source`: what
    it was made of. `each`: a digest for every row, with those before it: such a medium may be known in part.
    """

    ids: Sequence[int]
    rows: Callable[[], NDArray[np.float32]] | None = None
    content: bytes = b""
    causal: bool = True
    source: object = None
    each: Sequence[bytes] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def entries(self) -> list[Key]:
        if self.rows is None:
            return list(self.ids)
        if self.each:
            return [(digest, 0) for digest in self.each]
        return [(self.content, i) for i in range(len(self.ids))]


@dataclass(frozen=True)
class Piece:
    """Rows of a prompt to be evaluated after what a session holds, in a call of their own."""

    session: Session
    span: Span
    part: slice
    outputs: int

    @property
    def keys(self) -> list[Key]:
        return self.span.entries()[self.part]


@dataclass(frozen=True)
class Step:
    """Token ids to be evaluated after what a session holds, each with logits. Steps of sessions share a call."""

    session: Session
    tokens: Sequence[int]


@dataclass(frozen=True)
class Rest:
    """Nothing to evaluate until the job is woken; it keeps its place."""


Work: TypeAlias = Piece | Step


class Session:
    """One sequence's cache in a context. After a failure, it is empty.

    Each prompt increments `turn`; a stream passes its turn to alone(), which raises if another prompt was fed since.
    `base`: the row of the context's last call that holds the first logits of this session's work. `shared`: other
    answers are being made in the same context.
    """

    def __init__(
        self, context: Context, sequence: int = 0, keeper: Keeper | None = None, ends: Container[Key] = ()
    ) -> None:
        """`keeper`: where checkpoints go. `ends`: the keys that end a turn."""
        self.context, self.sequence, self._ends = context, sequence, ends
        self.turn = self.base = 0
        self.shared = False
        self.checkpoints: list[Checkpoint] = []
        self._keeper = keeper or Keeper(0)
        self._held: list[Key] = []
        self.turn_end = 0  # the position that the next prompt will probably go back to
        self.passing: tuple[int, Callable[[], None]] | None = None  # a position, and what to do there while reading
        self._busy = threading.Lock()
        self._closed = False

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self._held)

    @property
    def held(self) -> Sequence[Key]:
        """What each position holds."""
        return self._held

    @property
    def room(self) -> int:
        """Positions free."""
        return self.context.size - len(self._held)

    # ── at once ──────────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, spans: Sequence[Span], on_progress: Callable[[int, int], None] | None = None) -> int:
        """Make the cache hold exactly `spans`, with logits for the last position. Returns the positions reused.

        `on_progress` is called with (positions held, in all) before and after each piece. Raises ContextError if
        `spans` are empty or do not fit, and what alone() raises.
        """
        total = sum(map(len, spans))
        self._check_size(total)
        with self.alone(), self._emptied_on_failure():
            reading = self.feeding(spans)
            try:
                while True:
                    work = next(reading)
                    if on_progress:
                        on_progress(self.length, total)
                    evaluate(self.context, [work])
            except StopIteration as done:
                reused: int = done.value
        if on_progress:
            on_progress(total, total)
        return reused

    def step(self, tokens: Sequence[int]) -> None:
        """Evaluate token ids after the held positions. Each gets logits: row i of the context's last call."""
        self._check_room(tokens)
        with self._emptied_on_failure():
            for work in self.stepping(tokens):
                evaluate(self.context, [work])

    @contextmanager
    def alone(self, turn: int | None = None) -> Iterator[None]:
        """Hold the cache during the block.

        Raises BusyError if another thread holds it, InputError if it is closed or a prompt was fed after `turn`.
        """
        free = self._busy.acquire(blocking=False)
        try:
            if self._closed:
                raise InputError(CLOSED)
            if not free:
                raise BusyError("the model is at work for another thread; ask one question at a time")
            if turn is not None and turn != self.turn:
                raise InputError("another question was asked before this answer ended; finish or close a stream first")
            yield
        finally:
            if free:
                self._busy.release()

    def close(self) -> None:
        """Close the cache: later calls raise InputError, also those of an open stream. Waits for the current holder."""
        self._closed = True
        with self._busy:
            pass

    # ── as work for a scheduler ──────────────────────────────────────────────────────────────────────────────────

    def feeding(self, spans: Sequence[Span], limit: int = 0) -> Generator[Work, None, int]:
        """The work of feed(): yields what is to be evaluated before the next; returns the positions reused.

        `limit`: tokens that the answer may have.
        """
        wanted = [key for span in spans for key in span.entries()]
        self._check_size(len(wanted))
        self.turn += 1
        reused = self._go_back(spans, wanted)
        # The next prompt may end this turn in another way: a little before its end, the two still agree.
        text = len(spans[-1]) if spans[-1].rows is None else 0
        self.turn_end = end = len(wanted) - min(text, TURN_TAIL)
        acts = [self.passing] if self.passing else []
        window = self.context.model.n_swa
        # A context that holds no more than sliding layers do never needs a checkpoint; a prompt within their window
        # needs none yet: the next one's will do for both.
        if self._keeper.budget and self.context.size > self._cells and len(wanted) + limit > window:
            acts += [(at, self._keep_window) for at in stops(self.turn_ends(wanted), reused, end, window)]
        at = 0
        for span in spans:
            start = min(len(span), max(0, self.length - at))
            while start < len(span):
                most = self._beside_others if self.shared else self.context.options.batch
                stop = min(len(span), start + most) if span.causal else len(span)
                for position, act in acts:
                    if at + start < position < at + stop:
                        stop = position - at
                    elif at + start == position:
                        act()
                last = at + stop == len(wanted)
                if last and stop - start == 1 and span.rows is None:
                    yield from self.stepping(span.ids[start:stop])  # beside the steps of others it costs little
                else:
                    piece = Piece(self, span, slice(start, stop), int(last))
                    yield piece
                    self._held += piece.keys
                start = stop
            at += len(span)
        return reused

    def appending(self, span: Span) -> Generator[Piece, None, None]:
        """The work of evaluating a causal span after the held positions, without logits."""
        self._check_room(span.ids)
        most = self._beside_others
        for start in range(0, len(span), most):
            piece = Piece(self, span, slice(start, min(start + most, len(span))), outputs=0)
            yield piece
            self._held += piece.keys

    def stepping(self, tokens: Sequence[int]) -> Generator[Step, None, None]:
        """The work of step()."""
        self._check_room(tokens)
        yield Step(self, tokens)
        self._held += tokens

    @property
    def _beside_others(self) -> int:
        return min(BESIDE_OTHERS, self.context.options.batch)

    def _check_size(self, total: int) -> None:
        if not total:
            raise ContextError("the prompt is empty")
        if total >= self.context.size:
            raise ContextError(f"the prompt has {total:,} tokens and the context holds {self.context.size:,}")

    def _check_room(self, tokens: Sequence[int]) -> None:
        if len(tokens) > self.room:
            raise ContextError(f"{len(tokens)} more tokens, and the context has room for {self.room}")

    # ── going back ───────────────────────────────────────────────────────────────────────────────────────────────

    def usable(self, spans: Sequence[Span], wanted: Sequence[Key]) -> int:
        """How many positions of a prompt need not be evaluated here."""
        return self._usable(shared_prefix(self._held, spans, wanted))[0]

    def use(self, spans: Sequence[Span], wanted: Sequence[Key]) -> None:
        """Say that a prompt comes next: what it goes back to is kept longest."""
        checkpoint = self._usable(shared_prefix(self._held, spans, wanted))[1]
        if checkpoint:
            self._keeper.use(checkpoint.kept)

    def turn_ends(self, wanted: Sequence[Key]) -> list[int]:
        """How many positions of a prompt each of its turns ends after."""
        return [at for at, key in enumerate(wanted, 1) if key in self._ends]

    def _usable(self, shared: int) -> tuple[int, Checkpoint | None]:
        """The same for a shared prefix, and the checkpoint that must be restored for it."""
        window = self.context.model.n_swa
        # Sliding layers forget old positions. Without a full window before it, the next one cannot be computed.
        if shared == 0 or self.context.first_position(self.sequence) <= max(0, shared - window + 1):
            return shared, None
        return best(self.checkpoints, shared, window)

    @property
    def _cells(self) -> int:
        """Positions that sliding layers have room for."""
        return self.context.model.n_swa + self.context.options.micro_batch

    def _go_back(self, spans: Sequence[Span], wanted: Sequence[Key]) -> int:
        """Rewind to the longest usable prefix, and return its length."""
        length, checkpoint = self._usable(shared_prefix(self._held, spans, wanted))
        state = self._keeper.use(checkpoint.kept) if checkpoint else None
        if length == 0:
            self.clear()
            return 0
        if state is not None:
            self.context.remove(length, self.sequence)
            if not self.context.restore(self.sequence, state, window=True):
                self.clear()
                return 0
        self.rewind(length)
        return length

    def _keep_window(self) -> None:
        """Keep a checkpoint of what the sliding layers hold now."""
        self.checkpoints = [c for c in self.checkpoints if c.kept.data is not None]
        if any(c.length == self.length for c in self.checkpoints):
            return
        state = self.context.state(self.sequence, window=True)
        if not self._keeper.fits(len(state)):
            return
        if self.length <= self.context.model.n_swa:  # it is good for every position before it
            self.checkpoints.clear()
        closest = spare(self.checkpoints)
        others = [c.kept for c in self.checkpoints if c is not closest]
        self.checkpoints.append(Checkpoint(self.length, self._keeper.keep(state, last=others)))

    def shorten_to_turn_end(self) -> None:
        """Forget the answer, if the sliding layers can still go back that far. A state holds only their window: where
        that is not all they ever held, it can be continued from exactly its end.
        """
        end = self.turn_end
        if self.length > self.context.model.n_swa and 0 < end < self.length and self._usable(end) == (end, None):
            self.rewind(end)

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        with self._emptied_on_failure():
            if length < self.length and not self.context.remove(length, self.sequence):
                raise ContextError(f"the cache cannot go back from {self.length:,} to {length:,} positions")
            self._forget(length)

    def adopt(self, held: Sequence[Key], checkpoints: Sequence[Checkpoint]) -> None:
        """Take over what was put into this session's sequence from elsewhere."""
        self._held, self.checkpoints, self.turn_end = list(held), list(checkpoints), 0

    def clear(self) -> None:
        """Forget everything."""
        self.context.remove(-1, self.sequence)
        self._forget(0)

    def _forget(self, length: int) -> None:
        del self._held[length:]
        self.checkpoints = [c for c in self.checkpoints if c.length <= length and length]

    @contextmanager
    def _emptied_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.clear()
            raise


TURN_TAIL = 16  # tokens of a prompt's end that its successor may not repeat: the opening of the model's turn


def shared_prefix(held: Sequence[Key], spans: Sequence[Span], wanted: Sequence[Key]) -> int:
    """Positions that a cache and a prompt have in common: never all. A medium is taken whole, or not at all where its
    rows have no digests of their own.
    """
    shared = 0
    for have, key in zip(held, wanted[:-1], strict=False):  # the last position is always evaluated, for its logits
        if have != key:
            break
        shared += 1
    start = 0
    for span in spans:
        if span.rows is not None and not span.each and start < shared < start + len(span):
            return start
        start += len(span)
    return shared


def evaluate(context: Context, works: Sequence[Work]) -> None:
    """Evaluate one piece, or the steps of several sessions in one call."""
    first = works[0]
    if isinstance(first, Piece):
        at = first.session.length, first.session.sequence
        evaluate_rows(context, first.span, first.part, start=at[0], outputs=first.outputs, sequence=at[1])
        first.session.base = first.part.stop - first.part.start - 1
        return
    # In the order of their sequences: in any other, llama.cpp evaluates them one after another.
    steps = sorted((work for work in works if isinstance(work, Step)), key=lambda step: step.session.sequence)
    base = 0
    for step in steps:
        step.session.base = base
        base += len(step.tokens)
    context.decode_several([(step.tokens, step.session.length, step.session.sequence) for step in steps])


def evaluate_rows(context: Context, span: Span, part: slice, *, start: int, outputs: int, sequence: int = 0) -> None:
    """Evaluate some rows of a span at position `start`; the last `outputs` of them get logits."""
    rows = None if span.rows is None else span.rows()[part]
    tokens = span.ids[part] if rows is None else None
    context.decode(tokens, rows, start=start, outputs=outputs, causal=span.causal, sequence=sequence)
