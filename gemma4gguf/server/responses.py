"""OpenAI's responses, without a memory: bodies to requests, answers to items and events.

Items of the input become messages: calls and thoughts belong to the assistant's message beside them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from ..records import Chunk, Result, ToolCall
from .failure import CODES, RequestError
from .openai import Effort, Whole, chosen, failed, thinking, told
from .request import SSE, Asked, Body, Dialect, Event, Item, Json, Reading, Request, named_sse

OPTIONS: Mapping[str, str] = {"max_output_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p"}
KEPT = ("previous_response_id", "conversation")  # fields that ask for what another answer left behind


# ── what comes in ────────────────────────────────────────────────────────────────────────────────────────────────────


class Text(Body):
    """A part that is text."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class Image(Body):
    """A picture, as a data: URL."""

    type: Literal["input_image"]
    image_url: str


class Sound(Body):
    """A clip, in base64."""

    type: Literal["input_audio"]
    input_audio: Json


Part = Annotated[Text | Image | Sound, Field(discriminator="type")]


def _parts(content: object) -> object:
    """A text is a list of one part."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


Content = Annotated[list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[Part])]


class Turn(Body):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class Call(Body):
    """A call that the model made before."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutput(Body):
    """What a call returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningText(Body):
    """A piece of a thought."""

    text: str


class Reasoning(Body):
    """A thought of an earlier answer."""

    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None


def _type(item: object) -> object:
    return f"<{item.get('type') or 'message'}>" if isinstance(item, dict) else None


InputItem = Annotated[
    Annotated[Turn, Tag("<message>")]
    | Annotated[Call, Tag("<function_call>")]
    | Annotated[CallOutput, Tag("<function_call_output>")]
    | Annotated[Reasoning, Tag("<reasoning>")],
    Discriminator(
        _type,
        custom_error_type="item",
        custom_error_message="expected an item of type message, function_call, function_call_output or reasoning",
    ),
]


def _items(given: object) -> object:
    """A text is the user's message."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class Tool(Body):
    """A function's declaration."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Json | None = None


class ReasoningMode(Body):
    """How hard to think."""

    effort: Effort | None = None


class TextMode(Body):
    """What the answer must look like."""

    format: Json | None = None


class Responses(Body):
    """The body of /v1/responses."""

    input: Annotated[
        list[InputItem], BeforeValidator(_items, json_schema_input_type=str | list[InputItem]), Field(min_length=1)
    ]
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Json | None = None
    text: TextMode | None = None
    reasoning: ReasoningMode | None = None
    previous_response_id: str | None = None
    conversation: str | Json | None = None


def request(body: Responses) -> Request:
    for name in KEPT:
        if getattr(body, name) is not None:
            raise RequestError(
                "invalid", f"{name}: answers are not kept here; send the whole conversation as input", name
            )
    options, fields = chosen(body, OPTIONS)
    if body.tool_choice is not None:
        options["tool_choice"] = _choice(body.tool_choice)
    if body.text and body.text.format:
        options["response_format"] = {**body.text.format, "json_schema": body.text.format}
        fields["response_format"] = "text.format"
    messages: list[Json] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
        fields["messages[0]"] = "instructions"
    for index, item in enumerate(body.input):
        _add(messages, item)
        fields.setdefault(f"messages[{len(messages) - 1}]", f"input[{index}]")
    for index in range(len(body.tools or ())):
        fields |= {f"tools[{index}].function.{name}": f"tools[{index}].{name}" for name in ("name", "parameters")}
    return Request(
        messages=messages,
        tools=[_declared(tool) for tool in body.tools or ()] or None,
        thinking=thinking(body.reasoning.effort if body.reasoning else None, None),
        options=options,
        stream=bool(body.stream),
        fields=fields,
    )


def _add(messages: list[Json], item: Turn | Call | CallOutput | Reasoning) -> None:
    """Add an item to the messages: as one of its own, or to the assistant's last."""
    if isinstance(item, CallOutput):
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _told(item.output)})
        return
    if isinstance(item, Turn) and item.role != "assistant":
        messages.append({"role": item.role, "content": _told(item.content)})
        return
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if last is None or isinstance(item, Reasoning) or (isinstance(item, Turn) and last["content"]):
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    if isinstance(item, Reasoning):
        last["reasoning_content"] = "".join(piece.text for piece in item.content or ())
    elif isinstance(item, Turn):
        last["content"] = _told(item.content)
    else:
        function = {"name": item.name, "arguments": item.arguments}
        last.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _told(parts: list[Part]) -> str | list[Json]:
    return told([_part(part) for part in parts])


def _part(part: Text | Image | Sound) -> Json:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.image_url}}
    return {"type": "input_audio", "input_audio": part.input_audio}


def _choice(choice: str | Json) -> str | Json:
    """A tool that is named lies one level deeper in a chat's `tool_choice`."""
    return choice if isinstance(choice, str) else {"type": choice.get("type"), "function": choice}


def _declared(tool: Tool) -> Json:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────────────

_STREAMED = {
    "reasoning": ("reasoning_text", "response.reasoning_text"),
    "message": ("output_text", "response.output_text"),
}


