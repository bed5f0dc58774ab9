"""Those who answer: a model in this process, or servers that speak OpenAI's API.

In: a model, or addresses, and the folder of files that bodies may name. Out: `Answerer`s, as many as may work at once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx

from ..errors import BusyError, Gemma4Error, InputError, NativeError
from ..model import Gemma4
from ..records import Result
from ..server import openai, responses
from ..server.card import Card
from ..server.failure import RequestError
from ..server.request import Asked, Dialect, Request, checked
from .journal import Answer
from .lines import CHAT, RESPONSES, Entry, Line, with_files
from .run import Answerer, AwayError, FailedError

DIALECTS: Mapping[str, Dialect[Any]] = {CHAT: openai.CHAT, RESPONSES: responses.RESPONSES}
WAITING = 2  # questions for each place of a model: while one is answered, the next one's pictures are read
NO_TIME = (429, 502, 503, 504)  # statuses by which a server says that it cannot just now
CONNECT_S = 10.0


def of_model(model: Gemma4, places: int, files_from: Path | None) -> list[Answerer]:
    """A model with so many places answers."""
    card = Card.of(model.bundle, model.context)

    async def ask(line: Line) -> Answer:
        dialect = DIALECTS[line.url]
        try:
            body = checked(dialect.body, line.body)
            request = dialect.request(body)
            try:
                results = await _answers(model, request)
            except BusyError as error:
                raise AwayError(str(error)) from error
            except NativeError as error:  # the engine ended, perhaps of this line
                raise FailedError(Answer(500, dialect.failed(RequestError.of(error)))) from error
            except Gemma4Error as error:
                raise RequestError.of(error, request.fields) from error
        except RequestError as error:
            return Answer(error.status, dialect.failed(error))
        asked = Asked(body, request, card, secrets.token_hex(12), int(time.time()))
        return Answer(200, dialect.response(asked, *results))

    return [Answerer(card.name, _reading(ask, files_from))] * (WAITING * places)


async def _answers(model: Gemma4, request: Request) -> list[Result]:
    """A question's answers, as many as it asks for."""
    how = {"tools": request.tools, "thinking": request.thinking, **request.options}
    results: dict[int, Result] = {}
    async with aclosing(model.astream_answers(request.messages, request.n, **how)) as chunks:
        async for number, chunk in chunks:
            if chunk.result:
                results[number] = chunk.result
    return [results[number] for number in range(request.n)]


def _reading(ask: Callable[[Line], Awaitable[Answer]], files_from: Path | None) -> Callable[[Entry], Awaitable[Answer]]:
    """Read the line, and the files that it names, then ask it. What cannot be read is answered by an error."""

    async def read(entry: Entry) -> Answer:
        try:
            line = await asyncio.to_thread(entry.read)
            body = await asyncio.to_thread(with_files, line.body, files_from)
        except InputError as error:
            failure = RequestError("invalid", str(error))
            return Answer(failure.status, openai.failed(failure))
        return await ask(Line(line.custom_id, line.url, body))

    return read


def of_server(
    client: httpx.AsyncClient, address: str, places: int, key: str | None, files_from: Path | None
) -> list[Answerer]:
    """A server at an address such as http://host:8080 answers, so many lines at once."""
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def ask(line: Line) -> Answer:
        body = {**line.body, "stream": False}
        try:
            reply = await client.post(f"{address}{line.url}", json=body, headers=headers)
        except httpx.ReadTimeout as error:
            raise slow(client.timeout.read) from error
        except httpx.HTTPError as error:
            raise AwayError(str(error) or type(error).__name__) from error
        if reply.status_code in NO_TIME:
            after = reply.headers.get("retry-after", "")
            raise AwayError(f"status {reply.status_code}", float(after) if after.isdecimal() else None)
        answer = Answer(reply.status_code, _body(reply))
        if reply.status_code >= 500:
            raise FailedError(answer)
        return answer

    return [Answerer(address, _reading(ask, files_from))] * places


def slow(limit_s: float | None) -> FailedError:
    """No answer came in time: perhaps the line's fault, and so one of its tries."""
    return FailedError(Answer(504, {"error": {"message": f"no answer within {limit_s:g} s", "code": "504"}}))


def _body(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        return {"error": {"message": reply.text[:1000], "code": None}}


def client(limit_s: float) -> httpx.AsyncClient:
    """For servers, which may take their time for an answer. To be closed."""
    timeout = httpx.Timeout(limit_s, connect=CONNECT_S)
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=None), trust_env=False)
