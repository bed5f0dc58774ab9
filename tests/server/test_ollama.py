"""The `ollama` package, unchanged but for its address, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.support.serving import DEMO, WEATHER, Serving, serving

SUM: Any = [{"role": "user", "content": "What is 47 + 38?"}]
TOOLS: Any = [{"type": "function", "function": WEATHER}]
GREEDY: Any = {"model": "tiny", "options": {"temperature": 0, "num_predict": 64}}


@pytest.fixture(scope="module")
def client(server: Serving) -> ollama.Client:
    return ollama.Client(server.url, timeout=120)


def test_an_answer(client: ollama.Client, server: Serving) -> None:
    own = server.model.chat(SUM, temperature=0, max_tokens=64)
    reply = client.chat(messages=SUM, **GREEDY)
    assert (reply.message.content, reply.done, reply.done_reason) == (own.text, True, "stop")
    assert (reply.prompt_eval_count, reply.eval_count) == (own.tokens.prompt, own.tokens.completion)
    cut = client.chat("tiny", SUM, options={"num_predict": 2})
    assert (cut.eval_count, cut.done_reason) == (2, "length")
    assert client.chat("tiny", SUM, options={"num_predict": -1, "temperature": 0}).message.content == own.text


@pytest.mark.parametrize("think", [False, True])
def test_a_stream(client: ollama.Client, think: bool) -> None:
    whole = client.chat(messages=SUM, think=think, **GREEDY)
    parts = list(client.chat(messages=SUM, think=think, stream=True, **GREEDY))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert "".join(part.message.thinking or "" for part in parts) == (whole.message.thinking or "")
    assert bool(whole.message.thinking) == think
    assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]


def test_tools_in_two_rounds(client: ollama.Client) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    reply = client.chat(messages=messages, tools=TOOLS, **GREEDY)
    assert reply.message.tool_calls
    (call,) = reply.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Oslo"})
    messages += [reply.message, {"role": "tool", "tool_name": "get_weather", "content": "rain, 7 degrees"}]
    answer = client.chat(messages=messages, tools=TOOLS, **GREEDY).message
    assert answer.content
    assert not answer.tool_calls


def test_a_picture(client: ollama.Client) -> None:
    asked = {"role": "user", "content": "What number is this?", "images": [DEMO / "digits.png"]}
    assert client.chat(messages=[asked], **GREEDY).message.content == "I read the number 4072."


def test_what_is_there(client: ollama.Client, server: Serving) -> None:
    (model,) = client.list().models
    assert (model.model, model.size) == ("tiny", server.model.bundle.path.stat().st_size)
    assert model.details
    assert (model.details.family, model.details.quantization_level) == ("gemma4", "Q8_0")
    shown = client.show("tiny")
    assert {"completion", "vision", "audio", "tools", "thinking"} <= set(shown.capabilities or ())
    assert (shown.modelinfo or {})["gemma4.context_length"] == 2048
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.show("llama")
    assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": [{"role": "king"}]}, "messages[0].role"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"top_p": 7}}, "options.top_p"),
        ({"messages": [{"role": "user", "content": "Hi", "images": ["?"]}]}, "messages[0].images[0]"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"think": "loudly"}, "think"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_name_the_field(client: ollama.Client, body: dict[str, Any], path: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client._request_raw("POST", "/api/chat", json={"model": "tiny", "messages": SUM, **body})  # type: ignore[no-untyped-call]
    assert caught.value.status_code == 400
    assert caught.value.error.startswith(path)


def test_a_model_comes_and_goes(tiny_bundle: Path) -> None:
    with serving(tiny_bundle) as running:
        client = ollama.Client(running.url, timeout=120)
        assert client.ps().models
        assert client.chat("tiny", keep_alive=0).done_reason == "unload"
        while client.ps().models:  # it is freed after the answer
            pass
        assert client.chat("tiny").done_reason == "load"
        assert client.ps().models
        assert client.chat(messages=SUM, keep_alive="1m", **GREEDY).message.content == "47 + 38 = 85"
