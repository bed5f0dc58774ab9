"""What is asked and what comes back, whichever API it came by: `Request`, `Asked`, `Item`, `Dialect`.

Every adapter is a `Dialect`: pure functions between an API's bodies and these records.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from ..records import Chunk, Message
from ..runtime.answer import Reading as Reading
from .card import Card
from .failure import RequestError

Json: TypeAlias = dict[str, Any]
Event: TypeAlias = "Json | str"


class Body(BaseModel):
    """A request's body. What it does not name is ignored, as the originals do; a wrong type is an error."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Request:
    """One question; without messages, only the wish that the model is loaded.

    `options`: keywords of `Gemma4.chat`. `n`: answers to it. `keep_s`: seconds that the model is kept afterwards.
    `fields`: where the body has what a message of the library names, such as `messages[0]`: `system`.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, object]] | None = None
    thinking: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    n: int = 1
    keep_s: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked(Generic[B]):
    """A request under way. `id`: unique, without the prefix that each API has; `at`: seconds since 1970."""

    body: B
    request: Request
    card: Card
    id: str
    at: int


@dataclass(frozen=True)
class Piece(Chunk):
    """What is new in one of the answers. `number`: of the answer, from 0."""

    number: int = 0

    @classmethod
    def of(cls, number: int, chunk: Chunk) -> Piece:
        return cls(**vars(chunk), number=number)


Item: TypeAlias = "Reading | Piece"  # one Reading comes first: the positions that were held already


def parsed(data: bytes) -> object:
    """JSON, or a RequestError. Half surrogate pairs, NaN and nesting beyond any use are refused."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError("invalid", f"the body is not JSON: {error}") from error


def checked(kind: type[B], body: object) -> B:
    """The body as its API's own record. Raises RequestError, which names the field."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = _path(first["loc"], body)
        raise RequestError("invalid", f"{path or 'the body'}: {first['msg']}", path or None) from error


def _path(parts: Sequence[int | str], body: object) -> str:
    """("messages", 0, "role") -> messages[0].role

    pydantic puts the type of a block before the fields in it, and a union's member after its field; both are no fields.
    """
    path, tag = "", None
    for part in parts:
        if part == tag or (isinstance(part, str) and not (part.isidentifier() and isinstance(body, dict))):
            tag = None
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
        body = _item(body, part)
        tag = _item(body, "type")
    return path.lstrip(".")


def _item(value: object, key: object) -> object:
    """What is at a key or an index; None for nothing."""
    try:
        return value[key]  # type: ignore[index]
    except (LookupError, TypeError):
        return None


@dataclass(frozen=True)
class Dialect(Generic[B]):
    """One API's way to ask and to answer.

    `response`: of what was asked, with one result or `n`. `failed`: an error as a body; `failed_late`: as an event of a
    stream. `loaded`: what a request without messages gets; None where that is an error.
    """

    body: type[B]
    request: Callable[[B], Request]
    response: Callable[..., Json]
    events: Callable[[Asked[B], AsyncIterator[Item]], AsyncIterator[Event]]
    failed: Callable[[RequestError], Json]
    failed_late: Callable[[RequestError], Json]
    encode: Callable[[Event], bytes]
    media_type: str
    loaded: Callable[[Asked[B]], Json] | None = None


_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumped(value: object) -> bytes:
    """Compact JSON."""
    return _COMPACT.encode(value).encode("utf-8", "replace")


def sse(event: Event) -> bytes:
    """A server-sent event without a name."""
    return b"data: %s\n\n" % (event.encode() if isinstance(event, str) else dumped(event))


def named_sse(event: Event) -> bytes:
    """A server-sent event that has its type as its name."""
    assert isinstance(event, dict)
    return b"event: %s\n%s" % (event["type"].encode(), sse(event))


def ndjson(event: Event) -> bytes:
    """A line of JSON."""
    return dumped(event) + b"\n"


SSE, NDJSON = "text/event-stream", "application/x-ndjson"
