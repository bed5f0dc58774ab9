"""Anthropic's messages: bodies to requests, answers to bodies and events.

A body's blocks become messages as OpenAI has them: a tool's result is a message of its own there. `fields` remembers
where each came from, for errors.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..records import Chunk, Message, Result, Tokens, ToolCall
from .failure import KINDS, RequestError
from .openai import Whole, chosen, told
from .request import SSE, Asked, Body, Dialect, Event, Item, Json, Reading, Request, named_sse

OPTIONS: Mapping[str, str] = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}  # any other names a tool
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


# ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────────


class Text(Body):
    """A block of text."""

    type: Literal["text"]
    text: str


class Source(Body):
    """Where a picture is: in the request itself. An address is refused later, with its own message."""

    type: Literal["base64", "url"]
    media_type: str = ""
    data: str = ""
    url: str = ""


class Image(Body):
    """A picture."""

    type: Literal["image"]
    source: Source


class ToolUse(Body):
    """A call that the model made before."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Json


def _blocks(content: object) -> object:
    """A text is a list of one block."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Shown = Annotated[Text | Image, Field(discriminator="type")]
Told = Annotated[list[Text], BeforeValidator(_blocks, json_schema_input_type=str | list[Text])]


class ToolResult(Body):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[list[Shown], BeforeValidator(_blocks, json_schema_input_type=str | list[Shown])] = Field([])
    is_error: bool | None = None


class Thinking(Body):
    """A thought of an earlier answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinking(Body):
    """A thought that nobody can read."""

    type: Literal["redacted_thinking"]


Block = Annotated[Text | Image | ToolUse | ToolResult | Thinking | RedactedThinking, Field(discriminator="type")]


class Turn(Body):
    """A message."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], BeforeValidator(_blocks, json_schema_input_type=str | list[Block])]


class Tool(Body):
    """A tool's declaration."""

    name: str
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: Json | None = None


