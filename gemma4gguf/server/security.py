"""Who may ask: the Host header, a web page's Origin, the key.

A web page that somebody visits must not reach a server on their machine: neither by a name that its owner points at
127.0.0.1 (the Host header has that name), nor by a plain request from another site (browsers then send its Origin).
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from . import page
from .failure import RequestError

# Answered without a key: to whoever watches over the server, and the page, which then asks for the key.
OPEN_PATHS = frozenset({"/health", *page.PATHS})

# A browser's WebSocket has no headers of its own: it offers the key, in base64url, as a protocol behind this.
KEY_PROTOCOL = "gemma4gguf.key."


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which no other machine reaches."""
    name = host.strip("[]").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """`key`: what clients must send; None: nothing. `local`: the server listens on loopback only.

    `origins`: web pages of other addresses that may ask; `*` for all.
    """

    key: str | None
    local: bool
    origins: Collection[str] = ()

    def check(self, path: str, headers: Headers) -> None:
        """Raise RequestError for who may not ask."""
        host = headers.get("host", "")
        if len(headers.getlist("host")) > 1 or (self.local and not is_loopback(_name(host))):
            raise RequestError("forbidden", f"Host: expected localhost or a loopback address, found {host[:80]!a}")
        origin = headers.get("origin")
        if origin is not None and not self._known(origin, host):
            raise RequestError(
                "forbidden", f"Origin: pages of {origin[:80]!a} may not ask; the server's --cors allows them"
            )
        if self.key is not None and path not in OPEN_PATHS and not self._has_key(headers):
            raise RequestError("key", "the API key is missing or wrong: send it as `Authorization: Bearer KEY`")

    def _known(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc.lower() == host.lower()

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "") or _offered(headers)
        return hmac.compare_digest(given.encode(), (self.key or "").encode())


def _offered(headers: Headers) -> str:
    """The key among the protocols that a WebSocket offers; empty where there is none."""
    protocols = map(str.strip, headers.get("sec-websocket-protocol", "").split(","))
    found = next((name for name in protocols if name.startswith(KEY_PROTOCOL)), "").removeprefix(KEY_PROTOCOL)
    try:
        return base64.urlsafe_b64decode(found + "=" * (-len(found) % 4)).decode()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A Host header without its port; empty for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
