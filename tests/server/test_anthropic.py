"""The `anthropic` package, unchanged but for its base address, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.support.serving import DEMO, WEATHER, Serving, encoded

SUM: Any = [{"role": "user", "content": "What is 47 + 38?"}]
TOOLS: Any = [{"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": WEATHER["parameters"]}]
GREEDY: dict[str, Any] = {"model": "tiny", "max_tokens": 64, "extra_body": {"temperature": 0}}
THINK: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.fixture(scope="module")
def messages(server: Serving) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120) as found:
        yield found.messages


def test_an_answer(messages: Any, server: Serving) -> None:
    own = server.model.chat([{"role": "system", "content": "Be brief."}, *SUM], temperature=0, max_tokens=64)
    reply = messages.create(messages=SUM, system="Be brief.", **GREEDY)
    (block,) = reply.content
    assert (block.type, block.text) == ("text", own.text)
    assert (reply.stop_reason, reply.model) == ("end_turn", "tiny")
    usage = reply.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == own.tokens.prompt
    assert usage.output_tokens == own.tokens.completion
    cut = messages.create(messages=SUM, **{**GREEDY, "max_tokens": 2})
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 2)


@pytest.mark.parametrize("how", [{}, THINK], ids=["plain", "thinking"])
def test_a_stream(messages: Any, how: dict[str, Any]) -> None:
    whole = messages.create(messages=SUM, **GREEDY, **how)
    with messages.stream(messages=SUM, **GREEDY, **how) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[-1].text
    assert [block.model_dump(exclude_none=True) for block in final.content] == [
        block.model_dump(exclude_none=True) for block in whole.content
    ]
    assert [block.type for block in final.content] == (["thinking", "text"] if how else ["text"])
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", whole.usage.output_tokens)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_in_two_rounds(messages: Any, server: Serving, stream: bool) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    if stream:
        with messages.stream(messages=asked, tools=TOOLS, **GREEDY) as answer:
            reply = answer.get_final_message()
    else:
        reply = messages.create(messages=asked, tools=TOOLS, **GREEDY)
    call = reply.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Oslo"})
    assert reply.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain, 7 degrees"}
    asked += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": [result]}]
    own = server.model.chat(
        [
            {"role": "user", "content": "What is the weather in Oslo?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}
                ],
            },
            {"role": "tool", "tool_call_id": call.id, "content": "rain, 7 degrees"},
        ],
        tools=[{"type": "function", "function": WEATHER}],
        temperature=0,
        max_tokens=64,
    )
    assert messages.create(messages=asked, tools=TOOLS, **GREEDY).content[0].text == own.text


def test_a_picture(messages: Any) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": encoded(DEMO / "digits.png")}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "What number is this?"}]
    reply = messages.create(messages=[{"role": "user", "content": parts}], **GREEDY)
    assert reply.content[0].text == "I read the number 4072."


def test_counting(messages: Any, server: Serving) -> None:
    counted = messages.count_tokens(model="tiny", messages=SUM, system="Be brief.", tools=TOOLS)
    own = server.model.count_tokens(
        [{"role": "system", "content": "Be brief."}, *SUM], tools=[{"type": "function", "function": WEATHER}]
    )
    assert counted.input_tokens == own.prompt


PATH = {"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}
ADDRESS = {"type": "image", "source": {"type": "url", "url": "http://localhost/cat.png"}}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 1, "messages": [{"role": "king", "content": "Hi"}]}, "messages[0].role"),
        ({"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "messages[0].content[0]"),
        ({"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
         "messages[0].content[0].text"),
        ({"max_tokens": 1, "system": "Hi", "messages": [{"role": "user", "content": [PATH]}]},
         "messages[0].content[0]"),
        ({"max_tokens": 1, "messages": [*SUM, {"role": "user", "content": [ADDRESS]}]}, "messages[1].content[0]"),
        ({"max_tokens": 1, "top_p": 7}, "top_p"),
        ({"max_tokens": 1, "stop_sequences": [""]}, "stop_sequences[0]"),
        ({"max_tokens": 1, "thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"max_tokens": 1, "tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors_name_the_field(messages: Any, body: dict[str, Any], path: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        messages._client.post("/v1/messages", body={"model": "tiny", "messages": SUM, **body}, cast_to=object)
    told: Any = caught.value.body
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert told["error"]["message"].startswith(path)
