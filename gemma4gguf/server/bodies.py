"""Bodies of HTTP: read within limits, written as JSON, errors in the form of the API that a path belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
from starlette.requests import Request as Http
from starlette.responses import Response

from . import anthropic, ollama, openai
from .failure import RequestError
from .request import dumped
from .service import RETRY_AFTER_S
from .settings import Limits

# A longer body is read on to so many times the limit: few clients look for an answer before they have sent everything.
DRAINED = 4
# By the beginning of the path: in which API's form errors are told. The first that fits counts.
ERRORS: tuple[tuple[str, Callable[[RequestError], dict[str, Any]]], ...] = (
    ("/v1/messages", anthropic.failed),
    ("/api/", ollama.failed),
    ("", openai.failed),
)


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


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dumped(body), status, headers=headers, media_type="application/json")


def refusal(path: str, failure: RequestError) -> Response:
    """A failure in the form of the API that the path belongs to."""
    shape = next(shape for beginning, shape in ERRORS if path.startswith(beginning))
    headers = {"retry-after": str(RETRY_AFTER_S)} if failure.kind in ("busy", "unavailable") else {}
    if failure.kind in ("large", "slow"):
        headers["connection"] = "close"  # the rest of the body is not read
    return json_response(shape(failure), failure.status, headers)
