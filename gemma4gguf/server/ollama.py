"""Ollama's chat, and what its clients ask about the model: bodies to requests, answers to bodies and lines."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import Field

from ..records import Chunk, Message, Result, ToolCall
from .card import Card
from .failure import RequestError
from .openai import Whole, chosen
from .request import NDJSON, Asked, Body, Dialect, Event, Item, Json, Reading, Request, ndjson

VERSION = "0.12.0"  # of Ollama's API that this follows; clients refuse what is older than they need
OPTIONS: Mapping[str, str] = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "seed": "seed",
    "stop": "stop",
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")


class Function(Body):
    """The function that a call names."""

    name: str
    arguments: Json = Field({})


class Call(Body):
    """A call that the model made before."""

    function: Function
    id: str | None = None


class Turn(Body):
    """A message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    tool_name: str | None = None


class Options(Body):
    """Options of an answer."""

    num_predict: Whole | None = None
    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: Whole | None = None
    stop: str | list[str] | None = None


class Chat(Body):
    """The body of /api/chat. Without messages, the model is loaded, or unloaded with a `keep_alive` of 0."""

    model: str
    messages: list[Turn] = Field([])
    stream: bool | None = None
    tools: list[Json] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    options: Options | None = None
    format: str | Json | None = None
    keep_alive: str | float | None = None


class Named(Body):
    """The body of /api/show."""

    model: str | None = None
    name: str | None = None


def request(body: Chat) -> Request:
    options, given = chosen(body.options or Options(), OPTIONS)
    if options.get("max_tokens", 0) < 0:  # until the answer ends
        del options["max_tokens"]
    fields = {name: f"options.{field}" for name, field in given.items()}
    if body.format:
        options["response_format"] = _form(body.format)
        fields["response_format"] = "format"
    if body.messages and body.messages[-1].role == "assistant" and not body.messages[-1].tool_calls:
        options["continue_final_message"] = True
    for index, turn in enumerate(body.messages):
        pictures = range(len(turn.images or ()))
        fields |= {f"messages[{index}].content[{i}]": f"messages[{index}].images[{i}]" for i in pictures}
    return Request(
        messages=_messages(body.messages),
        tools=body.tools or None,
        thinking=bool(body.think),
        options=options,
        stream=body.stream is not False and bool(body.messages),
        keep_s=_keep_s(body.keep_alive),
        fields=fields,
    )


def _form(form: str | Json) -> Json:
    """`json`, or a schema."""
    return {"type": "json_object"} if form == "json" else {"type": "json_schema", "json_schema": {"schema": form}}


def _messages(turns: list[Turn]) -> list[Message]:
    """Ollama's calls need no ids: a result belongs to the first open call, or to the first of its tool."""
    messages: list[Message] = []
    opened: list[Json] = []  # calls without a result
    for index, turn in enumerate(turns):
        message = _message(turn)
        if turn.tool_calls:
            opened = message["tool_calls"]
            for number, call in enumerate(opened):
                call.setdefault("id", f"call_{index}_{number}")
        elif turn.role == "tool" and opened:
            named = [call for call in opened if call["id"] == turn.tool_call_id]
            named += [call for call in opened if call["function"]["name"] == turn.tool_name]
            answered = [*named, *opened][0]
            message.setdefault("tool_call_id", answered["id"])
            opened = [call for call in opened if call is not answered]
        messages.append(message)
    return messages


def _message(turn: Turn) -> Json:
    message: Json = {"role": turn.role, "content": turn.content}
    if turn.images:
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in turn.images]
        message["content"] = [*pictures, {"type": "text", "text": turn.content}]
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        message["tool_calls"] = [_call(call) for call in turn.tool_calls]
    return message


