"""From whoever makes items to whoever waits for them: a thread, or a coroutine.

In: a way to start some work that puts items. Out: the items. Leaving early, at whatever point, ends the work.
"""

from __future__ import annotations

import asyncio
import queue
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import BusyError
from ..media.audio import AudioWarning

_CATEGORIES = {"AudioWarning": AudioWarning}


@dataclass(frozen=True)
class Admitted:
    """The first thing that is put: the work has a place now, and nobody waits for one any more."""


@dataclass(frozen=True)
class Warned:
    """A warning that whoever waits is to be given. `category`: the name of its class."""

    text: str
    category: str = "UserWarning"


Put: TypeAlias = Callable[[Any], object]
"""Takes `Admitted`, then items, then None or an error; `Warned` at any time. Any thread may call it."""
Start: TypeAlias = Callable[[Put], Callable[[], None]]
"""Starts work, and returns how to leave it, which may be done at any time, also when it has ended."""


def delivered(start: Start, wait: bool | float = True) -> Generator[Any, None, None]:
    """Yield the items for a thread, which waits for each. `wait`: seconds for a place. Raises BusyError, and errors."""
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    leave = start(items.put)
    try:
        try:
            item = items.get(timeout=_limit(wait))
        except queue.Empty:
            raise _out_of_patience(wait) from None
        while item is not None:
            if _wanted(item):
                yield item
            item = items.get()
    finally:
        leave()


async def adelivered(start: Start, wait: bool | float = True) -> AsyncGenerator[Any, None]:
    """The same for a coroutine: no thread waits for an item. Cancelling its task ends the work, too."""
    loop, items, leave = asyncio.get_running_loop(), asyncio.Queue[Any](), _nothing

    def put(item: Any) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the loop was closed: nobody waits any more
            leave()

    leave = start(put)
    try:
        try:
            item = await asyncio.wait_for(items.get(), _limit(wait))
        except asyncio.TimeoutError:
            raise _out_of_patience(wait) from None
        while item is not None:
            if _wanted(item):
                yield item
            item = await items.get()
    finally:
        leave()


def _nothing() -> None: ...


def _wanted(item: Any) -> bool:
    """Whether an item is one. Raises the error that it is, and gives the warning."""
    if isinstance(item, BaseException):
        raise item
    if isinstance(item, Warned):
        warnings.warn(item.text, _CATEGORIES.get(item.category, UserWarning), stacklevel=6)
    return not isinstance(item, (Admitted, Warned))


def _limit(wait: bool | float) -> float | None:
    """Seconds to wait for a place; None for as long as it takes."""
    return None if isinstance(wait, bool) else wait


def _out_of_patience(wait: bool | float) -> BusyError:
    return BusyError(f"the model is at work for others, and waiting {wait} s was not enough")
