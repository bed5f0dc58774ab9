"""The server as an ASGI application: a table of addresses, and what happens to a request on its way to an answer.

In: a service, limits and a guard. Out: the application, to be served by anything that speaks ASGI.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Http
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import Gemma4Error
from ..records import Chunk, Result
from . import metrics, openai, page
from .card import Card
from .failure import RequestError
from .limits import bounded
from .request import Asked, Dialect, Item, Request, checked, dumped, parsed
from .security import Guard
from .service import RETRY_AFTER_S, Service
from .settings import Limits

log = logging.getLogger("gemma4gguf.server")
DRAINED = 4  # times the longest body: what is read of a longer one, as few clients look for an answer before they end

DIALECTS: Mapping[str, Dialect[Any]] = {"/v1/chat/completions": openai.CHAT, "/chat/completions": openai.CHAT}
# By the beginning of the path: in which API's form errors are told. The first that fits counts.
ERRORS: tuple[tuple[str, Callable[[RequestError], dict[str, Any]]], ...] = (("/", openai.failed),)


def application(service: Service, card: Card, limits: Limits, guard: Guard) -> ASGIApp:
    """The whole server."""

    async def health(http: Http) -> Response:
        return json_response({"status": "ok", "loaded": service.loaded})

    async def models(http: Http) -> Response:
        return json_response(openai.models(card))

    async def model(http: Http) -> Response:
        if http.path_params["name"] != card.name:
            raise RequestError("unknown", f"model: no model {http.path_params['name'][:80]!a} here; it is {card.name}")
        return json_response(openai.model(card))

    async def counters(http: Http) -> Response:
        text = service.metrics.text(live=service.live, loaded=service.loaded)
        return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE)

    routes = [
        *page.routes(),
        Route("/health", health),
        Route("/metrics", counters),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        *(Route(p, Answering(d, service, card, limits), methods=["POST"]) for p, d in DIALECTS.items()),
    ]
    middleware = [Middleware(Watched, service=service), Middleware(Guarded, guard=guard)]
    if guard.origins:
        origins, methods = [*guard.origins], ["GET", "POST"]
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"])
        middleware.insert(1, cors)  # it answers what browsers ask before they send a key
    handlers: Any = {RequestError: refused, HTTPException: not_here, ClientDisconnect: gone}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


# ── one answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answering:
    """Answers requests of one API, as an ASGI application."""

    dialect: Dialect[Any]
    service: Service
    card: Card
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read(Http(scope, receive), self.limits)
        asked = await anyio.to_thread.run_sync(self.asked, body)
        async with self.service.place():
            await unless_gone(receive, self.answer(asked, scope, send))

    def asked(self, body: bytes) -> Asked[Any]:
        """A body as a request whose media were looked at. Raises RequestError."""
        checked_body = checked(self.dialect.body, parsed(body))
        request = self.dialect.request(checked_body)
        tokens = min(request.options.get("max_tokens", self.limits.tokens), self.limits.tokens)
        try:
            messages = bounded(request.messages, self.limits)
        except Gemma4Error as error:
            raise RequestError.of(error, request.fields) from error
        request = replace(request, messages=messages, options={**request.options, "max_tokens": tokens})
        return Asked(checked_body, request, self.card, secrets.token_hex(12), int(time.time()))

    async def answer(self, asked: Asked[Any], scope: Scope, send: Send) -> None:
        items = translated(self.service.answer(asked.request), asked.request)
        async with aclosing(noted(items, scope)) as answer:
            if asked.request.stream:
                await self.stream(asked, answer, send)
            else:
                response = json_response(self.dialect.response(asked, await last(answer)))
                await response(scope, _nothing, send)

    async def stream(self, asked: Asked[Any], items: AsyncIterator[Item], send: Send) -> None:
        """The first item decides about the status; what goes wrong later is the stream's last event."""
        first = await anext(items)
        headers = {"content-type": self.dialect.media_type, "cache-control": "no-cache"}
        await send({"type": "http.response.start", "status": 200, "headers": Headers(headers).raw})
        try:
            async for event in self.dialect.events(asked, _chained(first, items)):
                await send(_part(self.dialect.encode(event)))
        except RequestError as failure:
            await send(_part(self.dialect.encode(self.dialect.failed_late(failure))))
        await send({"type": "http.response.body", "body": b""})


