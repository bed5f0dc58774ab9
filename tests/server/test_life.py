"""Clients that leave, limits of time, the end, unloading: nothing hangs, and every stream has its last event."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gemma4gguf.isolated.engine import IsolatedEngine
from gemma4gguf.server.settings import Limits
from tests.support.serving import Serving, endless, eventually, serving

LONG = 8_000  # tokens: an answer of as many takes far longer than what happens here
CONTEXT = 8_192
CHAT = "/v1/chat/completions"
SUM: Any = [{"role": "user", "content": "What is 47 + 38?"}]


@pytest.fixture(scope="module")
def long(tiny_bundle: Path) -> Iterator[Serving]:
    """A server whose answers go on and on."""
    with serving(tiny_bundle, context=CONTEXT, limits=Limits(tokens=LONG)) as running:
        yield running


def nobody_there(server: Serving) -> None:
    """Every place is free, in the service and in the scheduler."""
    eventually(lambda: server.service.live == 0 and not server.model.engine.scheduler.live)


def works(server: Serving) -> None:
    body = {"messages": SUM, "temperature": 0, "max_tokens": 24}
    reply = httpx.post(server.url + CHAT, json=body, timeout=120).json()
    assert reply["choices"][0]["message"]["content"] == "47 + 38 = 85"


def posting(server: Serving, body: dict[str, Any]) -> socket.socket:
    """A connection over which a question was sent."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer(long: Serving, stream: bool) -> None:
    with posting(long, {"messages": SUM, "stream": stream, **endless(long.model)}) as connection:
        eventually(lambda: bool(long.model.engine.scheduler.live))
        if stream:
            assert connection.recv(1000)
    nobody_there(long)
    works(long)


def test_a_client_that_leaves_while_its_prompt_is_read(long: Serving) -> None:
    piece = "one two three "
    text = piece * (6000 // len(long.model.tokenize(piece)))
    with posting(long, {"messages": [{"role": "user", "content": text}]}):
        eventually(lambda: bool(long.model.engine.scheduler.live))
    nobody_there(long)
    works(long)


def test_nobody_s_answer_is_mixed_with_another(long: Serving) -> None:
    """More at once than there are places."""

    def ask(pair: tuple[int, int]) -> str:
        body = {"messages": [{"role": "user", "content": f"What is {pair[0]} + {pair[1]}?"}], "temperature": 0}
        found: str = httpx.post(long.url + CHAT, json=body, timeout=120).json()["choices"][0]["message"]["content"]
        return found

    pairs = [(a, b) for a in (12, 25, 47) for b in (9, 18, 33)]
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(ask, pairs)) == [f"{a} + {b} = {a + b}" for a, b in pairs]


# ── the last event ───────────────────────────────────────────────────────────────────────────────────────────────────


def _lines(text: str) -> list[Any]:
    """The data of server-sent events, or lines of JSON."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line and not line.startswith("event:")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def _openai(events: list[Any]) -> bool:
    return bool(events[-1] == "[DONE]" and events[-2]["choices"][0]["finish_reason"] == "length")


def _responses(events: list[Any]) -> bool:
    return bool(events[-1]["type"] == "response.incomplete" and events[-1]["response"]["output"][0]["content"])


def _anthropic(events: list[Any]) -> bool:
    ends = [event["type"] for event in events[-3:]]
    cut = events[-2]["delta"]["stop_reason"] == "max_tokens"
    return ends == ["content_block_stop", "message_delta", "message_stop"] and bool(cut)


def _ollama(events: list[Any]) -> bool:
    return bool(events[-1]["done"] and events[-1]["done_reason"] == "length")


STREAMS: tuple[tuple[str, dict[str, Any], Callable[[list[Any]], bool]], ...] = (
    (CHAT, {"messages": SUM}, _openai),
    ("/v1/responses", {"input": "Hello"}, _responses),
    ("/v1/messages", {"messages": SUM, "max_tokens": LONG}, _anthropic),
    ("/api/chat", {"model": "any", "messages": SUM}, _ollama),
)


class Streams:
    """Open streams of every API, whose answers do not end by themselves: the model is told so by its own rules."""

    def __init__(self, server: Serving) -> None:
        self._pool, self._server = ThreadPoolExecutor(4), server
        self._asked = [self._pool.submit(self._read, path, body) for path, body, _ in STREAMS]

    def _read(self, path: str, body: dict[str, Any]) -> list[Any]:
        with httpx.stream("POST", self._server.url + path, json={"stream": True, **body}, timeout=120) as reply:
            assert reply.status_code == 200, reply.read()
            return _lines("".join(reply.iter_text()))

    def ended_well(self) -> None:
        for asked, (path, _, good) in zip(self._asked, STREAMS, strict=True):
            events = asked.result(120)
            assert good(events), (path, events[-3:])
        self._pool.shutdown()


@pytest.fixture
def never_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token ends an answer."""
    monkeypatch.setattr("gemma4gguf.runtime.answer.end_token_ids", lambda metadata, find: [])


