"""A server over real HTTP in a thread of the test's own process, so that a test can look at its service."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma4gguf import Gemma4
from gemma4gguf.server.app import application
from gemma4gguf.server.card import Card
from gemma4gguf.server.metrics import Metrics
from gemma4gguf.server.running import Server, listening
from gemma4gguf.server.security import Guard
from gemma4gguf.server.service import Service
from gemma4gguf.server.settings import Limits

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
PAGE = (ROOT / "docs" / "serve.md").read_text("utf-8")
CLIENT, *HANDLERS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)  # the page's code
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@dataclass(frozen=True)
class Serving:
    """A running server, and what is behind it."""

    url: str
    service: Service
    model: Gemma4
    server: Server

    def on_loop(self, work: Coroutine[Any, Any, object]) -> None:
        """Run it in the server's event loop."""
        asyncio.run_coroutine_threadsafe(work, self.server.loop).result(60)


@contextmanager
def serving(
    bundle: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    guard: Guard = Guard(None, local=True),  # noqa: B008
    parallel: int = 2,
    grace_s: float = 30,
    certificate: Path | None = None,
    idle_s: float = float("inf"),
    port: int = 0,
    **options: Any,
) -> Iterator[Serving]:
    """A server on a port of its own, or on `port`, until the block ends."""

    def opened() -> Gemma4:
        return Gemma4(bundle, parallel=parallel, threads=1, **{"context": 2048, "draft": "off", **options})

    service = Service(opened, limits, Metrics(), parallel=parallel, idle_s=idle_s)
    model, ready = service.model(), threading.Event()
    app = application(service, Card.of(model.bundle, model.context), limits, guard)
    with listening("127.0.0.1", port) as listener:
        server = Server(
            app, service, listener, grace_s=grace_s, certificate=certificate, most_bytes=limits.body, on_ready=ready.set
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert ready.wait(60)
        url = f"http{'s' if certificate else ''}://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield Serving(url, service, model, server)
        finally:
            server.handle_exit(0, None)
            thread.join(60)
            service.close()
    assert not thread.is_alive()


def endless(model: Gemma4) -> dict[str, Any]:
    """Options of OpenAI's chat with which an answer only ends at a limit."""
    return {"temperature": 0, "logit_bias": {str(token): -100 for token in model.engine.rules.end}}


def eventually(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must happen soon; only a hang takes so long."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def encoded(path: Path) -> str:
    """A file in base64."""
    return base64.b64encode(path.read_bytes()).decode("ascii")