@dataclass
class _Output:
    """An item of the answer while it grows. `kind`: reasoning, message or function_call."""

    kind: str
    id: str
    index: int
    text: str = ""
    call: ToolCall | None = None

    def item(self, done: bool) -> Json:
        item: Json = {"type": self.kind, "id": self.id, "status": "completed" if done else "in_progress"}
        if self.call:
            return {**item, "call_id": self.call.id, "name": self.call.name, "arguments": self.text}
        content = [self.part()] if done else []
        return {**item, "content": content, **({"role": "assistant"} if self.kind == "message" else {"summary": []})}

    def part(self) -> Json:
        part: Json = {"type": _STREAMED[self.kind][0], "text": self.text}
        return {**part, "annotations": [], "logprobs": []} if self.kind == "message" else part

    def told(self, event: str, **more: object) -> Json:
        where: Json = {"item_id": self.id, "output_index": self.index}
        return {"type": event, **where, **({} if self.call else {"content_index": 0}), **more}

    def begin(self) -> Iterator[Json]:
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.item(done=False)}
        if not self.call:
            yield self.told("response.content_part.added", part=self.part())

    def add(self, text: str) -> Json:
        self.text += text
        if self.call:
            return self.told("response.function_call_arguments.delta", delta=text)
        more: Json = {"logprobs": []} if self.kind == "message" else {}
        return self.told(f"{_STREAMED[self.kind][1]}.delta", delta=text, **more)

    def end(self) -> Iterator[Json]:
        if self.call:
            yield self.told("response.function_call_arguments.done", name=self.call.name, arguments=self.text)
        else:
            more: Json = {"logprobs": []} if self.kind == "message" else {}
            yield self.told(f"{_STREAMED[self.kind][1]}.done", text=self.text, **more)
            yield self.told("response.content_part.done", part=self.part())
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.item(done=True)}


class _Outputs:
    """The items of an answer, and the events that tell how they grow."""

    def __init__(self, id: str) -> None:
        self._id, self._items = id, list[_Output]()

    def grow(self, chunk: Chunk) -> Iterator[Json]:
        pieces: list[tuple[str, str, ToolCall | None]] = [
            ("reasoning", chunk.thought, None),
            ("message", chunk.text, None),
        ]
        pieces += [("function_call", json.dumps(c.arguments, ensure_ascii=False), c) for c in chunk.tool_calls]
        for kind, text, call in pieces:
            if not text:
                continue
            if not self._items or self._items[-1].kind != kind or call:
                yield from self.end()
                self._items.append(_Output(kind, f"{kind}_{self._id}_{len(self._items)}", len(self._items), "", call))
                yield from self._items[-1].begin()
            yield self._items[-1].add(text)

    def end(self) -> Iterator[Json]:
        """The last item is whole."""
        if self._items:
            yield from self._items[-1].end()

    def items(self) -> list[Json]:
        return [output.item(done=True) for output in self._items]


def response(asked: Asked[Responses], result: Result) -> Json:
    outputs = _Outputs(asked.id)
    for _ in outputs.grow(Chunk(result.text, result.thought, result.tool_calls)):
        pass
    return _response(asked, result, outputs.items())


async def events(asked: Asked[Responses], items: AsyncIterator[Item]) -> AsyncIterator[Event]:
    number = 0
    try:
        async for event in _events(asked, items):
            yield {**event, "sequence_number": number}
            number += 1
    except RequestError as failure:
        yield failed_late(failure, number)


async def _events(asked: Asked[Responses], items: AsyncIterator[Item]) -> AsyncIterator[Json]:
    outputs = _Outputs(asked.id)
    for event in ("response.created", "response.in_progress"):
        yield {"type": event, "response": _response(asked, None, [])}
    async for item in items:
        if isinstance(item, Reading):
            continue
        for grown in outputs.grow(item):
            yield grown
        if item.result:
            for ended in outputs.end():
                yield ended
            whole = _response(asked, item.result, outputs.items())
            yield {"type": f"response.{whole['status']}", "response": whole}


def _response(asked: Asked[Responses], result: Result | None, output: list[Json]) -> Json:
    body, cut = asked.body, result is not None and result.finish_reason == "length"
    return {
        "id": f"resp_{asked.id}",
        "object": "response",
        "created_at": asked.at,
        "status": "in_progress" if result is None else "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": asked.card.name,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": body.temperature,
        "tool_choice": body.tool_choice or "auto",
        "tools": [{"strict": False, **tool.model_dump()} for tool in body.tools or ()],
        "top_p": body.top_p,
        "metadata": {},
        "usage": result and _usage(result),
    }


def _usage(result: Result) -> Json:
    n = result.tokens
    return {
        "input_tokens": n.prompt,
        "input_tokens_details": {"cached_tokens": n.reused, "cache_write_tokens": 0},
        "output_tokens": n.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": n.prompt + n.completion,
    }


def failed_late(failure: RequestError, number: int = 0) -> Json:
    about = {"code": CODES.get(failure.kind), "message": failure.message, "param": failure.field}
    return {"type": "error", **about, "sequence_number": number}


RESPONSES = Dialect(Responses, request, response, events, failed, failed_late, named_sse, SSE)