def _part(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _chained(first: Item, rest: AsyncIterator[Item]) -> AsyncIterator[Item]:
    yield first
    async for item in rest:
        yield item


async def _nothing() -> Message:
    raise AssertionError("a response that reads")


async def translated(items: AsyncIterator[Item], request: Request) -> AsyncIterator[Item]:
    """The items. Errors of the library are RequestErrors from here on, and so are faults, with no word about them."""
    try:
        async for item in items:
            yield item
    except Gemma4Error as error:
        raise RequestError.of(error, request.fields) from error
    except RequestError:
        raise
    except Exception as error:
        log.exception("an answer failed")
        raise RequestError("broken", "the server has failed at this request; its log says how") from error


async def noted(items: AsyncIterator[Item], scope: Scope) -> AsyncGenerator[Item, None]:
    """The items; the result's counts are left for the log."""
    async for item in items:
        if isinstance(item, Chunk) and item.result:
            scope["gemma4gguf.result"] = item.result
        yield item


async def last(items: AsyncIterator[Item]) -> Result:
    """The whole answer."""
    result = None
    async for item in items:
        result = item.result if isinstance(item, Chunk) else None
    assert result is not None
    return result


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, and stop at once when the client goes away."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await working


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read(http: Http, limits: Limits) -> bytes:
    """A request's body, within the limits of size and time. Raises RequestError."""
    if http.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("encoding", "Content-Encoding: compressed bodies are not read")
    body, arrived = bytearray(), 0
    try:
        with anyio.fail_after(limits.body_seconds):
            async for piece in http.stream():
                arrived += len(piece)
                if arrived <= limits.body:
                    body += piece
                elif arrived > DRAINED * limits.body:
                    break
    except TimeoutError:
        raise RequestError("slow", f"the body did not arrive within {limits.body_seconds:g} s") from None
    if arrived > limits.body:
        raise RequestError("large", f"the body is longer than {limits.body:,} bytes")
    return bytes(body)


# ── around every answer ──────────────────────────────────────────────────────────────────────────────────────────────


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dumped(body), status, headers=headers, media_type="application/json")


def refusal(path: str, failure: RequestError) -> Response:
    """A failure in the form of the API that the path belongs to."""
    shape = next(shape for beginning, shape in ERRORS if path.startswith(beginning))
    headers = {"retry-after": str(RETRY_AFTER_S)} if failure.kind in ("busy", "ending") else {}
    if failure.kind in ("large", "slow"):
        headers["connection"] = "close"  # the rest of the body is not read
    return json_response(shape(failure), failure.status, headers)


async def refused(http: Http, error: RequestError) -> Response:
    return refusal(http.url.path, error)


async def not_here(http: Http, error: HTTPException) -> Response:
    kind = "method" if error.status_code == 405 else "unknown"
    response = refusal(http.url.path, RequestError(kind, f"{http.method} {http.url.path[:200]}: {error.detail}"))
    response.headers.update(error.headers or {})
    return response


async def gone(http: Http, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it; the log does


class Guarded:
    """Middleware: only who may ask gets on."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._guard.check(scope["path"], Headers(scope=scope))
            except RequestError as failure:
                return await refusal(scope["path"], failure)(scope, receive, send)
        await self._app(scope, receive, send)


class Watched:
    """Middleware: counts requests, and writes one line about each, without a word of what was said."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 499  # where the client left before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            known = scope["path"] if "endpoint" in scope else "other"  # a stranger's paths are no labels
            self._metrics.requested(known, status)
            result: Result | None = scope.get("gemma4gguf.result")
            counts = f" {result.tokens.prompt}+{result.tokens.completion} tokens" if result else ""
            seconds = time.perf_counter() - began
            log.info("%s %s %d %.3f s%s", scope["method"], known, status, seconds, counts)
