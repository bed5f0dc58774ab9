"""Answers of a form, named tools, several answers, answers that go on: by every API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from gemma4gguf.server.settings import Limits
from tests.support.schemas import json_schema
from tests.support.serving import WEATHER, Serving, serving

PERSON = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bo"]}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SUM: Any = [{"role": "user", "content": "What is 47 + 38?"}]
HELLO: Any = [{"role": "user", "content": "Hello"}]
NAMED = {"name": "get_weather"}
# A city of a list: a free string of random tokens would now and then never end.
CITY: Any = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Zürich"]}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {**WEATHER, "parameters": CITY}}]


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300) as found:
        yield found


def asked(server: Serving, path: str, body: dict[str, Any]) -> Any:
    reply = httpx.post(server.url + path, json={"model": "tiny", "messages": HELLO, **body}, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()


def short(random: Random) -> dict[str, Any]:
    """A schema whose answers have few tokens: objects of one or two fields, maybe nested."""
    kinds: list[dict[str, Any]] = [
        {"enum": random.sample(["red", "grün", "", 'a "b"', "東京", 7, None], 3)},
        {"type": "integer", "minimum": -random.randint(0, 99), "maximum": random.randint(0, 999)},
        {"type": "string", "minLength": 1, "maxLength": random.randint(1, 4)},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        {"anyOf": [{"type": "null"}, {"const": random.random() < 0.5}]},
    ]
    kinds.append({"type": "object", "properties": {"in": kinds[0]}, "required": ["in"], "additionalProperties": False})
    names = random.sample(["a", "größe", "x y", "id"], random.randint(1, 2))
    fields = {name: random.choice(kinds) for name in names}
    return {"type": "object", "properties": fields, "required": names[:1], "additionalProperties": False}


def test_a_hundred_schemas(client: openai.OpenAI) -> None:
    def ask(seed: int) -> None:
        schema = short(Random(seed))
        how: Any = {"response_format": json_schema(schema), "seed": seed, "temperature": 1, "max_tokens": 400}
        choice = client.chat.completions.create(model="tiny", messages=HELLO, **how).choices[0]
        assert (choice.finish_reason, choice.message.content is not None) == ("stop", True)
        jsonschema.validate(json.loads(choice.message.content or ""), schema, cls=jsonschema.Draft202012Validator)

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(ask, range(100)))) == 100


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"schema": PERSON}}},
         lambda reply: reply["choices"][0]["message"]["content"]),
        ("/v1/responses", {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON}}},
         lambda reply: reply["output"][0]["content"][0]["text"]),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}, "max_tokens": 500},
         lambda reply: reply["content"][0]["text"]),
        ("/api/chat", {"format": PERSON, "stream": False}, lambda reply: reply["message"]["content"]),
    ],
    ids=["openai", "responses", "anthropic", "ollama"],
)  # fmt: skip
def test_a_form_by_every_api(server: Serving, path: str, body: dict[str, Any], text: Any) -> None:
    jsonschema.validate(json.loads(text(asked(server, path, body))), PERSON)


def test_any_object(server: Serving) -> None:
    reply = asked(server, "/api/chat", {"format": "json", "stream": False, "options": {"num_predict": 40}})
    assert reply["message"]["content"].lstrip().startswith("{")


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "required"},
         lambda reply: reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"]),
        ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": {"type": "function", "function": NAMED}},
         lambda reply: reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"]),
        ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **WEATHER, "parameters": CITY}],
                           "tool_choice": {"type": "function", **NAMED}},
         lambda reply: reply["output"][0]["name"]),
        ("/v1/messages", {"tools": [{"name": "get_weather", "input_schema": CITY}],
                          "tool_choice": {"type": "tool", **NAMED}, "max_tokens": 500},
         lambda reply: reply["content"][0]["name"]),
    ],
    ids=["required", "openai", "responses", "anthropic"],
)  # fmt: skip
def test_a_tool_that_must_be_called(server: Serving, path: str, body: dict[str, Any], name: Any) -> None:
    assert name(asked(server, path, body)) == "get_weather"


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers(client: openai.OpenAI, server: Serving, stream: bool) -> None:
    how: Any = {"temperature": 2, "seed": 3, "max_tokens": 12, "extra_body": {"top_k": 0, "top_p": 1}}
    own = server.model.answers(HELLO, 3, temperature=2, seed=3, max_tokens=12, top_k=0, top_p=1)
    usage: Any = {"stream_options": {"include_usage": True}} if stream else {}
    reply: Any = client.chat.completions.create(model="tiny", messages=HELLO, n=3, stream=stream, **usage, **how)
    texts = ["", "", ""]
    for choice in (c for chunk in reply for c in chunk.choices) if stream else reply.choices:
        texts[choice.index] += (choice.delta if stream else choice.message).content or ""
        total = None if stream else reply.usage.completion_tokens
    assert texts == [result.text for result in own]
    assert len(set(texts)) > 1
    assert stream or total == sum(result.tokens.completion for result in own)


def test_an_answer_goes_on(server: Serving) -> None:
    begun = [*SUM, {"role": "assistant", "content": "47 + 38 ="}]
    greedy = {"messages": begun, "temperature": 0, "max_tokens": 20}
    own = server.model.chat(begun, continue_final_message=True, temperature=0, max_tokens=20).text
    reply = asked(server, "/v1/chat/completions", {**greedy, "continue_final_message": True})
    assert reply["choices"][0]["message"]["content"] == own
    assert asked(server, "/v1/messages", greedy)["content"][0]["text"] == own
    options = {"temperature": 0, "num_predict": 20}
    assert (
        asked(server, "/api/chat", {"messages": begun, "options": options, "stream": False})["message"]["content"]
        == own
    )


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "poem"}}, "response_format"),
        ("/v1/chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("/v1/chat/completions", {"tools": TOOLS, "tool_choice": "f"}, "tool_choice"),
        ("/v1/chat/completions", {"grammar": 'root ::= "a"'}, "grammar"),
        ("/v1/chat/completions", {"n": 1000}, "n"),
        ("/v1/responses", {"input": "Hi", "text": {"format": {"type": "poem"}}}, "text.format"),
    ],
)
def test_what_cannot_be_is_told(server: Serving, path: str, body: dict[str, Any], field: str) -> None:
    reply = httpx.post(server.url + path, json={"messages": HELLO, **body}, timeout=60)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_raw_grammars_where_they_are_allowed(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, limits=Limits(grammars=True)) as running:
        reply = asked(running, "/v1/chat/completions", {"grammar": 'root ::= "yes" | "no"'})
        assert reply["choices"][0]["message"]["content"] in ("yes", "no")
