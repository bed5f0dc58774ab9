"""Keep everybody who can answer at work, until every line has its answer.

In: entries, and those who answer. Out: answers, to the journal. A line that nobody could answer just now goes back, and
whoever failed at it rests for a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import InputError
from .journal import Answer, Journal
from .lines import Entry

AHEAD = 64  # answers that may wait for one before them, where the order counts
REST_S, LONGEST_REST_S = 0.5, 30.0
PATIENCE_S = 600.0  # without an answer of anybody
MOST_TRIES = 4  # of one line that answerers fail at; that one cannot be reached is no fault of the line
Tell: TypeAlias = Callable[[Journal], None]


class AwayError(Exception):
    """Whoever was asked cannot be reached or has no time. `after`: seconds until it may be asked again, or None."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message, after)  # what it is made of again in another process
        self.message, self.after = message, after


class FailedError(Exception):
    """Whoever was asked has failed at this line, and may not fail again. `answer`: what it said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


@dataclass(frozen=True)
class Answerer:
    """One who answers a line at a time. `ask` raises AwayError and FailedError; `name` is for messages."""

    name: str
    ask: Callable[[Entry], Awaitable[Answer]]


async def run(
    entries: Sequence[Entry],
    answerers: Sequence[Answerer],
    journal: Journal,
    *,
    ordered: bool = False,
    tell: Tell = lambda journal: None,
) -> None:
    """Answer every entry that the journal lacks. Raises InputError where nobody can be reached for PATIENCE_S."""
    left: deque[tuple[Entry, int]] = deque((e, 0) for e in entries if e.custom_id not in journal.done)
    unanswered, under_way, away = len(left), 0, dict[str, str]()
    changed, finished = asyncio.Condition(), asyncio.Event()

    def something_to_do() -> bool:
        return bool(left) and (not ordered or not under_way or journal.held < AHEAD)

    def answered(entry: Entry, answer: Answer) -> None:
        nonlocal unanswered
        journal.add(entry, answer)
        tell(journal)
        unanswered -= 1
        if not unanswered:
            finished.set()

    async def work(answerer: Answerer) -> None:
        nonlocal under_way
        rest = REST_S
        while True:
            async with changed:
                await changed.wait_for(something_to_do)
                entry, tries = left.popleft()
                under_way += 1
            pause = 0.0
            try:
                answered(entry, await answerer.ask(entry))
                rest = REST_S
                away.pop(answerer.name, None)
            except AwayError as error:
                left.appendleft((entry, tries))
                away[answerer.name] = error.message
                pause, rest = error.after or rest, min(2 * rest, LONGEST_REST_S)
            except FailedError as error:
                if tries + 1 == MOST_TRIES:
                    answered(entry, error.answer)
                else:  # perhaps another does better, after all others' turn where the order is free
                    (left.appendleft if ordered else left.append)((entry, tries + 1))
            finally:
                async with changed:
                    under_way -= 1
                    changed.notify_all()
            await asyncio.sleep(pause)

    if not unanswered:
        return
    names = {answerer.name for answerer in answerers}
    watch = asyncio.ensure_future(_watch(lambda: away if away.keys() == names else {}))
    everybody: asyncio.Future[Any] = asyncio.gather(*map(work, answerers))
    end = asyncio.ensure_future(finished.wait())
    try:
        done, _ = await asyncio.wait([watch, everybody, end], return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
    finally:
        for task in (watch, everybody, end):
            task.cancel()
        await asyncio.gather(watch, everybody, end, return_exceptions=True)


async def _watch(away: Callable[[], dict[str, str]]) -> None:
    """Return never; raise InputError once nobody could be reached for too long."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        await asyncio.sleep(min(1.0, PATIENCE_S / 4))
        said = away()
        since = since if said else loop.time()
        if loop.time() - since > PATIENCE_S:
            told = "; ".join(f"{name}: {said[name]}" for name in sorted(said))
            raise InputError(f"nobody has answered for {PATIENCE_S:g} s ({told})")
