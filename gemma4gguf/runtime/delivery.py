"""From whoever makes items to whoever waits for them: a thread, or a coroutine.

In: a way to start some work that puts items. Out: the items. Leaving early, at whatever point, ends the work.
"""

from __future__ import annotations

import asyncio
import queue
import warnings
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Due:
    """What whoever waits is to do, in its own thread."""

    do: Callable[[], None]


Put: TypeAlias = Callable[[Any], object]
"""Takes `Admitted`, then items, then None or an error; `Warned` and `Due` at any time. Any thread may call it."""
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
        item = None  # as in `_wanted`
        leave()


async def adelivered(start: Start, wait: bool | float = True) -> AsyncGenerator[Any, None]:
    """The same for a coroutine: no thread waits for an item. Cancelling its task ends the work, too."""
    loop, items, leave = asyncio.get_running_loop(), asyncio.Queue[Any](), _nothing
    door = _DOORS.setdefault(loop, _Door())

    def put(item: Any) -> None:
        try:
            door.bring(loop, partial(items.put_nowait, item))
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
        item = None  # as in `_wanted`
        leave()


class _Door:
    """Where threads leave what an event loop is to do. The loop is woken once for all that is there when it comes."""

    def __init__(self) -> None:
        self._brought = deque[Callable[[], None]]()
        self._woken = False

    def bring(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        """Have something done in the loop; any thread may. Raises RuntimeError where the loop is closed."""
        self._brought.append(due)
        if not self._woken:
            self._woken = True  # before the loop can look
            try:
                loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                self._woken = False
                raise

    def _take(self) -> None:
        self._woken = False  # before it looks: what comes from now on wakes the loop again
        while self._brought:
            self._brought.popleft()()


_DOORS = weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Door]()


def together(starts: Sequence[Start], most: int) -> Start:
    """Several works as one: their items as (number, item), at most `most` of them at a time."""

    def start(put: Put) -> Callable[[], None]:
        leaves: list[Callable[[], None]] = []
        left = deque(starts)
        ended = 0

        def begin() -> None:
            if left:
                leaves.append(left.popleft()(partial(numbered, len(leaves))))

        def numbered(number: int, item: Any) -> None:
            passed = isinstance(item, (BaseException, Admitted, Warned))
            put(Due(over) if item is None else item if passed else (number, item))

        def over() -> None:
            nonlocal ended
            ended += 1
            if left or ended < len(leaves):
                begin()
            else:
                put(None)

        def leave() -> None:
            for one in [*leaves]:
                one()
            left.clear()  # what has pictures goes now: these functions refer to each other, and only the garbage
            leaves.clear()  # collector frees them

        try:
            for _ in range(most):
                begin()
        except BaseException:
            leave()
            raise
        return leave

    return start


def _nothing() -> None: ...


def _wanted(item: Any) -> bool:
    """Whether an item is one. Raises the error that it is, gives the warning, does what is due."""
    if isinstance(item, BaseException):
        try:
            raise item
        finally:
            del item  # else it and this frame refer to each other, and keep the question until garbage is collected
    if isinstance(item, Warned):
        warnings.warn(item.text, _CATEGORIES.get(item.category, UserWarning), stacklevel=6)
    if isinstance(item, Due):
        item.do()
    return not isinstance(item, (Admitted, Warned, Due))


def _limit(wait: bool | float) -> float | None:
    """Seconds to wait for a place; None for as long as it takes."""
    return None if isinstance(wait, bool) else wait


def _out_of_patience(wait: bool | float) -> BusyError:
    return BusyError(f"the model is at work for others, and waiting {wait} s was not enough")
