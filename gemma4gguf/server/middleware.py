"""What happens around every request: who may ask, one line in the log, counters."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ..records import Result
from .bodies import refusal
from .failure import RequestError
from .security import Guard
from .service import Service

log = logging.getLogger("gemma4gguf.server")
RESULT = "gemma4gguf.result"  # where an answer's result is left in the scope, for the log


# What begins an answer to a request, or to a WebSocket, which has no status where it is accepted.
ANSWERED = ("http.response.start", "websocket.http.response.start", "websocket.accept")
SWITCHED = 101


async def refused(scope: Scope, receive: Receive, send: Send, failure: RequestError) -> None:
    """Tell a client, before anything else was sent, why it gets no answer."""
    response = refusal(scope["path"], failure)
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await response(scope, receive, send)


class Guarded:
    """Middleware: only who may ask gets on."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._guard.check(scope["path"], Headers(scope=scope))
        except RequestError as failure:
            return await refused(scope, receive, send, failure)
        await self._app(scope, receive, send)


class Watched:
    """Middleware: counts requests, and writes one line about each, without a word of what was said.

    `paths`: those that are told by name. What a stranger may put into a path is neither a label nor in the log.
    """

    def __init__(self, app: ASGIApp, service: Service, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, service.metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.perf_counter(), 499  # where the client left before there was an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] in ANSWERED:
                status = message.get("status", SWITCHED)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requested(path, status)
            result: Result | None = scope.get(RESULT)
            counts = f" {result.tokens.prompt}+{result.tokens.completion} tokens" if result else ""
            seconds = time.perf_counter() - began
            log.info("%s %s %d %.3f s%s", scope.get("method", "WEBSOCKET"), path, status, seconds, counts)
