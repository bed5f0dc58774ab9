"""The model and those who ask it: places, the queue's bound, time limits, unloading when nobody asks.

Requests come in; `Reading` and `Chunk` come out. The only owner of the open model. Knows no HTTP and no API.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

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
Made: TypeAlias = tuple[int, Chunk]  # the number of an answer, and what is new in it
Coming: TypeAlias = "Made | Exception | None"


@dataclass
class Place:
    """A place in the queue. `keep_s`: how long the model is kept afterwards; None: the server's own time."""

    keep_s: float | None = None


class Service:
    """One model that answers. `open_model`: makes it; called again after it was unloaded.

    `idle_s`: seconds without a request after which the model is unloaded. Everything but opening and closing runs in
    the event loop's thread.
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
        self._open_streams: set[asyncio.Queue[Coming]] = set()  # to be cut off at the end
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
        threading.Thread(target=self.close, kwargs={"idle": True}).start()  # it may be writing to a disk

    def close(self, *, idle: bool = False) -> None:
        """Free the model; with `idle` only where nobody waits for an answer."""
        with self._opening:  # who comes meanwhile loads it again when its memory is free, not before
            if self._model and not (idle and self.live):
                model, self._model = self._model, None
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
        until = asyncio.get_running_loop().time() + self._limits.seconds
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
        async with self._made(stream, until) as made:
            while open_answers:
                item = await made.get()
                if isinstance(item, Exception):
                    try:
                        raise item
                    finally:
                        del item  # else it and this frame refer to each other, and keep the question
                new = [item] if item else await anyio.to_thread.run_sync(_cut_short, model, open_answers, readings)
                if not begun:
                    yield readings[0] if readings else Reading(0, 0)
                begun = True
                for number, chunk in new:
                    open_answers[number].append(chunk)
                    if chunk.result:
                        del open_answers[number]
                        self.metrics.answered(chunk.result)
                    yield Piece.of(number, chunk)

    @asynccontextmanager
    async def _made(self, stream: AsyncGenerator[Made, None], until: float) -> AsyncIterator[asyncio.Queue[Coming]]:
        """What a stream makes while the block runs, and its error; None where the time is over or the server ends."""
        made = asyncio.Queue[Coming]()

        async def make() -> None:
            try:
                async with aclosing(stream):
                    async for item in stream:
                        made.put_nowait(item)
            except Exception as error:
                made.put_nowait(error)

        making = asyncio.create_task(make())
        over = asyncio.get_running_loop().call_at(until, made.put_nowait, None)
        self._open_streams.add(made)
        if self._ended:
            made.put_nowait(None)
        try:
            yield made
        finally:
            self._open_streams.discard(made)
            over.cancel()
            making.cancel()
            await asyncio.wait([making])

    def end(self) -> None:
        """Cut off every answer, and begin none."""
        self._ended = True
        for made in self._open_streams:
            made.put_nowait(None)


def _cut_short(model: Gemma4, answers: Mapping[int, Sequence[Chunk]], readings: Sequence[Reading]) -> list[Made]:
    """The last chunks of answers that were cut off: what there is of each, as if it had reached its longest."""
    prompt, reused = (readings[0].total, readings[0].done) if readings else (0, 0)
    return [(number, _last(model, chunks, Tokens(prompt, 0, 0, reused=reused))) for number, chunks in answers.items()]


def _last(model: Gemma4, chunks: Sequence[Chunk], tokens: Tokens) -> Chunk:
    text, thought = ("".join(getattr(chunk, name) for chunk in chunks) for name in ("text", "thought"))
    result = Result(
        text=text,
        thought=thought,
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        finish_reason="length",
        tokens=replace(tokens, completion=len(model.tokenize(thought + text))),
        timings=Timings(),
        seed=0,
    )
    return Chunk(finish_reason="length", result=result)
