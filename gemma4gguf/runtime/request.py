"""Answers to one prompt that are prepared and not begun: a thread streams them, or a coroutine does.

In: how to start an answer, and who is told of progress. Out: chunks. Leaving a stream early, at whatever point, ends
the work for it within a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace

from ..records import Chunk, Message, Result
from .answer import Reading
from .asking import ChatOptions, Progress, QuestionOptions
from .delivery import Start, adelivered, delivered, together
from .hearing import Hearing


@dataclass(frozen=True)
class Request:
    """`start`: of an answer by its number; its items are Reading and Chunk. `wait`: for a place, see Options.
    `on_progress` is told (positions read, of how many) for the first answer. `places`: how many answers can be made
    together. `n`: how many are wanted. `dropped`: the turns that were left out of the prompt.
    """

    start: Callable[[int], Start]
    wait: bool | float
    on_progress: Progress | None = None
    places: int = 1
    n: int = 1
    dropped: int = 0

    def _start(self) -> Start:
        return together([self.start(number) for number in range(self.n)], self.places)

    def streams(self) -> Generator[tuple[int, Chunk], None, None]:
        """The answers for a thread, which waits for each chunk: (number, chunk)."""
        with closing(delivered(self._start(), self.wait)) as items:
            for number, item in items:
                if chunk := self._told(number, item):
                    yield number, chunk

    async def astreams(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """The answers for a coroutine."""
        async with aclosing(adelivered(self._start(), self.wait)) as items:
            async for number, item in items:
                if chunk := self._told(number, item):
                    yield number, chunk

    def stream(self) -> Generator[Chunk, None, None]:
        """A single answer for a thread."""
        with closing(self.streams()) as chunks:
            for _, chunk in chunks:
                yield chunk

    async def astream(self) -> AsyncGenerator[Chunk, None]:
        """A single answer for a coroutine."""
        async with aclosing(self.astreams()) as chunks:
            async for _, chunk in chunks:
                yield chunk

    def _told(self, number: int, item: Reading | Chunk) -> Chunk | None:
        if isinstance(item, Chunk):
            return replace(item, result=replace(item.result, dropped_turns=self.dropped)) if item.result else item
        if self.on_progress and number == 0:
            self.on_progress(item.done, item.total)
        return None


class Prepares(ABC):
    """What prepares requests: a model."""

    @abstractmethod
    def _question(self, prompt: str, options: QuestionOptions) -> Request: ...

    @abstractmethod
    def _chat(self, messages: Sequence[Message], options: ChatOptions, place: Hearing | None = None) -> Request: ...

    @abstractmethod
    def _hear(self, messages: Sequence[Message], options: ChatOptions) -> Hearing | None: ...


def last(chunks: Iterator[Chunk]) -> Result:
    """The result of an answer, once all of it was made."""
    *_, end = chunks
    assert end.result is not None
    return end.result


async def alast(chunks: AsyncIterator[Chunk]) -> Result:
    """The same for a coroutine."""
    result = None
    async for chunk in chunks:
        result = chunk.result
    assert result is not None
    return result
