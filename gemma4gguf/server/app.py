"""The server as an ASGI application: a table of addresses, each with a handler of a few lines.

In: a service, limits and a guard. Out: the application, to be served by anything that speaks ASGI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Http
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from ..transcription import Task
from . import anthropic, metrics, ollama, openai, page, responses
from .answering import Answering, told_as
from .bodies import json_response, read, refusal
from .card import Card
from .failure import RequestError
from .form import MULTIPART
from .limits import bounded
from .listening import Listening
from .middleware import Guarded, Watched
from .openapi import Address, document
from .request import SSE, Dialect, Json, checked, parsed
from .security import Guard
from .service import Service
from .settings import Limits
from .transcribing import Transcribing
from .transcriptions import Transcription, Translation

DIALECTS: Mapping[str, tuple[Dialect[Any], str]] = {
    "/v1/chat/completions": (openai.CHAT, "Answer a conversation (OpenAI)"),
    "/v1/responses": (responses.RESPONSES, "Answer a conversation (OpenAI's responses, none is kept)"),
    "/v1/messages": (anthropic.MESSAGES, "Answer a conversation (Anthropic)"),
    "/api/chat": (ollama.CHAT, "Answer a conversation (Ollama)"),
}
SPEECH: Sequence[tuple[str, type[Translation], Task, str]] = (
    ("/v1/audio/transcriptions", Transcription, "transcribe", "Write down speech of any length (OpenAI)"),
    ("/v1/audio/translations", Translation, "translate", "Write down speech in English (OpenAI)"),
)
LISTEN = "/v1/listen"  # a WebSocket, which OpenAPI does not know


def application(service: Service, card: Card, limits: Limits, guard: Guard) -> ASGIApp:
    """The whole server."""
    addresses = _Site(service, card, limits).addresses
    paths = {LISTEN, *page.PATHS, *(address.path for address in addresses)}
    middleware = [Middleware(Watched, service=service, paths=paths), Middleware(Guarded, guard=guard)]
    if guard.origins:
        origins, methods = [*guard.origins], ["GET", "POST"]
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"])
        middleware.insert(1, cors)  # it answers what browsers ask before they send a key
    handlers: Any = {RequestError: _refused, HTTPException: _not_here, ClientDisconnect: _gone}
    routes = [
        *page.routes(),
        *(Route(a.path, a.handler, methods=[a.method]) for a in addresses),
        WebSocketRoute(LISTEN, Listening(service, card, limits)),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


@dataclass(frozen=True)
class _Site:
    """What is at each address."""

    service: Service
    card: Card
    limits: Limits

    @cached_property
    def addresses(self) -> Sequence[Address]:
        return (
            Address("GET", "/health", "Whether there are answers", self.health),
            Address("GET", "/metrics", "Counters for Prometheus", self.counters, plain=True),
            Address("GET", "/openapi.json", "This document", self.openapi),
            Address("GET", "/v1/models", "The model", self.models),
            Address("GET", "/v1/models/{name:path}", "The model, by its name", self.model),
            Address(
                "POST", "/v1/messages/count_tokens", "Count a prompt (Anthropic)", self.count, anthropic.CountTokens
            ),
            Address("GET", "/api/version", "The version of Ollama's API", self.version),
            Address("GET", "/api/tags", "The model (Ollama)", self.tags),
            Address("GET", "/api/ps", "The model, while it is in memory (Ollama)", self.running),
            Address("POST", "/api/show", "What the model is (Ollama)", self.show, ollama.Named),
            *(
                Address("POST", path, what, Answering(d, self.service, self.card, self.limits), d.body, d.media_type)
                for path, (d, what) in DIALECTS.items()
            ),
            *(
                Address(
                    "POST", path, what, Transcribing(body, task, self.service, self.limits), body, SSE, MULTIPART, True
                )
                for path, body, task, what in SPEECH
            ),
        )

    @cached_property
    def _document(self) -> Json:
        return document(self.addresses)

    async def health(self, http: Http) -> Response:
        return json_response({"status": "ok", "loaded": self.service.loaded})

    async def counters(self, http: Http) -> Response:
        text = self.service.metrics.text(live=self.service.live, loaded=self.service.loaded)
        return PlainTextResponse(text, media_type=metrics.CONTENT_TYPE)

    async def openapi(self, http: Http) -> Response:
        return json_response(self._document)

    async def models(self, http: Http) -> Response:
        return json_response(openai.models(self.card))

    async def model(self, http: Http) -> Response:
        name = http.path_params["name"]
        if name != self.card.name:
            raise RequestError("unknown", f"model: no model {name[:80]!a} here; it is {self.card.name}")
        return json_response(openai.model(self.card))

    async def count(self, http: Http) -> Response:
        async with self.service.place():  # so that the model stays until it has counted, and is unloaded after that
            body = await read(http, self.limits)
            return json_response(await self.service.apart(self._counted, body))

    def _counted(self, body: bytes) -> dict[str, int]:
        asked = anthropic.question(checked(anthropic.CountTokens, parsed(body)))
        with told_as(asked):
            messages = bounded(asked.messages, self.limits)
            tokens = self.service.model().count_tokens(messages, tools=asked.tools, thinking=asked.thinking)
        return {"input_tokens": tokens.prompt}

    async def version(self, http: Http) -> Response:
        return json_response({"version": ollama.VERSION})

    async def tags(self, http: Http) -> Response:
        return json_response(ollama.tags(self.card))

    async def running(self, http: Http) -> Response:
        return json_response(ollama.running(self.card, self.service.loaded))

    async def show(self, http: Http) -> Response:
        asked = checked(ollama.Named, parsed(await read(http, self.limits)))
        return json_response(ollama.show(self.card, asked))


async def _refused(http: Http, error: RequestError) -> Response:
    return refusal(http.url.path, error)


async def _not_here(http: Http, error: HTTPException) -> Response:
    kind = "method" if error.status_code == 405 else "unknown"
    response = refusal(http.url.path, RequestError(kind, f"{http.method} {http.url.path[:200]}: {error.detail}"))
    response.headers.update(error.headers or {})
    return response


async def _gone(http: Http, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it; the log does
