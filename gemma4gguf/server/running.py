"""Serve an application over HTTP until a signal ends it: then answers get their time, and every stream its end.

In: an application, its service, where to listen. `run` returns when everything is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from ..errors import InputError
from .service import Service
from .settings import Limits

LAST_WORDS_S = 5  # for streams to send their last event after they were cut off
MOST_CONNECTIONS = 512
SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")


def _is_so(record: logging.LogRecord) -> bool:
    """Uvicorn complains of each WebSocket that was refused, after it has sent the refusal itself."""
    return record.msg != "ASGI callable returned without completing handshake."


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises InputError where that is not possible."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server(address[:2], family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def _check_certificate(certificate: Path, key: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        raise InputError(f"{certificate}: is no certificate with its key, in PEM: {error.strerror or error}") from error


class Server(uvicorn.Server):
    """Serves on `listener` until SIGTERM or SIGINT; `on_ready` is called when it does.

    After the signal answers under way have `grace_s` seconds, then they are cut off. A second signal cuts off at once.
    `certificate` and `key`: files, for https. `most_bytes`: of a WebSocket's message.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        listener: socket.socket,
        *,
        grace_s: float,
        certificate: Path | None = None,
        key: Path | None = None,
        most_bytes: int = Limits.body,
        on_ready: Callable[[], None],
    ) -> None:
        if certificate:
            _check_certificate(certificate, key)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="websockets-sansio",
            ws_max_size=most_bytes,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=int(grace_s) + LAST_WORDS_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_so)
        self._service, self._listener, self._grace_s, self._on_ready = service, listener, grace_s, on_ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.run(self.serve([self._listener]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._service.keep(None)  # also where nobody ever asks
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's own, without raising the signal again at the end: an end that was asked for is a success."""
        main = threading.current_thread() is threading.main_thread()
        numbers = [getattr(signal, name) for name in SIGNALS if main and hasattr(signal, name)]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end. May be called by any thread."""
        wait = 0 if self.should_exit else self._grace_s
        self.should_exit = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and everything with it
            self.loop.call_soon_threadsafe(self.loop.call_later, wait, self._service.end)
