"""The handlers of docs/serve.md, in FastAPI and in Flask, over real HTTP: twenty requests at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from werkzeug.serving import make_server

from gemma4gguf.server.running import listening
from tests.support.serving import HANDLERS, eventually

QUESTIONS = [f"What is {a} + {b}?" for a in (12, 25, 47, 33) for b in (9, 18, 33, 20, 14)]


@contextmanager
def fastapi(app: Any) -> Iterator[str]:
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
        thread.start()
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)


@contextmanager
def flask(app: Any) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(60)


@pytest.mark.parametrize(("code", "run"), [*zip(HANDLERS, (fastapi, flask), strict=True)], ids=["fastapi", "flask"])
def test_twenty_at_once(
    code: str, run: Callable[[Any], Any], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gemma.gguf").symlink_to(tiny_bundle)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "handlers"}
    code = code.replace("parallel=4", 'parallel=4, threads=1, context=512, draft="off"')
    code = code.replace("=200", "=200, temperature=0")
    exec(compile(code, "docs/serve.md", "exec"), names)
    with names["model"] as model, run(names["app"]) as url, ThreadPoolExecutor(20) as pool:

        def ask(question: str) -> str:
            found: str = httpx.get(f"{url}/ask", params={"question": question}, timeout=300).json()["answer"]
            return found

        assert list(pool.map(ask, QUESTIONS)) == [model.generate(q, temperature=0).text for q in QUESTIONS]
