"""One answer over HTTP: a body becomes a request, its items a response or a stream, until the client goes away.

In: a dialect and the service. Out: an ASGI application. The items come from `Service.answer`; nothing here
knows an API.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request as Http
from starlette.types import Message, Receive, Scope, Send

from ..errors import Gemma4Error
from ..records import Result
from .bodies import json_response, read
from .card import Card
from .failure import RequestError
from .limits import bounded
from .middleware import RESULT
from .request import Asked, Dialect, Event, Item, Piece, Request, checked, parsed
from .service import Service
from .settings import Limits

log = logging.getLogger("gemma4gguf.server")
T = TypeVar("T")


@contextmanager
def told_as(asked: Request) -> Iterator[None]:
    """In this block, errors of the library become those of the body that was sent."""
    try:
        yield
    except Gemma4Error as error:
        raise RequestError.of(error, asked.fields) from error


@dataclass(frozen=True)
class Answering:
    """Answers requests of one API, as an ASGI application."""

    dialect: Dialect[Any]
    service: Service
    card: Card
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.service.place() as place:  # first: what waits for a place must not fill the memory
            asked = await self.service.apart(self.asked, await read(Http(scope, receive), self.limits))
            place.keep_s = asked.request.keep_s
            await unless_gone(receive, self.answer(asked, scope, send))

    def asked(self, body: bytes) -> Asked[Any]:
        """A body as a request whose media were looked at. Raises RequestError."""
        checked_body = checked(self.dialect.body, parsed(body))
        request = self.dialect.request(checked_body)
        tokens = min(request.options.get("max_tokens", self.limits.tokens), self.limits.tokens)
        if request.options.get("grammar") is not None and not self.limits.grammars:
            raise RequestError("invalid", "grammar: raw grammars are not taken here (--allow-grammar)", "grammar")
        with told_as(request):
            messages = bounded(request.messages, self.limits) if request.messages else []
        request = replace(request, messages=messages, options={**request.options, "max_tokens": tokens})
        return Asked(checked_body, request, self.card, secrets.token_hex(12), int(time.time()))

    async def answer(self, asked: Asked[Any], scope: Scope, send: Send) -> None:
        if self.dialect.loaded and not asked.request.messages:
            if asked.request.keep_s != 0:
                await anyio.to_thread.run_sync(self.service.model)
            return await json_response(self.dialect.loaded(asked))(scope, nothing, send)
        items = translated(self.service.answer(asked.request), asked.request)
        async with aclosing(noted(items, scope)) as answer:
            if asked.request.stream:
                await self.stream(asked, answer, send)
            else:
                response = json_response(self.dialect.response(asked, *await results(answer)))
                await response(scope, nothing, send)

    async def stream(self, asked: Asked[Any], items: AsyncIterator[Item], send: Send) -> None:
        """The first item decides about the status; what goes wrong later is the stream's last event."""
        first = await anext(items)
        await streamed(self.dialect, self.dialect.events(asked, _chained(first, items)), send)


async def streamed(dialect: Dialect[Any], events: AsyncIterator[Event], send: Send) -> None:
    """Events as a stream with status 200."""
    headers = {"content-type": dialect.media_type, "cache-control": "no-cache"}
    await send({"type": "http.response.start", "status": 200, "headers": Headers(headers).raw})
    try:
        async for event in events:
            await send(_part(dialect.encode(event)))
    except RequestError as failure:
        await send(_part(dialect.encode(dialect.failed_late(failure))))
    await send({"type": "http.response.body", "body": b""})


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _chained(first: Item, rest: AsyncIterator[Item]) -> AsyncIterator[Item]:
    yield first
    async for item in rest:
        yield item


async def nothing() -> Message:
    """What a response that reads nothing receives."""
    raise AssertionError("a response that reads")


async def translated(items: AsyncIterator[T], request: Request) -> AsyncIterator[T]:
    """The items. Errors of the library are RequestErrors from here on, and so are faults, with no word about them."""
    try:
        with told_as(request):
            async for item in items:
                yield item
    except RequestError:
        raise
    except Exception as error:
        log.exception("an answer failed")
        raise RequestError("broken", "the server has failed at this request; its log says how") from error


async def noted(items: AsyncIterator[Item], scope: Scope) -> AsyncGenerator[Item, None]:
    """The items; the result's counts are left for the log."""
    async for item in items:
        if isinstance(item, Piece) and item.result:
            scope[RESULT] = item.result
        yield item


async def results(items: AsyncIterator[Item]) -> list[Result]:
    """The whole answers, in order."""
    found = {item.number: item.result async for item in items if isinstance(item, Piece) and item.result}
    return [found[number] for number in sorted(found)]


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and stop at once when the client goes away."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await working


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
