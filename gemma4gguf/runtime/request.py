"""One answer that is prepared and not begun: a thread streams it, or a coroutine does.

In: how to start the answer, and who is told of progress. Out: chunks. Leaving a stream early, at whatever point, ends
the work for it within a step.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, replace

from ..records import Chunk, Result
from .answer import Progress
from .delivery import Start, adelivered, delivered


@dataclass(frozen=True)
class Request:
    """`start`: its items are Progress and Chunk. `wait`: for a place, see Options. `on_progress` is told (positions
    read, of how many). `dropped`: the turns that were left out of the prompt.
    """

    start: Start
    wait: bool | float
    on_progress: Callable[[int, int], None] | None = None
    dropped: int = 0

    def stream(self) -> Generator[Chunk, None, None]:
        """The answer for a thread, which waits for each chunk."""
        with closing(delivered(self.start, self.wait)) as items:
            for item in items:
                if chunk := self._told(item):
                    yield chunk

    async def astream(self) -> AsyncGenerator[Chunk, None]:
        """The answer for a coroutine."""
        async with aclosing(adelivered(self.start, self.wait)) as items:
            async for item in items:
                if chunk := self._told(item):
                    yield chunk

    def _told(self, item: Progress | Chunk) -> Chunk | None:
        if isinstance(item, Chunk):
            return replace(item, result=replace(item.result, dropped_turns=self.dropped)) if item.result else item
        if self.on_progress:
            self.on_progress(item.done, item.total)
        return None


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