def _call(call: Call) -> Json:
    out: Json = {"type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
    return out if call.id is None else {**out, "id": call.id}


def _data_url(image: str) -> str:
    """Ollama's pictures are base64 without more; whatever else this is, base64's reader refuses it."""
    return image if image.startswith("data:") else f"data:image/any;base64,{image}"


def _keep_s(keep_alive: str | float | None) -> float | None:
    """Seconds to keep the model: a number of them, or a duration such as 1h30m; below 0 is for ever."""
    if keep_alive is None:
        return None
    try:
        seconds = float(keep_alive)
    except ValueError:
        text = str(keep_alive)
        if not re.fullmatch(rf"-?({_DURATION.pattern})+", text):
            field = "keep_alive"
            raise RequestError("invalid", f"{field}: expected seconds or 5m, found {text[:40]!a}", field) from None
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))
        seconds = -1 if text.startswith("-") else seconds
    return seconds if seconds >= 0 else float("inf")


def response(asked: Asked[Chat], result: Result) -> Json:
    return {**_head(asked), "message": _said(result), **_end(result)}


def loaded(asked: Asked[Chat]) -> Json:
    """The answer to a request without a question."""
    reason = "unload" if asked.request.keep_s == 0 else "load"
    return {**_head(asked), "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason}


async def events(asked: Asked[Chat], items: AsyncIterator[Item]) -> AsyncIterator[Event]:
    async for item in items:
        if isinstance(item, Reading):
            continue
        end = _end(item.result) if item.result else {"done": False}
        yield {**_head(asked), "message": _said(item), **end}


def _said(made: Result | Chunk) -> Json:
    message: Json = {"role": "assistant", "content": made.text}
    if made.thought:
        message["thinking"] = made.thought
    if made.tool_calls:
        message["tool_calls"] = [_called(call) for call in made.tool_calls]
    return message


def _called(call: ToolCall) -> Json:
    return {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}


def _head(asked: Asked[Any]) -> Json:
    return {"model": asked.body.model, "created_at": _time(asked.at)}


def _end(result: Result) -> Json:
    """Counts, and times in nanoseconds."""
    t, n = result.timings, result.tokens
    return {
        "done": True,
        "done_reason": "length" if result.finish_reason == "length" else "stop",
        "total_duration": int(1e9 * (t.load_s + t.time_to_first_token_s + t.decode_s)),
        "load_duration": int(1e9 * t.load_s),
        "prompt_eval_count": n.prompt,
        "prompt_eval_duration": int(1e9 * t.prefill_s),
        "eval_count": n.completion,
        "eval_duration": int(1e9 * t.decode_s),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def failed(failure: RequestError) -> Json:
    return {"error": failure.message}


# ── about the model ──────────────────────────────────────────────────────────────────────────────────────────────────


def tags(card: Card) -> Json:
    """The answer of /api/tags."""
    about = {"name": card.name, "model": card.name, "modified_at": _time(card.created), "size": card.size}
    return {"models": [{**about, "digest": card.digest, "details": _details(card)}]}


def running(card: Card, loaded: bool) -> Json:
    """The answer of /api/ps."""
    (model,) = tags(card)["models"]
    return {"models": [{**model, "size_vram": 0, "context_length": card.context}] if loaded else []}


def show(card: Card, body: Named) -> Json:
    """The answer of /api/show."""
    name = body.model or body.name or ""
    if name.removesuffix(":latest") != card.name:
        raise RequestError("unknown", f"model {name[:80]!a} not found; it is {card.name}")
    media = ["vision", "audio"] if card.sees_and_hears else []
    return {
        "modelfile": "",
        "parameters": "",
        "template": card.template,
        "modified_at": _time(card.created),
        "details": _details(card),
        "model_info": {
            "general.architecture": "gemma4",
            "general.parameter_count": card.parameters,
            "gemma4.context_length": card.context,
        },
        "capabilities": ["completion", *media, "tools", "thinking"],
    }


def _details(card: Card) -> Json:
    size = card.parameters / 1e9
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "gemma4",
        "families": ["gemma4"],
        "parameter_size": f"{size:.1f}B" if size >= 1 else f"{1000 * size:.1f}M",
        "quantization_level": card.quantisation,
    }


CHAT = Dialect(Chat, request, response, events, failed, failed, ndjson, NDJSON, loaded)
