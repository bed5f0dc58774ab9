"""Those who answer: a model in this process, or servers that speak OpenAI's API.

In: a model, or addresses. Out: `Answerer`s, as many as may work at once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import httpx

from ..errors import BusyError, Gemma4Error, NativeError
from ..model import Gemma4
from ..records import Result
from ..server import openai, responses
from ..server.card import Card
from ..server.failure import RequestError
from ..server.request import Asked, Dialect, Request, checked
from .journal import Answer
from .lines import CHAT, RESPONSES, Line
from .run import Answerer, AwayError, FailedError

DIALECTS: Mapping[str, Dialect[Any]] = {CHAT: openai.CHAT, RESPONSES: responses.RESPONSES}
WAITING = 2  # questions for each place of a model: while one is answered, the next one's pictures are read
NO_TIME = (429, 502, 503, 504)  # statuses by which a server says that it cannot just now
CONNECT_S, ANSWER_S = 10.0, 3600.0


def of_model(model: Gemma4, places: int) -> list[Answerer]:
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

    return [Answerer(card.name, ask)] * (WAITING * places)


async def _answers(model: Gemma4, request: Request) -> list[Result]:
    """A question's answers, as many as it asks for."""
    how = {"tools": request.tools, "thinking": request.thinking, **request.options}
    results: dict[int, Result] = {}
    async with aclosing(model.astream_answers(request.messages, request.n, **how)) as chunks:
        async for number, chunk in chunks:
            if chunk.result:
                results[number] = chunk.result
    return [results[number] for number in range(request.n)]


def of_server(client: httpx.AsyncClient, address: str, places: int, key: str | None) -> list[Answerer]:
    """A server at an address such as http://host:8080 answers, so many lines at once."""
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def ask(line: Line) -> Answer:
        body = {**line.body, "stream": False}
        try:
            reply = await client.post(f"{address}{line.url}", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise AwayError(f"{address}: {error}") from error
        if reply.status_code in NO_TIME:
            after = reply.headers.get("retry-after", "")
            raise AwayError(f"{address}: status {reply.status_code}", float(after) if after.isdecimal() else None)
        answer = Answer(reply.status_code, _body(reply))
        if reply.status_code >= 500:
            raise FailedError(answer)
        return answer

    return [Answerer(address, ask)] * places


def _body(reply: httpx.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        return {"error": {"message": reply.text[:1000], "code": None}}


def client() -> httpx.AsyncClient:
    """For servers, which may take their time. To be closed."""
    timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=None), trust_env=False)
