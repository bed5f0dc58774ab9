"""The async twins of `Gemma4`'s questions, on the same scheduler: no thread waits for a token.

In: the same questions. Out: the same chunks and results, awaited. Preparing a question (pictures, the template, at
first the weights) takes a thread of the loop's pool for as long as it lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from typing_extensions import Unpack

from .arguments import showing
from .records import Chunk, Message, Result
from .runtime.asking import GENERATE_OPTIONS, Chat, ChatOptions, Question, QuestionOptions
from .runtime.request import Prepares, alast


class Coroutines(Prepares):
    """Mixed into `Gemma4`, which prepares requests."""

    @showing(Question, GENERATE_OPTIONS)
    async def agenerate(self, prompt: str, **options: Unpack[QuestionOptions]) -> Result:
        """`generate` for coroutines. Cancelling it, also by a timeout, frees its place within a step."""
        return await alast(self.astream(prompt, **options))

    @showing(Question, GENERATE_OPTIONS)
    async def astream(self, prompt: str, **options: Unpack[QuestionOptions]) -> AsyncGenerator[Chunk, None]:
        """`stream` for coroutines. What is wrong with the question is raised before the first chunk.

        `on_progress` is called in the loop. Leaving `async for` frees the place; `contextlib.aclosing` does it at once.
        """
        request = await asyncio.to_thread(self._question, prompt, options)
        async with aclosing(request.astream()) as chunks:
            async for chunk in chunks:
                yield chunk

    @showing(Chat, GENERATE_OPTIONS)
    async def achat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Result:
        """`chat` for coroutines; as `agenerate`."""
        return await alast(self.astream_chat(messages, **options))

    @showing(Chat, GENERATE_OPTIONS)
    async def astream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[Chunk, None]:
        """`stream_chat` for coroutines; as `astream`."""
        request = await asyncio.to_thread(self._chat, messages, options)
        async with aclosing(request.astream()) as chunks:
            async for chunk in chunks:
                yield chunk
