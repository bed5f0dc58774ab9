"""Speech over a WebSocket: the model's own answers, turn by turn, and nobody's who may not ask."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gemma4gguf.server.security import KEY_PROTOCOL, Guard
from gemma4gguf.server.settings import Limits
from tests.support.serving import CLIENT, DEMO, Serving, encoded, endless, eventually, serving
from tests.support.spoken import RATE, clips

ASK = "What is said?"
HOW: dict[str, Any] = {"text": ASK, "temperature": 0, "max_tokens": 24}
# So that it makes no difference in how many pieces a prompt is read.
EXACT: Any = {"kv_type": "f32", "flash_attention": "off"}
QUIET = np.zeros(2 * RATE, np.float32)  # s


@contextmanager
def listener(server: Serving, first: object, **how: Any) -> Iterator[ClientConnection]:
    with connect(f"{server.url.replace('http', 'ws', 1)}/v1/listen", open_timeout=60, **how) as socket:
        socket.send(first if isinstance(first, str) else json.dumps(first))
        yield socket


def speak(socket: ClientConnection, samples: NDArray[Any], piece: int = 1600) -> None:
    with suppress(ConnectionClosed):  # the server has heard enough
        for start in range(0, len(samples), piece):
            socket.send(samples[start : start + piece].tobytes())


def event(socket: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(socket.recv(60))
    return found


def until(socket: ClientConnection, last: str) -> list[dict[str, Any]]:
    """Events up to one of this type."""
    found = [event(socket)]
    while found[-1].get("type") != last:
        assert "error" not in found[-1], found[-1]
        found.append(event(socket))
    return found


def text(events: list[dict[str, Any]]) -> str:
    choices = [choice for made in events for choice in made.get("choices", ())]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def answer(socket: ClientConnection) -> str:
    return text(until(socket, "done"))


def refusal(socket: ClientConnection) -> tuple[str, str]:
    """The error that ends it: its type and message."""
    found = event(socket)
    while "error" not in found:
        found = event(socket)
    with pytest.raises(ConnectionClosed):
        socket.recv(60)
    return found["error"]["type"], found["error"]["message"]


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Serving]:
    with serving(tiny_bundle, **EXACT) as running:
        yield running


@pytest.fixture(scope="module")
def alone(server: Serving) -> list[str]:
    """What the model itself answers to the first clips, in a conversation."""
    chat = server.model.conversation()
    found = []
    for _, clip in clips()[:2]:
        with chat.hear(ASK) as ear:
            ear.feed(clip, RATE)
            found.append(ear.answer(temperature=0, max_tokens=24).text)
    return found


def test_the_page_s_client(
    server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.wav").symlink_to(DEMO / "number.wav")
    monkeypatch.chdir(tmp_path)
    code = CLIENT.replace("localhost:8080", server.url.removeprefix("http://"))
    code = code.replace('"text": ', '"temperature": 0, "max_tokens": 24, "text": ')
    exec(compile(code, "docs/serve.md", "exec"), {})
    events = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    assert text(events) == "I hear the digit 7."
    assert events[-1] == {"type": "done"}


@pytest.mark.parametrize("kind", ["f32", "s16"])
def test_turns_that_the_client_ends(server: Serving, alone: list[str], kind: str) -> None:
    how = {**HOW, "turns": "message", "format": kind, "stream_options": {"include_usage": True}}
    with listener(server, how) as socket:
        assert event(socket) == {"type": "listening", "turns": "message"}
        for (_, clip), wanted in zip(clips(), alone, strict=False):
            speak(socket, clip if kind == "f32" else (clip * 32767).astype("<i2"))
            socket.send('{"type": "end"}')
            events = until(socket, "done")
            assert [made["type"] for made in events if "type" in made] == ["speech", "turn", "done"]
            assert events[1]["end"] - events[1]["start"] == pytest.approx(len(clip) / RATE, abs=0.1)
            assert kind != "f32" or text(events) == wanted
            assert text(events).startswith("I hear")
            (usage,) = [made["usage"] for made in events if made.get("usage")]
            assert usage["prompt_tokens_details"]["audio_tokens"] > 0
    eventually(lambda: not server.service.live and not server.model.engine.scheduler.live)


def test_turns_that_silence_ends(server: Serving) -> None:
    with listener(server, HOW) as socket:
        assert event(socket) == {"type": "listening", "turns": "silence"}
        for _, clip in clips()[:2]:
            speak(socket, np.concatenate([QUIET, clip, QUIET]))
            assert answer(socket).startswith("I hear")


def test_another_rate_and_what_was_said_before(server: Serving) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": encoded(DEMO / "number.wav"), "format": "wav"}}
    before: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": ASK}, sound]},
        {"role": "assistant", "content": "I hear the digit 7."},
    ]
    with listener(server, {**HOW, "messages": before, "turns": "message", "rate": 48_000}) as socket:
        speak(socket, np.repeat(clips()[0][1], 3), 4800)
        socket.send('{"type": "end"}')
        assert answer(socket).startswith("I hear")


def test_speaking_into_an_answer_stops_it(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, context=8192, parallel=1, limits=Limits(tokens=8000)) as long:
        with listener(long, {"text": ASK, **endless(long.model), "turns": "message"}) as socket:
            speak(socket, clips()[0][1])
            socket.send('{"type": "end"}')
            while not text([event(socket)]):
                pass
            speak(socket, clips()[1][1])
            assert until(socket, "stopped")
            assert until(socket, "speech")
        eventually(lambda: not long.service.live and not long.model.engine.scheduler.live)


def test_a_client_that_leaves_frees_its_place(server: Serving) -> None:
    with listener(server, {**HOW, "turns": "message"}) as socket:  # while it speaks
        speak(socket, clips()[0][1])
        until(socket, "speech")
        assert server.service.live == 1
    eventually(lambda: not server.service.live and not server.model.engine.scheduler.live)
    with listener(server, {**HOW, **endless(server.model), "turns": "message"}) as socket:  # while it is answered
        speak(socket, clips()[0][1])
        socket.send('{"type": "end"}')
        until(socket, "turn")
    eventually(lambda: not server.service.live and not server.model.engine.scheduler.live)


def test_an_engine_apart_listens_too(tiny_bundle: Path, alone: list[str]) -> None:
    with serving(tiny_bundle, isolate=True, **EXACT) as apart, listener(apart, {**HOW, "turns": "message"}) as socket:
        speak(socket, clips()[0][1])
        socket.send('{"type": "end"}')
        assert answer(socket) == alone[0]


def test_a_server_that_ends_tells_who_is_listened_to(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as short, listener(short, {**HOW, "turns": "message"}) as socket:
        speak(socket, clips()[0][1])
        until(socket, "speech")
        short.server.handle_exit(0, None)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ("{", b"", "the body is not JSON"),
        ({"rate": 1}, b"", "rate: "),
        ({"n": 2}, b"", "n: "),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/x"}}]}]}, b"", ""),
        ({"turns": "message"}, b"abc", "3 bytes of sound"),
        ({"turns": "message"}, bytes(4 << 20), "4,194,304 bytes of sound"),
        ({"turns": "message"}, np.full(16, np.nan, "f4").tobytes(), "not finite"),
        ({"turns": "message"}, "hello", "not JSON"),
        ({"turns": "message"}, '{"type": "hello"}', "expected samples"),
        ({"turns": "message", "temperature": -1}, clips()[0][1][:RATE].tobytes(), "temperature"),
    ],
)
def test_what_cannot_be_heard(server: Serving, first: Any, then: Any, message: str) -> None:
    with listener(server, first) as socket:
        with suppress(ConnectionClosed):
            if then:
                socket.send(then)
            socket.send('{"type": "end"}')
        kind, told = refusal(socket)
        assert kind == "invalid_request_error"
        assert message in told
    eventually(lambda: not server.service.live)


def test_limits(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, limits=Limits(sound=2, body=100_000, queue=0), parallel=1) as strict:
        with listener(strict, {"turns": "message"}) as socket:
            assert event(socket)["type"] == "listening"
            with pytest.raises(InvalidStatus) as refused, listener(strict, {}):
                pass
            assert refused.value.response.status_code == 429
            speak(socket, np.tile(clips()[0][1], 10))
            assert "a turn is longer than 2 s" in refusal(socket)[1]
        eventually(lambda: not strict.service.live)
        with pytest.raises(ConnectionClosed), listener(strict, "x" * 200_000) as socket:
            socket.recv(60)
        eventually(lambda: not strict.service.live)


def test_who_says_nothing(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, limits=Limits(silence=0.5, body_seconds=0.5)) as hasty:
        with listener(hasty, {"turns": "message"}) as socket:
            assert "nothing was said" in refusal(socket)[1]
        with connect(f"{hasty.url.replace('http', 'ws', 1)}/v1/listen", open_timeout=60) as socket:  # not even how
            assert "nothing was said" in refusal(socket)[1]
        eventually(lambda: not hasty.service.live)


def test_who_may_not_ask(tiny_bundle: Path) -> None:
    key = "a key, with?signs"
    offered = KEY_PROTOCOL + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    with serving(tiny_bundle, guard=Guard(key, local=True)) as guarded:
        for how, status in (
            ({}, 401),
            ({"subprotocols": ["gemma4gguf", f"{KEY_PROTOCOL}xyz"]}, 401),
            ({"additional_headers": {"Authorization": "Bearer x"}}, 401),
            ({"subprotocols": ["gemma4gguf", offered], "origin": "http://example.org"}, 403),
        ):
            with pytest.raises(InvalidStatus) as refused, listener(guarded, HOW, **how):
                pass
            assert refused.value.response.status_code == status
            assert json.loads(refused.value.response.body)["error"]["message"]
        shake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        shake |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": offered}
        assert httpx.get(f"{guarded.url}/v1/listen", headers={**shake, "Host": "example.org"}).status_code == 403
        with listener(guarded, HOW, subprotocols=["gemma4gguf", offered], origin=guarded.url) as socket:
            assert socket.subprotocol == "gemma4gguf"
            assert event(socket)["type"] == "listening"
        eventually(lambda: not guarded.service.live)
        counters = httpx.get(f"{guarded.url}/metrics", headers={"x-api-key": key}).text
        assert 'path="/v1/listen",status="101"} 1' in counters