@pytest.mark.usefixtures("never_ending")
def test_the_time_limit_is_an_end_like_any_other(tiny_bundle: Path) -> None:
    limits = Limits(tokens=LONG, seconds=2)
    with serving(tiny_bundle, context=CONTEXT, parallel=4, limits=limits) as running:
        Streams(running).ended_well()
        nobody_there(running)


@pytest.mark.usefixtures("never_ending")
def test_when_the_server_ends_every_stream_ends_well(tiny_bundle: Path) -> None:
    limits = Limits(tokens=LONG)
    with serving(tiny_bundle, context=CONTEXT, parallel=4, limits=limits, grace_s=0.5) as running:
        streams = Streams(running)
        eventually(lambda: len(running.model.engine.scheduler.live) == 4)
        running.server.handle_exit(signal.SIGTERM, None)
        streams.ended_well()
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url + "/health")


def test_sigterm_ends_the_program_with_success(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "gemma4gguf", "serve", tiny_bundle, "--port", "0", "--grace", "0.2"]
    more = ["--context", str(CONTEXT), "--max-answer", str(LONG), "--draft", "off"]
    with subprocess.Popen([*map(str, command), *more], stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr
        found = re.search(r"http://127\.0\.0\.1:\d+", program.stderr.readline())
        assert found
        ban = {str(token): -100 for token in range(1, 120)}  # the end tokens of any Gemma 4 among them
        body = {"messages": SUM, "stream": True, "temperature": 0, "logit_bias": ban}
        with httpx.stream("POST", found[0] + CHAT, json=body, timeout=120) as reply:
            lines = reply.iter_lines()
            next(lines)
            os.kill(program.pid, signal.SIGTERM)
            assert _openai(_lines("\n".join(lines)))
        assert program.wait(60) == 0
        assert "Traceback" not in program.stderr.read()


def test_an_engine_that_dies_takes_nothing_with_it(tiny_bundle: Path) -> None:
    """Open answers end with an error, as events of their API; the next question works."""
    with serving(tiny_bundle, context=CONTEXT, limits=Limits(tokens=LONG), isolate=True) as running:
        engine = running.model._parts.engine
        assert isinstance(engine, IsolatedEngine)
        ban = {str(token): -100 for token in range(1, 120)}  # the end tokens among them
        body = {"messages": SUM, "stream": True, "temperature": 0, "logit_bias": ban}
        for number in (signal.SIGKILL, signal.SIGABRT):
            with httpx.stream("POST", running.url + CHAT, json=body, timeout=120) as reply:
                lines = reply.iter_lines()
                next(lines)
                assert engine.pid
                os.kill(engine.pid, number)
                *_, last = _lines("\n".join(lines))
            assert number.name in last["error"]["message"]
            works(running)


def test_the_memory_is_freed_when_nobody_asks(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, idle_s=0) as running:
        eventually(lambda: not running.service.loaded)
        for _ in range(2):
            works(running)
            eventually(lambda: not running.service.loaded)
        counted = httpx.post(f"{running.url}/v1/messages/count_tokens", json={"messages": SUM}, timeout=120)
        assert counted.json()["input_tokens"]
        eventually(lambda: not running.service.loaded)
