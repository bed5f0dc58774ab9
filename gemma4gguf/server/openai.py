"""OpenAI's chat completions: bodies to requests, answers to bodies and chunks.

Names that other servers have made usual are understood too: `reasoning_content` for thoughts,
`chat_template_kwargs.enable_thinking`, `top_k`, `min_p`, `repeat_penalty`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..answers import MOST_ANSWERS
from ..media.containers import av
from ..records import Chunk, Result
from .card import Card
from .failure import CODES, KINDS, RequestError
from .request import SSE, Asked, Body, Dialect, Event, Item, Json, Reading, Request, sse

Whole = Annotated[int, Field(ge=-(1 << 53), le=1 << 53)]  # what JSON's readers agree about
Messages = Annotated[list[Json], Field(min_length=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
LONGEST_ID = 10  # digits of a token's id
NO_THINKING = {None, "none", "minimal"}
# Fields of the body that are options of an answer; the last name that is given counts.
OPTIONS: Mapping[str, str] = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "repetition_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "max_thinking_tokens": "max_thinking_tokens",
    "seed": "seed",
    "stop": "stop",
    "tool_choice": "tool_choice",
    "response_format": "response_format",
    "grammar": "grammar",
    "continue_final_message": "continue_final_message",
}


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: bool | None = None


class TemplateOptions(Body):
    """What other servers give to a chat template."""

    enable_thinking: bool | None = None


class ChatCompletion(Body):
    """The body of /v1/chat/completions."""

    messages: Messages
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = None
    max_thinking_tokens: Whole | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    seed: Whole | None = None
    stop: str | list[str] | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    response_format: Json | None = None
    grammar: str | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None


def request(body: ChatCompletion) -> Request:
    options, fields = chosen(body, OPTIONS)
    if body.logit_bias:
        options["logit_bias"] = {_token(name): bias for name, bias in body.logit_bias.items()}
    if options.get("top_k") == -1:  # vLLM's word for all of them
        options["top_k"] = 0
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "invalid",
            "add_generation_prompt: the last message is gone on with (continue_final_message), or not",
            "add_generation_prompt",
        )
    template = body.chat_template_kwargs
    return Request(
        messages=body.messages,
        tools=body.tools or None,
        thinking=thinking(body.reasoning_effort, template.enable_thinking if template else None),
        options=options,
        stream=bool(body.stream),
        n=body.n or 1,
        fields=fields,
    )


def _token(name: str) -> int:
    """A token's id, a key of JSON."""
    if not name.isdecimal() or len(name) > LONGEST_ID:
        raise RequestError("invalid", f"logit_bias: expected ids of tokens, found {name[:40]!a}", "logit_bias")
    return int(name)


def chosen(body: Body, table: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The options that a body gives, and the field that gave each."""
    given = {name: value for name in table if (value := getattr(body, name)) is not None}
    return {table[name]: value for name, value in given.items()}, {table[name]: name for name in given}


def told(parts: list[Json]) -> str | list[Json]:
    """A message's content. One text is a text: templates may write it in another way than a list of one."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def thinking(effort: Effort | None, enabled: bool | None) -> bool:
    """Whether to think first: as the template is told, else by the effort that is asked for."""
    return effort not in NO_THINKING if enabled is None else enabled


def response(asked: Asked[ChatCompletion], *results: Result) -> Json:
    choices = [_choice(number, result) for number, result in enumerate(results)]
    head = _head(asked, "chat.completion")
    return {**head, "choices": choices, "usage": usage(*results), "timings": timings(results[0])}


def _choice(number: int, result: Result) -> Json:
    message = {**result.message(), "content": result.text or (None if result.tool_calls else "")}
    about = {"logprobs": _logprobs(result), "finish_reason": result.finish_reason}
    return {"index": number, "message": message, **about}


async def events(asked: Asked[ChatCompletion], items: AsyncIterator[Item]) -> AsyncIterator[Event]:
    head, calls = _head(asked, "chat.completion.chunk"), Counter[int]()
    results = []

    def told(number: int, delta: Json, finish_reason: str | None = None, **more: object) -> Json:
        choice = {"index": number, "delta": delta, "logprobs": more.pop("logprobs", None)}
        return {**head, "choices": [{**choice, "finish_reason": finish_reason}], **more}

    for number in range(asked.request.n):
        yield told(number, {"role": "assistant", "content": ""})
    async for item in items:
        if isinstance(item, Reading):
            continue
        delta = _delta(item, calls[item.number])
        if delta or item.logprobs:
            yield told(item.number, delta, logprobs=_logprobs(item))
        calls[item.number] += len(item.tool_calls)
        if item.result:
            results.append(item.result)
            yield told(item.number, {}, item.finish_reason, timings=timings(item.result))
    if asked.body.stream_options and asked.body.stream_options.include_usage:
        yield {**head, "choices": [], "usage": usage(*results), "timings": timings(results[0])}
    yield "[DONE]"


def _delta(chunk: Chunk, calls: int) -> Json:
    delta: Json = {}
    if chunk.thought:
        delta["reasoning_content"] = chunk.thought
    if chunk.text:
        delta["content"] = chunk.text
    if chunk.tool_calls:
        delta["tool_calls"] = [{"index": calls + i, **call.openai()} for i, call in enumerate(chunk.tool_calls)]
    return delta


def _logprobs(made: Result | Chunk) -> Json | None:
    return {"content": [found.openai() for found in made.logprobs], "refusal": None} if made.logprobs else None


def _head(asked: Asked[Any], what: str) -> Json:
    return {"id": f"chatcmpl-{asked.id}", "object": what, "created": asked.at, "model": asked.card.name}


def usage(*results: Result) -> Json:
    """Token counts. The prompt counts once."""
    n, completion = results[0].tokens, sum(result.tokens.completion for result in results)
    return {
        "prompt_tokens": n.prompt,
        "completion_tokens": completion,
        "total_tokens": n.prompt + completion,
        "prompt_tokens_details": {"cached_tokens": n.reused, "image_tokens": n.image, "audio_tokens": n.audio},
    }


def timings(result: Result) -> Json:
    """Counts, milliseconds and drafts, by the names that llama-server gives them."""
    t, n, d = result.timings, result.tokens, result.draft
    read = n.prompt - n.reused
    return {
        "cache_n": n.reused,
        "prompt_n": read,
        "prompt_ms": 1e3 * t.prefill_s,
        "prompt_per_second": read / t.prefill_s if t.prefill_s else 0.0,
        "predicted_n": n.completion,
        "predicted_ms": 1e3 * t.decode_s,
        "predicted_per_second": t.tokens_per_s,
        "draft_n": d.proposed,
        "draft_n_accepted": d.accepted,
    }


def failed(failure: RequestError) -> Json:
    _, kind, _ = KINDS[failure.kind]
    about = {"message": failure.message, "type": kind, "param": failure.field, "code": CODES.get(failure.kind)}
    return {"error": about}


def models(card: Card) -> Json:
    """The answer of /v1/models."""
    return {"object": "list", "data": [model(card)]}


def model(card: Card) -> Json:
    """One model, also as Anthropic's clients expect it."""
    media = ["image", "audio", *(["video"] if av() else [])] if card.sees_and_hears else []
    return {
        "id": card.name,
        "object": "model",
        "type": "model",
        "display_name": card.name,
        "created": card.created,
        "owned_by": "gemma4gguf",
        "context_length": card.context,
        "max_model_len": card.context,
        "input_modalities": ["text", *media],
    }


CHAT = Dialect(ChatCompletion, request, response, events, failed, failed, sse, SSE)
