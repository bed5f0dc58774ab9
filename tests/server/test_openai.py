"""The `openai` package, unchanged but for its base address, against a real server."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from gemma4gguf.server.security import Guard
from gemma4gguf.server.settings import Limits
from tests.support.serving import DEMO, WEATHER, Serving, encoded, serving

SUM: Any = [{"role": "user", "content": "What is 47 + 38?"}]
TOOLS: Any = [{"type": "function", "function": WEATHER}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 64}
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"}}
CLIP = {"type": "input_audio", "input_audio": {"data": encoded(DEMO / "number.wav"), "format": "wav"}}


def client(server: Serving, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def ask(server: Serving) -> Any:
    with client(server) as found:
        yield found.chat.completions.create


def test_models(server: Serving) -> None:
    with client(server) as found:
        (model,) = found.models.list()
        assert model.id == "tiny"
        assert (model.model_extra or {})["input_modalities"] == ["text", "image", "audio", "video"]
        assert found.models.retrieve("tiny") == model
        with pytest.raises(openai.NotFoundError, match="no model 'gpt' here"):
            found.models.retrieve("gpt")


def test_an_answer(ask: Any, server: Serving) -> None:
    own = server.model.chat(SUM, temperature=0, max_tokens=64)
    reply = ask(messages=SUM, **GREEDY)
    assert reply.choices[0].message.content == own.text == "47 + 38 = 85"
    assert (reply.choices[0].finish_reason, reply.object, reply.model) == ("stop", "chat.completion", "tiny")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (own.tokens.prompt, own.tokens.completion)
    assert reply.usage.total_tokens == own.tokens.prompt + own.tokens.completion


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream(ask: Any, usage: bool) -> None:
    chunks = list(ask(messages=SUM, stream=True, stream_options={"include_usage": usage}, **GREEDY))
    whole = ask(messages=SUM, **GREEDY)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert [c.usage.total_tokens for c in chunks if c.usage] == [whole.usage.total_tokens] * usage


@pytest.mark.parametrize("stream", [False, True])
def test_tools_in_two_rounds(ask: Any, server: Serving, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    if stream:
        *_, chunk, last = ask(messages=messages, tools=TOOLS, stream=True, **GREEDY)
        (call,), reason = chunk.choices[0].delta.tool_calls, last.choices[0].finish_reason
    else:
        choice = ask(messages=messages, tools=TOOLS, **GREEDY).choices[0]
        (call,), reason = choice.message.tool_calls, choice.finish_reason
        assert choice.message.content is None
    assert reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    asked = {"id": call.id, "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages += [
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": call.id, "content": "rain, 7 degrees"},
    ]
    answer = ask(messages=messages, tools=TOOLS, **GREEDY).choices[0].message.content
    assert answer == server.model.chat(messages, tools=TOOLS, temperature=0, max_tokens=64).text
    assert answer


def test_pictures_and_sound(ask: Any) -> None:
    seen = [{"role": "user", "content": [PICTURE, {"type": "text", "text": "What number is this?"}]}]
    reply = ask(messages=seen, **GREEDY)
    assert reply.choices[0].message.content == "I read the number 4072."
    assert reply.usage.prompt_tokens_details.image_tokens > 0
    heard = [{"role": "user", "content": [{"type": "text", "text": "What is said?"}, CLIP]}]
    reply = ask(messages=heard, **GREEDY)
    assert reply.choices[0].message.content == "I hear the digit 7."
    assert reply.usage.prompt_tokens_details.audio_tokens > 0


@pytest.mark.parametrize(
    "how",
    [{"reasoning_effort": "low"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}],
    ids=["effort", "template"],
)
def test_thoughts_come_apart(ask: Any, server: Serving, how: dict[str, Any]) -> None:
    own = server.model.chat(SUM, thinking=True, temperature=0, max_tokens=64)
    reply = ask(messages=SUM, **GREEDY, **how).choices[0].message
    assert (reply.reasoning_content, reply.content) == (own.thought, own.text)
    assert own.thought
    deltas = [c.choices[0].delta for c in ask(messages=SUM, stream=True, **GREEDY, **how) if c.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == own.thought
    assert "".join(delta.content or "" for delta in deltas) == own.text


def test_options_reach_the_answer(ask: Any, server: Serving) -> None:
    reply = ask(messages=SUM, model="any", temperature=0, max_completion_tokens=3)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 3)
    assert ask(messages=SUM, stop="=", **GREEDY).choices[0].message.content == "47 + 38 "
    hot: dict[str, Any] = {"temperature": 1.9, "top_p": 1, "max_tokens": 24, "seed": 7}
    own = server.model.chat(SUM, top_k=0, **hot).text
    said = [ask(messages=SUM, model="tiny", extra_body={"top_k": 0}, **hot) for _ in range(2)]
    assert [reply.choices[0].message.content for reply in said] == [own, own]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(ask: Any, server: Serving, stream: bool) -> None:
    own = server.model.chat(SUM, temperature=0, max_tokens=64, logprobs=True, top_logprobs=2).logprobs
    reply = ask(messages=SUM, logprobs=True, top_logprobs=2, stream=stream, **GREEDY)
    told = [c.choices[0].logprobs for c in reply if c.choices] if stream else [reply.choices[0].logprobs]
    found = [token for part in told if part for token in part.content]
    assert [bytes(token.bytes) for token in found] == [logprob.piece for logprob in own]
    assert [token.logprob for token in found] == pytest.approx([logprob.logprob for logprob in own], abs=1e-3)
    assert {len(token.top_logprobs) for token in found} == {2}


def test_biases(ask: Any, server: Serving) -> None:
    (plain,) = server.model.tokenize("4")
    assert ask(messages=SUM, logit_bias={str(plain): -100}, **GREEDY).choices[0].message.content[0] != "4"


def test_unknown_fields_are_ignored(ask: Any) -> None:
    extra = {"user": "me", "store": False, "metadata": {"a": "b"}, "invented": [1]}
    assert ask(messages=SUM, extra_body=extra, **GREEDY).choices[0].message.content == "47 + 38 = 85"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
         "messages[0].content[0]"),
        ({"messages": SUM, "temperature": -1}, "temperature"),
        ({"messages": SUM, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": SUM, "max_tokens": "many"}, "max_tokens"),
        ({"messages": SUM, "seed": 1 << 60}, "seed"),
        ({"messages": SUM, "stop": ["a", ""]}, "stop[1]"),
        ({"messages": SUM, "logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": SUM, "top_logprobs": 99, "logprobs": True}, "top_logprobs"),
        ({"messages": SUM, "tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"messages": SUM, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"messages": SUM, "chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs.enable_thinking"),
        ({"messages": [*SUM, {"role": "assistant", "content": "8"}], "continue_final_message": True,
          "add_generation_prompt": True}, "add_generation_prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_errors_name_the_field(server: Serving, body: dict[str, Any], path: str, stream: bool) -> None:
    with client(server) as found, pytest.raises(openai.BadRequestError) as caught:
        found.post("/chat/completions", body={**body, "stream": stream}, cast_to=object)
    assert (caught.value.type, caught.value.param) == ("invalid_request_error", path)
    assert path in caught.value.message


def test_a_prompt_that_does_not_fit(ask: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="the context holds 2,048") as caught:
        ask(messages=[{"role": "user", "content": "long " * 3000}], **GREEDY)
    assert caught.value.code == "context_length_exceeded"


@pytest.fixture(scope="module")
def strict(tiny_bundle: Path) -> Iterator[Serving]:
    """A server with a key, one place and no queue."""
    limits = Limits(queue=0, body=1_000_000, pictures=1, pixels=10_000, sound=0.5)
    with serving(tiny_bundle, limits=limits, guard=Guard("secret", local=True), parallel=1) as running:
        yield running


def test_the_key(strict: Serving) -> None:
    with client(strict, "secret") as found:
        assert found.chat.completions.create(messages=SUM, **GREEDY).choices
    with client(strict, "secrets") as found, pytest.raises(openai.AuthenticationError) as caught:
        found.models.list()
    assert caught.value.code == "invalid_api_key"


def huge_jpeg() -> dict[str, Any]:
    """A small file whose header names more pixels than Pillow opens."""
    out = io.BytesIO()
    Image.new("RGB", (48, 49)).save(out, "JPEG")
    data = out.getvalue().replace(struct.pack(">HH", 49, 48), struct.pack(">HH", 65_500, 65_500))
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"}}


def test_limits(strict: Serving) -> None:
    with client(strict, "secret") as found:

        def refused(*parts: Any) -> openai.APIStatusError:
            with pytest.raises(openai.APIStatusError) as caught:
                found.chat.completions.create(messages=[{"role": "user", "content": parts}], **GREEDY)
            return caught.value

        for parts, word in (
            ([{"type": "text", "text": "long " * 300_000}], "1,000,000 bytes"),
            ([PICTURE, PICTURE], "2 pictures"),
            ([PICTURE], "10,000 pixels"),
            ([huge_jpeg()], "65,500 x 65,500 pixels"),
            ([CLIP], "0.5 s were left"),
        ):
            error = refused(*parts)
            assert error.status_code == 413
            assert word in error.message


def test_too_many_at_once(strict: Serving) -> None:
    """The only place is taken as the server's own requests take it; whoever comes then is told to come back."""
    place = strict.service.place()
    strict.on_loop(place.__aenter__())
    with client(strict, "secret") as found, pytest.raises(openai.RateLimitError) as caught:
        found.chat.completions.create(messages=SUM, **GREEDY)
    assert int(caught.value.response.headers["retry-after"]) > 0
    strict.on_loop(place.__aexit__(None, None, None))
    with client(strict, "secret") as found:
        assert found.chat.completions.create(messages=SUM, **GREEDY).choices


def test_nobody_there(server: Serving) -> None:
    nowhere = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)
    with nowhere, pytest.raises(openai.APIConnectionError):
        nowhere.models.list()
