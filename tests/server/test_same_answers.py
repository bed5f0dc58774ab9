"""The same conversations in process and by every API: the same text, thought, calls and token counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.conversations import Asked, as_anthropic, as_ollama, as_openai, conversations
from tests.support.serving import Serving, eventually, serving

MOST = 48  # tokens
Answer = tuple[str, str, list[Any], int, int]  # text, thought, calls, tokens of the prompt and of the answer


@pytest.fixture(scope="module")
def alike(tiny_bundle: Path) -> Iterator[Serving]:
    with serving(tiny_bundle, parallel=1) as running:
        yield running


def cold(alike: Serving) -> None:
    """Forget the cache: each round then computes the very same, and no rounding decides between near ties."""
    eventually(lambda: alike.service.live == 0 and not alike.model.engine.scheduler.live)
    alike.model.engine.scheduler.places.forget()


@pytest.fixture(scope="module")
def own(alike: Serving) -> list[Answer]:
    """What the model answers in process."""
    cold(alike)
    found = []
    for asked in conversations():
        more = {"tools": asked.get("tools"), "thinking": asked.get("thinking", False)}
        r = alike.model.chat(asked["messages"], temperature=0, max_tokens=MOST, **more)
        calls = [(call.name, call.arguments) for call in r.tool_calls]
        found.append((r.text, r.thought, calls, r.tokens.prompt, r.tokens.completion))
    return found


def _of_openai(reply: Any) -> Answer:
    message, usage = reply["choices"][0]["message"], reply["usage"]
    called = [call["function"] for call in message.get("tool_calls", ())]
    calls = [(function["name"], json.loads(function["arguments"])) for function in called]
    thought = message.get("reasoning_content", "")
    return message["content"] or "", thought, calls, usage["prompt_tokens"], usage["completion_tokens"]


def _of_anthropic(reply: Any) -> Answer:
    blocks, usage = reply["content"], reply["usage"]
    text, thought = ("".join(b[kind] for b in blocks if b["type"] == kind) for kind in ("text", "thinking"))
    calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    return text, thought, calls, usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]


def _of_ollama(reply: Any) -> Answer:
    message = reply["message"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return message["content"], message.get("thinking", ""), calls, reply["prompt_eval_count"], reply["eval_count"]


@pytest.mark.parametrize(
    ("path", "body", "limit", "read"),
    [
        ("/v1/chat/completions", as_openai, {"temperature": 0, "max_tokens": MOST}, _of_openai),
        ("/v1/messages", as_anthropic, {"temperature": 0, "max_tokens": MOST}, _of_anthropic),
        ("/api/chat", as_ollama, {"options": {"temperature": 0, "num_predict": MOST}, "stream": False}, _of_ollama),
    ],
    ids=["openai", "anthropic", "ollama"],
)
def test_every_api_gives_the_model_s_own_answer(
    alike: Serving,
    own: list[Answer],
    path: str,
    body: Callable[[Asked], Asked],
    limit: Asked,
    read: Callable[[Any], Answer],
) -> None:
    def ask(asked: Asked) -> Answer:
        reply = httpx.post(alike.url + path, json={**body(asked), **limit}, timeout=300)
        assert reply.status_code == 200, reply.text
        return read(reply.json())

    assert len(own) == 50
    cold(alike)
    assert [ask(asked) for asked in conversations()] == own
