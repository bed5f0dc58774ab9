"""Keep everybody who can answer at work, until every line has its answer.

In: entries, and those who answer. Out: answers, to the journal. A line that nobody could answer just now goes back, and
whoever failed at it rests for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import InputError
from ..server import openai
from ..server.failure import RequestError
from .journal import Answer, Journal
from .lines import Entry, Line, with_files

AHEAD = 64  # answers that may wait for one before them, where the order counts
REST_S, LONGEST_REST_S = 0.5, 30.0
PATIENCE_S = 600.0  # without an answer of anybody
MOST_TRIES = 4  # of one line that answerers fail at; that one cannot be reached is no fault of the line
Tell: TypeAlias = Callable[[Journal], None]


class AwayError(Exception):
    """Whoever was asked cannot be reached or has no time. `after`: seconds until it may be asked again, or None."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class FailedError(Exception):
    """Whoever was asked has failed at this line, and may not fail again. `answer`: what it said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.status))
        self.answer = answer


@dataclass(frozen=True)
class Answerer:
    """One who answers a line at a time. `ask` raises AwayError and FailedError; `name` is for messages."""

    name: str
    ask: Callable[[Line], Awaitable[Answer]]


async def run(
    entries: Sequence[Entry],
    answerers: Sequence[Answerer],
    journal: Journal,
    *,
    files_from: Path | None = None,
    ordered: bool = False,
    tell: Tell = lambda journal: None,
) -> None:
    """Answer every entry that the journal lacks. Raises InputError where nobody can be reached for PATIENCE_S."""
    left: deque[tuple[Entry, int]] = deque((e, 0) for e in entries if e.custom_id not in journal.done)
    under_way, away, changed = 0, set[str](), asyncio.Condition()

    def something_to_do() -> bool:
        return not under_way or (bool(left) and (not ordered or journal.held < AHEAD))

    async def work(answerer: Answerer) -> None:
        nonlocal under_way
        rest = REST_S
        while True:
            async with changed:
                await changed.wait_for(something_to_do)
                if not left:
                    return
                entry, tries = left.popleft()
                under_way += 1
            pause = 0.0
            try:
                answer = await _answer(answerer, entry, files_from)
                journal.add(entry, answer)
                rest = REST_S
                away.discard(answerer.name)
                tell(journal)
            except AwayError as error:
                left.appendleft((entry, tries))
                away.add(answerer.name)
                pause, rest = error.after or rest, min(2 * rest, LONGEST_REST_S)
            except FailedError as error:
                if tries + 1 < MOST_TRIES:
                    left.append((entry, tries + 1))
                else:
                    journal.add(entry, error.answer)
                    tell(journal)
            finally:
                async with changed:
                    under_way -= 1
                    changed.notify_all()
            await asyncio.sleep(pause)

    names = {answerer.name for answerer in answerers}
    watch = asyncio.ensure_future(_watch(lambda: away == names, names))
    everybody: asyncio.Future[Any] = asyncio.gather(*map(work, answerers))
    try:
        await asyncio.wait([watch, everybody], return_when=asyncio.FIRST_COMPLETED)
        (watch if watch.done() else everybody).result()
    finally:
        watch.cancel()
        everybody.cancel()
        await asyncio.gather(watch, everybody, return_exceptions=True)


async def _watch(nobody: Callable[[], bool], names: set[str]) -> None:
    """Return never; raise InputError once nobody could be reached for too long."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        await asyncio.sleep(min(1.0, PATIENCE_S / 4))
        since = since if nobody() else loop.time()
        if loop.time() - since > PATIENCE_S:
            raise InputError(f"servers: nobody has answered for {PATIENCE_S:g} s ({', '.join(sorted(names))})")


async def _answer(answerer: Answerer, entry: Entry, files_from: Path | None) -> Answer:
    try:
        line = await asyncio.to_thread(entry.read)
        body = await asyncio.to_thread(with_files, line.body, files_from)
    except InputError as error:
        failure = RequestError("invalid", str(error))
        return Answer(failure.status, openai.failed(failure))
    return await answerer.ask(Line(line.custom_id, line.url, body))
