"""The model and those who ask it: places, the queue's bound, time limits, unloading when nobody asks.

Requests come in; `Reading` and `Chunk` come out. The only owner of the open model. Knows no HTTP and no API.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio

from ..model import Gemma4
from ..records import Chunk, Result, Timings, Tokens
from .failure import RequestError
from .metrics import Metrics
from .request import Item, Piece, Reading, Request
from .settings import Limits

RETRY_AFTER_S = 5
KEEP_FOREVER = float("inf")
MOST_AT_ONCE = 2  # bodies that are taken apart: a large one takes several times its size for a moment
T = TypeVar("T")


@dataclass
class Place:
    """A place in the queue. `keep_s`: how long the model is kept afterwards; None: the server's own time."""

    keep_s: float | None = None


class Service:
    """One model that answers. `open_model`: makes it; called again after it was unloaded.

    `idle_s`: seconds without a request after which the model is unloaded. Everything but `open_model` runs in the
    event loop's thread.
    """

    def __init__(
        self,
        open_model: Callable[[], Gemma4],
        limits: Limits,
        metrics: Metrics,
        *,
        parallel: int,
        idle_s: float = KEEP_FOREVER,
    ) -> None:
        self._open, self._limits, self.metrics = open_model, limits, metrics
        self._places, self._idle_s = parallel + limits.queue, idle_s
        self._model: Gemma4 | None = None
        self._opening = threading.Lock()
        self._scopes: set[anyio.CancelScope] = set()  # of what is being waited for, to be cut off
        self._unloading: asyncio.TimerHandle | None = None
        self._apart = asyncio.Semaphore(MOST_AT_ONCE)
        self.live = 0
        self.parallel = parallel
        self._ended = False

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def loaded(self) -> bool:
        return self._model is not None

    @property
    def ended(self) -> bool:
        """Whether every answer is cut off."""
        return self._ended

    def model(self) -> Gemma4:
        """The model, loaded. Takes as long as that takes: not for the event loop's thread."""
        with self._opening:
            if self._model is None:
                model = self._open()
                model.load()
                self._model = model
            return self._model

    def unload(self) -> None:
        """Free the model's memory, unless somebody waits for an answer. The next request loads it again."""
        if not self.live:
            self.close()

    def close(self) -> None:
        """Free the model."""
        with self._opening:
            model, self._model = self._model, None
        if model:
            model.close()

    def keep(self, seconds: float | None) -> None:
        """Unload after so many seconds without a request; None: after the server's own time."""
        if self._unloading:
            self._unloading.cancel()
            self._unloading = None
        wait = self._idle_s if seconds is None else seconds
        if not self.live and wait != KEEP_FOREVER:
            self._unloading = asyncio.get_running_loop().call_later(wait, self.unload)

    async def apart(self, work: Callable[[bytes], T], body: bytes) -> T:
        """What `work` makes of a body, beside the event loop, a few at a time."""
        async with self._apart:
            return await anyio.to_thread.run_sync(work, body)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """A place in the queue, for as long as the block runs. Raises RequestError where there is none."""
        if self._ended:
            raise RequestError("unavailable", "the server is ending; ask again in a while")
        if self.live >= self._places:
            raise RequestError("busy", f"{self.live} requests are under way or waiting; ask again in {RETRY_AFTER_S} s")
        self.live += 1
        self.keep(KEEP_FOREVER)
        place = Place()
        try:
            yield place
        finally:
            self.live -= 1
            self.keep(place.keep_s)

    async def answer(self, request: Request) -> AsyncGenerator[Item, None]:
        """The answers' pieces, up to the time limit or the server's end: then each ends with what there is of it."""
        deadline = anyio.current_time() + self._limits.seconds
        model = await anyio.to_thread.run_sync(self.model)
        readings: list[Reading] = []
        open_answers: dict[int, list[Chunk]] = {number: [] for number in range(request.n)}
        stream = model.astream_answers(
            request.messages,
            request.n,
            tools=request.tools,
            thinking=request.thinking,
            on_progress=lambda done, total: readings.append(Reading(done, total)),
            **request.options,
        )
        begun = False
        async with aclosing(stream) as pieces:
            while open_answers:
                with self._cuttable(deadline) as scope:
                    new = [await anext(pieces)]
                if scope.cancelled_caught:
                    cut = partial(_cut_short, model, readings=readings)
                    new = [(n, await anyio.to_thread.run_sync(cut, made)) for n, made in open_answers.items()]
                if not begun:
                    yield readings[0] if readings else Reading(0, 0)
                begun = True
                for number, chunk in new:
                    open_answers[number].append(chunk)
                    if chunk.result:
                        del open_answers[number]
                        self.metrics.answered(chunk.result)
                    yield Piece.of(number, chunk)

    @contextmanager
    def _cuttable(self, deadline: float) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope(deadline=deadline) as scope:
            self._scopes.add(scope)
            if self._ended:
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def end(self) -> None:
        """Cut off every answer, and begin none."""
        self._ended = True
        for scope in self._scopes:
            scope.cancel()


def _cut_short(model: Gemma4, chunks: Sequence[Chunk], readings: Sequence[Reading]) -> Chunk:
    """The last chunk of an answer that was cut off: what there is of it, as if it had reached its longest."""
    text, thought = ("".join(getattr(chunk, name) for chunk in chunks) for name in ("text", "thought"))
    prompt, reused = (readings[0].total, readings[0].done) if readings else (0, 0)
    result = Result(
        text=text,
        thought=thought,
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        finish_reason="length",
        tokens=Tokens(prompt, 0, 0, reused=reused, completion=len(model.tokenize(thought + text))),
        timings=Timings(),
        seed=0,
    )
    return Chunk(finish_reason="length", result=result)
