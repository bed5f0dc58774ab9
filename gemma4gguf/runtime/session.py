"""The owner of the KV cache: it knows what every position holds, reuses a shared prefix, and rewinds.

A prompt comes in as spans of token ids or soft tokens. Then the context holds exactly that prompt, with logits for its
last position. This module does not know sampling, text or files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BusyError, ContextError, InputError
from ..native.context import Context

Key = int | tuple[bytes, int]  # what one position holds: a token id, or (content, row) of a medium


@dataclass(frozen=True)
class Span:
    """A run of prompt positions: text (`ids`), or one picture or clip (`ids` all the placeholder's).

    `rows` computes a medium's soft tokens, float32 [n, hidden]; it is called only if the cache does not hold them.
    `content`: a digest of the medium. `causal` False: its rows attend to each other in both directions.
    """

    ids: Sequence[int]
    rows: Callable[[], NDArray[np.float32]] | None = None
    content: bytes = b""
    causal: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    def entries(self) -> list[Key]:
        if self.rows is None:
            return list(self.ids)
        return [(self.content, i) for i in range(len(self.ids))]


class Session:
    """One conversation's cache in one context. After a failure, the cache is empty.

    Each feed() increments `turn`; a stream passes its turn to alone(), which raises if another prompt was fed since.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.turn = 0
        self._held: list[Key] = []
        self._busy = threading.Lock()
        self._closed = False

    @property
    def length(self) -> int:
        """Positions held."""
        return len(self._held)

    @property
    def room(self) -> int:
        """Positions free."""
        return self.context.size - len(self._held)

    def feed(self, spans: Sequence[Span], on_progress: Callable[[int, int], None] | None = None) -> int:
        """Make the cache hold exactly `spans`, with logits for the last position. Returns the positions reused.

        `on_progress` is called with (positions held, in all) before and after each piece. Raises ContextError if
        `spans` are empty or do not fit, and what alone() raises.
        """
        wanted = [key for span in spans for key in span.entries()]
        if not wanted:
            raise ContextError("the prompt is empty")
        if len(wanted) >= self.context.size:
            raise ContextError(f"the prompt has {len(wanted):,} tokens and the context holds {self.context.size:,}")
        with self.alone(), self._emptied_on_failure():
            self.turn += 1
            reused = self._reuse(spans, wanted)
            for span, part in pieces(spans, self.context.options.batch, reused):
                if on_progress:
                    on_progress(self.length, len(wanted))
                done = self.length + part.stop - part.start
                evaluate(self.context, span, part, start=self.length, outputs=int(done == len(wanted)))
                self._held += span.entries()[part]
            if on_progress:
                on_progress(self.length, len(wanted))
        return reused

    @contextmanager
    def alone(self, turn: int | None = None) -> Iterator[None]:
        """Hold the cache during the block.

        Raises BusyError if another thread holds it, InputError if it is closed or a prompt was fed after `turn`.
        """
        free = self._busy.acquire(blocking=False)
        try:
            if self._closed:
                raise InputError("this model is closed; open it again")
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

    def step(self, tokens: Sequence[int]) -> None:
        """Evaluate token ids after the held positions. Each gets logits: row i of the context's last call."""
        if len(tokens) > self.room:
            raise ContextError(f"{len(tokens)} more tokens, and the context has room for {self.room}")
        with self._emptied_on_failure():
            self.context.decode(tokens, start=self.length, outputs=len(tokens))
            self._held += tokens

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        with self._emptied_on_failure():
            if length < self.length and not self.context.remove(length):
                raise ContextError(f"the cache cannot go back from {self.length:,} to {length:,} positions")
            del self._held[length:]

    def clear(self) -> None:
        self.context.clear()
        self._held = []

    def _reuse(self, spans: Sequence[Span], wanted: list[Key]) -> int:
        """Rewind to the longest prefix that the cache shares with `wanted`, and return its length."""
        shared = 0
        for held, key in zip(
            self._held, wanted[:-1], strict=False
        ):  # the last position is always evaluated, for its logits
            if held != key:
                break
            shared += 1
        start = 0
        for span in spans:  # a medium is evaluated whole or not at all
            if span.rows is not None and start < shared < start + len(span):
                shared = start
            start += len(span)
        window = self.context.model.n_swa
        # Sliding layers forget old positions. Without a full window before it, the next one cannot be computed.
        forgotten = self.context.first_position() > max(0, shared - window + 1)
        if shared == 0 or forgotten:
            self.clear()
            return 0
        self.rewind(shared)
        return shared

    @contextmanager
    def _emptied_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.clear()
            raise


def pieces(spans: Sequence[Span], size: int, skip: int = 0) -> Iterator[tuple[Span, slice]]:
    """Cut `spans` into parts for one call each, in order, without the first `skip` positions.

    A part has at most `size` rows, but a span that is not causal stays whole.
    """
    for span in spans:
        step = size if span.causal else len(span)
        for start in range(min(skip, len(span)), len(span), step):
            yield span, slice(start, min(start + step, len(span)))
        skip = max(0, skip - len(span))


def evaluate(context: Context, span: Span, part: slice, *, start: int, outputs: int) -> None:
    """Evaluate one piece of a span at position `start`; its last `outputs` rows get logits."""
    rows = None if span.rows is None else span.rows()[part]
    tokens = span.ids[part] if rows is None else None
    context.decode(tokens, rows, start=start, outputs=outputs, causal=span.causal)