class ThinkingMode(Body):
    """Whether to think, and for how many tokens."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Whole | None = None


class ToolChoice(Body):
    """Which tools may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class CountTokens(Body):
    """The body of /v1/messages/count_tokens."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    model: str | None = None
    system: Told | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingMode | None = None


class Form(Body):
    """What the answer must look like."""

    type: Literal["json_schema"]
    schema_: Json = Field(alias="schema")


class OutputConfig(Body):
    """How to answer."""

    format: Form | None = None


class Messages(CountTokens):
    """The body of /v1/messages."""

    max_tokens: Whole
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    stop_sequences: list[str] | None = None
    output_config: OutputConfig | None = None


def question(body: CountTokens) -> Request:
    """What is asked, without how it is answered."""
    messages: list[Message] = []
    fields: dict[str, str] = {}
    if body.system:
        messages.append({"role": "system", "content": told([_part(block) for block in body.system])})
        fields["messages[0]"] = "system"
    for index, turn in enumerate(body.messages):
        for message, paths in _messages(turn, f"messages[{index}]"):
            at = f"messages[{len(messages)}]"
            fields |= {at + name: path for name, path in paths.items()}
            messages.append(message)
    tools = [_declared(tool) for tool in body.tools or ()]
    fields |= {f"tools[{i}].function.parameters": f"tools[{i}].input_schema" for i in range(len(tools))}
    fields |= {f"tools[{i}].function.name": f"tools[{i}].name" for i in range(len(tools))}
    thinking = body.thinking is not None and body.thinking.type != "disabled"
    return Request(messages, tools=tools or None, thinking=thinking, fields=fields)


def request(body: Messages) -> Request:
    asked, (options, fields) = question(body), chosen(body, OPTIONS)
    if asked.thinking and body.thinking and body.thinking.budget_tokens is not None:
        options["max_thinking_tokens"] = body.thinking.budget_tokens
        fields["max_thinking_tokens"] = "thinking.budget_tokens"
    if body.tool_choice:
        options["tool_choice"] = CHOICES.get(body.tool_choice.type) or {"function": {"name": body.tool_choice.name}}
    if body.output_config and body.output_config.format:
        form = {"schema": body.output_config.format.schema_}
        options["response_format"] = {"type": "json_schema", "json_schema": form}
        fields["response_format"] = "output_config.format"
    if body.messages[-1].role == "assistant" and not asked.messages[-1].get("tool_calls"):
        options["continue_final_message"] = True
    return replace(asked, options=options, stream=bool(body.stream), fields={**asked.fields, **fields})


def _messages(turn: Turn, where: str) -> Iterator[tuple[Json, dict[str, str]]]:
    """A turn as messages, each with where its parts are in the body."""
    if turn.role == "assistant":
        yield _answer(turn), {"": where}
        return
    parts: list[Json] = []
    paths = {"": where}
    for index, block in enumerate(turn.content):
        at = f"{where}.content[{index}]"
        if isinstance(block, ToolResult):
            content = told([_part(part) for part in block.content])
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}, {"": at}
        elif isinstance(block, (Text, Image)):
            paths[f".content[{len(parts)}]"] = at
            parts.append(_part(block))
        else:
            raise RequestError("invalid", f"{at}: a block of type {block.type} is the assistant's", at)
    if parts:
        yield {"role": turn.role, "content": told(parts)}, paths


def _answer(turn: Turn) -> Json:
    message: Json = {"role": "assistant", "content": "".join(b.text for b in turn.content if isinstance(b, Text))}
    if thought := "".join(b.thinking for b in turn.content if isinstance(b, Thinking)):
        message["reasoning_content"] = thought
    if calls := [ToolCall(b.name, b.input, b.id).openai() for b in turn.content if isinstance(b, ToolUse)]:
        message["tool_calls"] = calls
    return message


def _part(block: Text | Image) -> Json:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    source = block.source
    url = source.url if source.type == "url" else f"data:{source.media_type};base64,{source.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _declared(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.input_schema or {"type": "object", "properties": {}}}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────────


def response(asked: Asked[Messages], result: Result) -> Json:
    content: list[Json] = []
    if result.thought:
        content.append({"type": "thinking", "thinking": result.thought, "signature": ""})
    if result.text:
        content.append({"type": "text", "text": result.text})
    content += [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in result.tool_calls]
    return {
        **_head(asked),
        "content": content,
        "stop_reason": STOP_REASONS[result.finish_reason],
        "usage": _usage(result.tokens),
    }


async def events(asked: Asked[Messages], items: AsyncIterator[Item]) -> AsyncIterator[Event]:
    index, open_kind = -1, ""
    async for item in items:
        if isinstance(item, Reading):
            usage = _usage(Tokens(item.total, 0, 0, reused=item.done))
            yield {"type": "message_start", "message": {**_head(asked), "content": [], "usage": usage}}
            continue
        for block, delta in _pieces(item):
            if block["type"] != open_kind or open_kind == "tool_use":
                if open_kind:
                    yield {"type": "content_block_stop", "index": index}
                index, open_kind = index + 1, block["type"]
                yield {"type": "content_block_start", "index": index, "content_block": block}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        if item.result:
            if open_kind:
                yield {"type": "content_block_stop", "index": index}
            end = {"stop_reason": STOP_REASONS[item.result.finish_reason], "stop_sequence": None}
            yield {"type": "message_delta", "delta": end, "usage": _usage(item.result.tokens)}
    yield {"type": "message_stop"}


def _pieces(chunk: Chunk) -> Iterator[tuple[Json, Json]]:
    """What is new, as a block as it begins and what is added to it."""
    if chunk.thought:
        block: Json = {"type": "thinking", "thinking": "", "signature": ""}
        yield block, {"type": "thinking_delta", "thinking": chunk.thought}
    if chunk.text:
        yield {"type": "text", "text": ""}, {"type": "text_delta", "text": chunk.text}
    for call in chunk.tool_calls:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        yield block, {"type": "input_json_delta", "partial_json": arguments}


def _head(asked: Asked[Any]) -> Json:
    about = {"id": f"msg_{asked.id}", "type": "message", "role": "assistant", "model": asked.card.name}
    return {**about, "stop_reason": None, "stop_sequence": None}


def _usage(tokens: Tokens) -> Json:
    """Anthropic's input tokens are those that were not found in the cache."""
    return {
        "input_tokens": tokens.prompt - tokens.reused,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.reused,
        "output_tokens": tokens.completion,
    }


def failed(failure: RequestError) -> Json:
    _, _, kind = KINDS[failure.kind]
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


MESSAGES = Dialect(Messages, request, response, events, failed, failed, named_sse, SSE)
