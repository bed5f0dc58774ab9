"""Several answers to one prompt, which is read once: whole, or as they are made, for threads and for coroutines.

In: what `generate` and `chat` take, and how many answers. Out: results in order, or chunks with their answer's number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, overload

from typing_extensions import Unpack

from .arguments import whole
from .records import Chunk, Message, Result
from .runtime.asking import ChatOptions, QuestionOptions
from .runtime.request import Prepares, Request

MOST_ANSWERS = 128


class SeveralAnswers(Prepares):
    """Mixed into `Gemma4`, which prepares requests."""

    @overload
    def answers(self, prompt: str, n: int, **options: Unpack[QuestionOptions]) -> list[Result]: ...
    @overload
    def answers(self, prompt: Sequence[Message], n: int, **options: Unpack[ChatOptions]) -> list[Result]: ...
    def answers(self, prompt: str | Sequence[Message], n: int, **options: Any) -> list[Result]:
        """`n` answers to a prompt or to messages, with the options of `generate` or of `chat`.

        Their seeds are `seed`, `seed` + 1, …. The prompt is read once. With `parallel` places so many answers are made
        together, else one after another. `on_progress` is told of the first one's reading.
        """
        results: dict[int, Result] = {}
        with closing(self._several(prompt, n, options).streams()) as chunks:
            for number, chunk in chunks:
                if chunk.result:
                    results[number] = chunk.result
        return [results[number] for number in range(n)]

    @overload
    def stream_answers(
        self, prompt: str, n: int, **options: Unpack[QuestionOptions]
    ) -> Generator[tuple[int, Chunk], None, None]: ...
    @overload
    def stream_answers(
        self, prompt: Sequence[Message], n: int, **options: Unpack[ChatOptions]
    ) -> Generator[tuple[int, Chunk], None, None]: ...
    def stream_answers(
        self, prompt: str | Sequence[Message], n: int, **options: Any
    ) -> Generator[tuple[int, Chunk], None, None]:
        """`answers`, piece by piece: the number of an answer, from 0, and what is new in it."""
        return self._several(prompt, n, options).streams()

    @overload
    def astream_answers(
        self, prompt: str, n: int, **options: Unpack[QuestionOptions]
    ) -> AsyncGenerator[tuple[int, Chunk], None]: ...
    @overload
    def astream_answers(
        self, prompt: Sequence[Message], n: int, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[tuple[int, Chunk], None]: ...
    async def astream_answers(
        self, prompt: str | Sequence[Message], n: int, **options: Any
    ) -> AsyncGenerator[tuple[int, Chunk], None]:
        """`stream_answers` for coroutines; as `astream`."""
        request = await asyncio.to_thread(self._several, prompt, n, options)
        async with aclosing(request.astreams()) as chunks:
            async for number, chunk in chunks:
                yield number, chunk

    def _several(self, prompt: str | Sequence[Message], n: int, options: Any) -> Request:
        n = whole("n", n, lambda v: 1 <= v <= MOST_ANSWERS, f"1 to {MOST_ANSWERS}")
        one = self._question(prompt, options) if isinstance(prompt, str) else self._chat(prompt, options)
        return replace(one, n=n)
