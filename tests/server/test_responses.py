"""OpenAI's responses, by the `openai` package against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from gemma4gguf.server import responses
from gemma4gguf.server.card import Card
from gemma4gguf.server.failure import RequestError
from gemma4gguf.server.request import Asked, Item, Piece, Reading
from tests.support.serving import DEMO, WEATHER, Serving, encoded

SUM = "What is 47 + 38?"
TOOLS: Any = [{"type": "function", **WEATHER}]
GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_output_tokens": 64}


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def test_an_answer(client: openai.OpenAI, server: Serving) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SUM}]
    own = server.model.chat(asked, temperature=0, max_tokens=64)
    reply = client.responses.create(input=SUM, instructions="Be brief.", **GREEDY)
    assert (reply.output_text, reply.status) == (own.text, "completed")
    assert reply.usage
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (own.tokens.prompt, own.tokens.completion)
    cut = client.responses.create(input=SUM, **{**GREEDY, "max_output_tokens": 2})
    assert cut.status == "incomplete"
    assert cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("effort", ["none", "low"])
def test_a_stream(client: openai.OpenAI, effort: Any) -> None:
    whole = client.responses.create(input=SUM, reasoning={"effort": effort}, **GREEDY)
    events = list(client.responses.create(input=SUM, reasoning={"effort": effort}, stream=True, **GREEDY))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    done = [e.item for e in events if e.type == "response.output_item.done"]
    assert done == events[-1].response.output
    assert [item.type for item in done] == (["message"] if effort == "none" else ["reasoning", "message"])
    without_id = {"id"}
    assert [i.model_dump(exclude=without_id) for i in done] == [i.model_dump(exclude=without_id) for i in whole.output]


def test_an_error_has_the_next_number_too(server: Serving) -> None:
    body = responses.Responses.model_validate({"input": SUM})
    asked = Asked(body, responses.request(body), Card.of(server.model.bundle, 2048), "id", 0)

    async def items() -> AsyncIterator[Item]:
        yield Reading(0, 5)
        yield Piece("47")
        raise RequestError("broken", "ended in the middle")

    async def told() -> list[Any]:
        return [event async for event in responses.events(asked, items())]

    events = asyncio.run(told())
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[-1]["type"], events[-1]["message"]) == ("error", "ended in the middle")


@pytest.mark.parametrize("stream", [False, True])
def test_tools_in_two_rounds(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    if stream:
        *_, last = client.responses.create(input=asked, tools=TOOLS, stream=True, **GREEDY)
        assert last.type == "response.completed"
        (call,) = last.response.output
    else:
        (call,) = client.responses.create(input=asked, tools=TOOLS, **GREEDY).output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    returned = {"type": "function_call_output", "call_id": call.call_id, "output": "rain, 7 degrees"}
    assert client.responses.create(input=[*asked, call, returned], tools=TOOLS, **GREEDY).output_text  # type: ignore[list-item]


def test_a_picture(client: openai.OpenAI) -> None:
    url = f"data:image/png;base64,{encoded(DEMO / 'digits.png')}"
    parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What number is this?"}]
    reply = client.responses.create(input=[{"role": "user", "content": parts}], **GREEDY)  # type: ignore[list-item, misc]
    assert reply.output_text == "I read the number 4072."


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "dance"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "/etc/passwd"}]}]},
         "input[0].content[0]"),
        ({"instructions": "Hi", "input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]},
         "input[0]"),
        ({"input": SUM, "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": SUM, "max_output_tokens": 0}, "max_output_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_errors_name_the_field(client: openai.OpenAI, body: dict[str, Any], path: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body=body, cast_to=object)
    assert caught.value.param == path
