"""Speech over HTTP: a form becomes segments as the model writes them down, until the client goes away.

In: a form, the service. Out: an ASGI application. Each window of the sound is a question to the service as any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

import anyio
from starlette.requests import Request as Http
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import Unpack

from ..errors import InputError
from ..records import Message, Result
from ..runtime.asking import ChatOptions
from ..transcription import Segment, Task, transcribe
from . import form, openai
from .answering import nothing, results, streamed, translated, unless_gone
from .bodies import read
from .failure import RequestError
from .limits import seconds
from .request import Request, checked
from .service import Service
from .settings import Limits
from .transcriptions import BODIES, Heard, Translation, events


@dataclass(frozen=True)
class Transcribing:
    """Writes down what is said, as an ASGI application. `body`: the form that is read."""

    body: type[Translation]
    task: Task
    service: Service
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.service.place():
            http = Http(scope, receive)
            heard = partial(self.heard, http.headers.get("content-type", ""))
            asked = await self.service.apart(heard, await read(http, self.limits))
            await unless_gone(receive, self.answer(asked, scope, send))

    def heard(self, content_type: str, body: bytes) -> Heard:
        """A form whose clip was looked at. Raises RequestError."""
        asked = checked(self.body, form.fields(content_type, body))
        try:
            return Heard(asked, self.task, seconds(asked.file, self.limits.sound))
        except InputError as error:
            raise RequestError("invalid", f"file: {error}", "file") from error

    async def answer(self, heard: Heard, scope: Scope, send: Send) -> None:
        async with aclosing(self.segments(heard)) as found:
            segments = translated(found, Request([]))
            if heard.body.stream:
                await streamed(openai.CHAT, events(heard, await _begun(segments)), send)
            else:
                media_type, made = BODIES[heard.body.response_format]
                response = Response(made(heard, [segment async for segment in segments]), media_type=media_type)
                await response(scope, nothing, send)

    async def segments(self, heard: Heard) -> AsyncGenerator[Segment, None]:
        """Segments in order. A transcript without its end would look like a whole one: what is cut off is an error."""
        asking, written = _Asking(self.service, heard.body.temperature), asyncio.Queue[Segment | RequestError | None]()
        late = RequestError("unavailable", f"cut off before the sound's end: {self.limits.seconds:g} s were over")
        over = asking.loop.call_later(self.limits.seconds, written.put_nowait, late)
        threads = anyio.CapacityLimiter(1)  # its own: questions need a thread of the common ones while this one waits
        work = asyncio.ensure_future(anyio.to_thread.run_sync(_write, heard, asking, written, limiter=threads))
        work.add_done_callback(lambda _: written.put_nowait(None))
        try:
            while item := await written.get():
                if isinstance(item, RequestError):
                    raise item
                yield item
            work.result()
        finally:
            over.cancel()
            asking.stop()
            with anyio.CancelScope(shield=True), suppress(Exception):
                await work


def _write(heard: Heard, asking: _Asking, written: asyncio.Queue[Segment | RequestError | None]) -> None:
    """Put segments into a queue of the event loop's, from a thread."""
    segments = transcribe(
        asking,
        heard.body.file,
        language=heard.language,
        task=heard.task,
        hint=heard.body.prompt,
        parallel=asking.service.parallel,
    )
    for segment in segments:
        asking.loop.call_soon_threadsafe(written.put_nowait, segment)


class _Asking:
    """The model, as threads that write down ask it: in the event loop, where a question can be ended."""

    def __init__(self, service: Service, temperature: float) -> None:
        self.service, self.loop, self._temperature = service, asyncio.get_running_loop(), temperature
        self._open: set[asyncio.Task[Result]] = set()
        self._stopped = False

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Result:
        """An answer, for a thread. Raises concurrent.futures.CancelledError once it was stopped."""
        warmer = max(self._temperature, options.get("temperature") or 0)
        asked = Request(messages, options={**options, "temperature": warmer})
        return asyncio.run_coroutine_threadsafe(self._answer(asked), self.loop).result()

    async def _answer(self, asked: Request) -> Result:
        if self._stopped:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            (result,) = await results(self.service.answer(asked))
        finally:
            self._open.discard(task)
        if self.service.ended:
            raise RequestError("unavailable", "cut off before the sound's end: the server is ending")
        return result

    def stop(self) -> None:
        """End every question, and begin none."""
        self._stopped = True
        for task in self._open:
            task.cancel()


async def _begun(segments: AsyncIterator[Segment]) -> AsyncIterator[Segment]:
    """The same, once there is a first one, which decides about the status."""
    first = await anext(segments, None)

    async def whole() -> AsyncIterator[Segment]:
        if first:
            yield first
        async for segment in segments:
            yield segment

    return whole()
