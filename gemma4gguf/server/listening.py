"""Speech over a WebSocket: sound comes in as it is spoken, each turn's answer goes out, until the client goes away.

In: a first message that is a body of OpenAI's chat and says what the sound is; then samples, and `{"type": "end"}`
where a turn ends. Out: what is heard, and answers as the events of OpenAI's streams. The conversation lives as long as
the socket: whoever comes again sends it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from ..errors import Gemma4Error, InputError
from ..listening import Ear
from ..media.audio import SAMPLE_RATE, ModelRate, mono_blocks
from ..media.speech import detector, spoken
from ..model import Gemma4
from ..records import Chunk
from ..tools.listening import talk
from . import openai
from .answering import Answering, log
from .card import Card
from .failure import RequestError
from .middleware import refused
from .request import Asked, Dialect, Event, Json, Piece, dumped, parsed
from .service import Service
from .settings import Limits

PROTOCOL = "gemma4gguf"  # what a browser offers beside the key
MOST_BYTES = 1 << 20  # of samples in a message
SLOW_S = 30.0  # a client that takes no event for so long has gone
LOOK_S = 5.0  # how often a waiting listener looks at the time
TYPES: Mapping[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "s16": np.dtype("<i2")}
END = {"type": "end"}
REFUSED, FAILED, BROKEN = 1008, 1011, 500  # how a WebSocket is closed, and the status from which on it is our fault

T = TypeVar("T")
Samples: TypeAlias = "NDArray[np.float32]"
Cut: TypeAlias = "Callable[[Iterable[Samples]], Iterator[Samples | None]]"
"""Sound as turns, each with None behind it."""


class Listen(openai.ChatCompletion):
    """The first message of /v1/listen. `messages`: what was said before; `text`: told before the sound of each turn.

    `turns`: what ends them; None: silence, where that can be told.
    """

    messages: list[Json] = Field(default_factory=list)
    n: Literal[1] | None = None
    rate: Annotated[float, Field(ge=8_000, le=192_000)] = SAMPLE_RATE
    format: Literal["f32", "s16"] = "f32"
    turns: Literal["silence", "message"] | None = None
    text: str = ""


DIALECT: Dialect[Any] = replace(openai.CHAT, body=Listen)


class _GoneError(Exception):
    """The client has gone away."""


class _StoppedError(Exception):
    """The answer was spoken into."""


@dataclass(frozen=True)
class Listening:
    """Listens to whoever opens a WebSocket, as an ASGI application."""

    service: Service
    card: Card
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            async with self.service.place():
                await socket.accept(PROTOCOL if PROTOCOL in scope["subprotocols"] else None)
                with suppress(_GoneError):
                    await _Listener(self, socket).run()
        except RequestError as failure:
            await refused(scope, receive, send, failure)


class _Listener:
    """One client, from its first message on. Its turns are heard in a thread, which fetches one message after another:
    what comes faster than it is heard waits at the client.
    """

    def __init__(self, site: Listening, socket: WebSocket) -> None:
        self._site, self._socket, self._loop = site, socket, asyncio.get_running_loop()
        self._until = self._loop.time() + site.limits.body_seconds  # the latest that something must have happened
        self._items = asyncio.Queue[Piece | None]()  # of the answer under way; None: it was spoken into
        self._telling: asyncio.Task[None] | None = None
        self._ear: Ear | None = None
        self._heard_s = self._began_s = 0.0  # seconds of all sound; where this turn began

    async def run(self) -> None:
        """Listen until the client goes away, or something fails."""
        threads = anyio.CapacityLimiter(1)  # its own: it is held as long as the client is there
        try:
            asked = await self._asked()
            model = await anyio.to_thread.run_sync(self._site.service.model)
            with anyio.CancelScope(shield=True):  # the thread ends by itself where no message comes
                await anyio.to_thread.run_sync(self._talk, model, asked, limiter=threads)
        except Exception as error:
            await self._fail(error)
        finally:
            if self._telling:
                self._telling.cancel()

    async def _asked(self) -> Asked[Listen]:
        first = await self._message()
        answering = Answering(DIALECT, self._site.service, self._site.card, self._site.limits)
        return await self._site.service.apart(answering.asked, first if isinstance(first, bytes) else first.encode())

    # ── in the event loop ────────────────────────────────────────────────────────────────────────────────────────

    async def _message(self) -> bytes | str:
        """What comes next. Raises _GoneError, and RequestError where nothing has happened for too long."""
        while (left := self._until - self._loop.time()) > 0:
            with anyio.move_on_after(min(left, LOOK_S)):
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise _GoneError
                found: bytes | str | None = message.get("text")
                return message.get("bytes") or b"" if found is None else found
        raise RequestError("slow", "nothing was said or answered for too long; open it again")

    async def _say(self, event: Json) -> None:
        """Tell the client. Raises _GoneError where it does not take it."""
        try:
            await asyncio.wait_for(self._socket.send_text(dumped(event).decode()), SLOW_S)
        except Exception as error:
            raise _GoneError from error

    async def _begin_answer(self, asked: Asked[Listen]) -> None:
        await self._say({"type": "turn", "start": round(self._began_s, 3), "end": round(self._heard_s, 3)})
        self._until = self._loop.time() + self._site.limits.seconds
        self._items = asyncio.Queue()
        asked = replace(asked, id=secrets.token_hex(12), at=int(time.time()))
        self._telling = asyncio.create_task(self._tell(DIALECT.events(asked, self._pieces(self._items))))

    async def _tell(self, events: AsyncIterator[Event]) -> None:
        """One answer, from its beginning to its end."""
        with suppress(_GoneError):
            try:
                async for event in events:
                    await self._say({"type": "done"} if isinstance(event, str) else event)
            except _StoppedError:
                await self._say({"type": "stopped"})

    async def _pieces(self, items: asyncio.Queue[Piece | None]) -> AsyncIterator[Piece]:
        """An answer's pieces. Raises _StoppedError."""
        result = None
        while not result:
            piece = await items.get()
            result = piece and piece.result
            if result:
                self._site.service.metrics.answered(result)
            if result or not piece:
                self._until = self._loop.time() + self._site.limits.silence
            if not piece:
                raise _StoppedError
            yield piece

    async def _fail(self, error: Exception) -> None:
        """Tell what has ended it, and close."""
        if isinstance(error, _GoneError) or self._socket.application_state != WebSocketState.CONNECTED:
            return
        if isinstance(error, Gemma4Error):
            error = RequestError.of(error)
        elif not isinstance(error, RequestError):
            log.error("listening failed", exc_info=error)
            error = RequestError("broken", "the server has failed at listening; its log says how")
        with suppress(_GoneError, RuntimeError):  # it has gone, or was told already
            await self._say(DIALECT.failed_late(error))
            await self._socket.close(REFUSED if error.status < BROKEN else FAILED)

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _talk(self, model: Gemma4, asked: Asked[Listen]) -> None:
        """Hear and answer turn after turn. Ends by what `_message` raises, or a fault."""
        body, request = asked.body, asked.request
        chat = model.conversation(messages=body.messages, tools=request.tools or (), thinking=request.thinking)
        options: Any = {**request.options}
        options.pop("continue_final_message", None)
        by, cut = _cutting(body.turns)
        self._until = self._loop.time() + self._site.limits.silence
        self._in_loop(self._say({"type": "listening", "turns": by}))
        talk(
            chat,
            self._turns(asked, cut),
            self._heard,
            self._said,
            options=options,
            failed=self._failed,
            text=body.text,
        )

    def _turns(self, asked: Asked[Listen], cut: Cut) -> Iterator[Samples | None]:
        to_ours = ModelRate(asked.body.rate, "the sound")
        while True:
            for sound in cut(self._blocks(asked.body, to_ours)):
                if sound is None:
                    self._in_loop(self._begin_answer(asked))
                yield sound

    def _blocks(self, body: Listen, to_ours: ModelRate) -> Iterator[Samples]:
        """Sound at our rate, until the client says that its turn is over."""
        kind = TYPES[body.format]
        while isinstance(message := self._in_loop(self._message()), bytes):
            if len(message) > MOST_BYTES or len(message) % kind.itemsize:
                raise RequestError(
                    "invalid", f"{len(message):,} bytes of sound: expected whole samples, at most {MOST_BYTES:,} bytes"
                )
            self._heard_s += len(message) / kind.itemsize / body.rate
            for block in mono_blocks(np.frombuffer(message, kind)[:, None]):
                yield to_ours.feed(block)
        if parsed(message.encode()) != END:
            raise RequestError("invalid", f"expected samples, or {dumped(END).decode()} where a turn is over")

    def _heard(self, ear: Ear) -> None:
        if ear is not self._ear:
            self._ear, self._began_s = ear, max(0.0, self._heard_s - ear.seconds)
            self._in_loop(self._say({"type": "speech", "start": round(self._began_s, 3)}))
        if ear.seconds > self._site.limits.sound:
            raise RequestError("large", f"a turn is longer than {self._site.limits.sound:g} s")
        self._until = self._loop.time() + self._site.limits.silence

    def _said(self, chunk: Chunk | None) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, Piece.of(0, chunk) if chunk else None)

    def _failed(self, error: Exception) -> None:
        asyncio.run_coroutine_threadsafe(self._fail(error), self._loop)


def _cutting(turns: Literal["silence", "message"] | None) -> tuple[str, Cut]:
    """What ends turns, and what cuts sound so. Raises InputError where silence cannot be told."""
    try:
        if turns != "message":
            return "silence", partial(spoken, likely=detector())
    except InputError:
        if turns:
            raise
    return "message", _whole


def _whole(blocks: Iterable[Samples]) -> Iterator[Samples | None]:
    """All sound as one turn, if there is any."""
    heard = False
    for block in blocks:
        heard = True
        yield block
    if heard:
        yield None
