"""The page at `/`: its files, read once, each at its own address.

In: the files in `static`. Out: routes. The page asks the server's own API and nobody else; its policy forbids more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request as Http
from starlette.responses import Response
from starlette.routing import Route

FILES = sorted((Path(__file__).parent / "static").iterdir())
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PATHS = {"/" if file.name == "index.html" else f"/{file.name}": file for file in FILES}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "media-src": "data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "content-security-policy": "; ".join(f"{what} {where}" for what, where in POLICY.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-cache",
}


def routes() -> list[Route]:
    """A route for each file."""
    return [Route(path, _sending(file)) for path, file in PATHS.items()]


def _sending(file: Path) -> Callable[[Http], Awaitable[Response]]:
    content, kind = file.read_bytes(), TYPES[file.suffix]

    async def send(http: Http) -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return send
