"""`Conversation`: the messages and media of a chat, and the loop that calls its tools until there is an answer.

Questions come in; answers go out, and the conversation as one JSON file. Every answer makes new messages of the old
ones, so that a question that fails or is interrupted loses nothing. Does not know templates, tokens or llama.cpp.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from .arguments import several, showing, whole
from .bundle.newfile import new_file
from .chat.exchange import Exchange
from .chat.functions import Function
from .chat.messages import prepare_messages, prepare_tools
from .chat.saved import Saved
from .chat.turns import starts
from .errors import InputError
from .limits import current
from .listening import Ear
from .media.audio import SAMPLE_RATE
from .media.encoded import clip_bytes, clip_format, picture_bytes, picture_type
from .media.rgb import Images
from .records import Chunk, Message, Result, Tokens, ToolCall
from .runtime.asking import GENERATE_OPTIONS, ChatOptions, OnFull, Turn, TurnOptions, parted
from .runtime.fitting import LATEST_SOUND
from .runtime.hearing import Hearing
from .runtime.request import Prepares, alast, last
from .transcription import question_for

Tool: TypeAlias = "Mapping[str, object] | Callable[..., object]"
Allow: TypeAlias = Callable[[ToolCall], "bool | str"]


class OpenedOptions(TypedDict, total=False):
    """Keywords of `Gemma4.open_conversation`; `Conversation.open` has the defaults."""

    tools: Sequence[Tool] | None
    on_full: OnFull
    most_calls: int
    allow: Allow | None


class ConversationOptions(TypedDict, total=False):
    """Keywords of `Gemma4.conversation`; `Conversation` has the defaults."""

    system: str | None
    messages: Sequence[Message]
    tools: Sequence[Tool]
    thinking: bool
    on_full: OnFull
    most_calls: int
    allow: Allow | None


class Model(Protocol):
    """What a conversation needs of a model."""

    def stream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> Generator[Chunk, None, None]: ...

    def astream_chat(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[Chunk, None]: ...

    def count_tokens(
        self, prompt: str | Sequence[Message], *, tools: Sequence[Mapping[str, object]] | None = None
    ) -> Tokens: ...


class Conversation:
    """A chat that keeps its messages and media. Made by `model.conversation()`.

    `system`: told first. `messages`: what it begins with, as `messages` of another gives it. `tools`: declarations as
    the OpenAI API has them, or Python functions, which are called with what the model asks for: at most `most_calls`
    times in a row, and only where `allow(call)` gives True; False or a text, the reason, refuses, and the model is
    told. `thinking`: think before each answer. `on_full`: "drop" leaves the oldest whole turns out where the context is
    full, and counts them in `dropped`; "error" raises ContextError.
    A question that fails, or a stream that is closed before its end, leaves the conversation as it was.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        tools: Sequence[Tool] = (),
        thinking: bool = False,
        on_full: OnFull = "drop",
        most_calls: int = 8,
        allow: Allow | None = None,
    ) -> None:
        self._model, self._thinking, self._on_full, self._allow = model, thinking, on_full, allow
        self._most_calls = whole("most_calls", most_calls, lambda v: v >= 1, "a whole number, at least 1")
        self._functions: dict[str, Function] = {}
        self._tools = self._declared(tools)
        first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._messages = [*first, *messages]
        self.dropped = 0
        if self._messages:
            prepare_messages(self._messages, local_files=False)

    def _declared(self, tools: Sequence[Tool]) -> list[dict[str, object]]:
        declared: list[dict[str, object]] = []
        for tool in tools:
            if not isinstance(tool, Mapping):
                function = Function(tool)
                if function.name in self._functions:
                    raise InputError(f"tools: two functions are called {function.name}")
                self._functions[function.name] = function
                tool = function.declaration
            declared.append(dict(tool))
        return prepare_tools(declared) or []

    @property
    def messages(self) -> list[Message]:
        """The conversation as messages of the OpenAI API: plain JSON, media as data: URLs and base64."""
        return list(self._messages)

    # ── questions ────────────────────────────────────────────────────────────────────────────────────────────────

    @showing(Turn, GENERATE_OPTIONS)
    def say(self, text: str | None = None, **options: Unpack[TurnOptions]) -> Result:
        """Ask, with pictures and sound, and return the answer. Without a text, go on after `tool_result`.

        `images` and `audio` as for `generate`: their bytes are kept. The result has `finish_reason` "tool_calls" where
        the model asks for a tool that is no function, or `most_calls` is reached.
        """
        return last(self.stream(text, **options))

    @showing(Turn, GENERATE_OPTIONS)
    def stream(self, text: str | None = None, **options: Unpack[TurnOptions]) -> Generator[Chunk, None, None]:
        """`say`, piece by piece. Before each call of a function there is a chunk with its `tool_calls` and `result`."""
        for function in self._functions.values():
            if function.is_async:
                raise InputError(f"tools: {function.name} is a coroutine function; ask with asay or astream")
        exchange, how = self._asked(text, options)
        return self._answering(exchange, how, self._model.stream_chat(exchange.messages, **how))

    def _answering(
        self, exchange: Exchange, how: ChatOptions, chunks: Generator[Chunk, None, None]
    ) -> Generator[Chunk, None, None]:
        while True:
            with closing(chunks):
                for chunk in chunks:
                    self._take(exchange, chunk)
                    yield chunk
            if not exchange.calls:
                return
            exchange.called([self._refused(call) or self._functions[call.name].answer(call) for call in exchange.calls])
            chunks = self._model.stream_chat(exchange.messages, **how)

    @showing(Turn, GENERATE_OPTIONS)
    async def asay(self, text: str | None = None, **options: Unpack[TurnOptions]) -> Result:
        """`say` for coroutines. Tools may be coroutine functions; others are called in a thread."""
        return await alast(self.astream(text, **options))

    @showing(Turn, GENERATE_OPTIONS)
    async def astream(self, text: str | None = None, **options: Unpack[TurnOptions]) -> AsyncGenerator[Chunk, None]:
        """`stream` for coroutines."""
        exchange, how = await asyncio.to_thread(self._asked, text, options)
        while True:
            async with aclosing(self._model.astream_chat(exchange.messages, **how)) as chunks:
                async for chunk in chunks:
                    self._take(exchange, chunk)
                    yield chunk
            if not exchange.calls:
                return
            answers = [self._refused(call) or await self._functions[call.name].aanswer(call) for call in exchange.calls]
            exchange.called(answers)

    def _asked(self, text: str | None, options: TurnOptions) -> tuple[Exchange, ChatOptions]:
        """A question on its way, and how the model is asked."""
        turn, rest = parted(Turn, options)
        before = self._messages
        exchange = Exchange(before, self._question(text, turn), self._functions, self._most_calls)
        how: ChatOptions = {
            "tools": self._tools or None,
            "thinking": self._thinking,
            "on_full": self._on_full,
            "on_progress": turn.on_progress,
            **rest,  # type: ignore[typeddict-item]
        }
        return exchange, how

    # ── spoken questions ─────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, text: str = "", *, images: Images = (), transcript_prompt: str | None = None) -> Ear:
        """Listen to the next question: `with conversation.hear() as ear`, `ear.feed(samples, rate)`, `ear.answer()`.

        What is fed is read at once, so that the answer need not wait for it. `text`, `images`: told before the sound.
        `transcript_prompt`: our question, where what was heard goes on as text: after 30 s, and where sound would
        begin too late in the conversation. Raises InputError for a model that cannot listen, ContextError where there
        is no room to.
        """
        if not isinstance(self._model, Prepares):
            raise InputError("this conversation's model does not listen; open a bundle with Gemma4")
        self._check_answered()
        before, beside = self._messages, [_picture(picture_bytes(image)) for image in several(images)]  # type: ignore[arg-type]
        how: ChatOptions = {"tools": self._tools or None, "thinking": self._thinking, "on_full": self._on_full}
        question = transcript_prompt or question_for()
        return Ear(self._model, before, beside, text, how, partial(self._heard, self._model, before, beside), question)

    def _heard(
        self,
        model: Prepares,
        before: list[Message],
        beside: Sequence[object],
        text: str,
        frames: NDArray[np.float32] | None,
        how: ChatOptions,
        place: Hearing | None,
    ) -> Generator[Chunk, None, None]:
        clip = [] if frames is None else [_clip(clip_bytes((frames.reshape(-1), SAMPLE_RATE)))]
        words = [{"type": "text", "text": text}] if text else []
        question: list[Message] = [{"role": "user", "content": [*beside, *words, *clip]}]
        exchange = Exchange(before, question, self._functions, self._most_calls)
        if place:  # it listens without the turns that there was no room for
            exchange.leave_out(place.dropped)
        told = ""
        with closing(self._answering(exchange, how, model._chat(exchange.messages, how, place).stream())) as chunks:
            try:
                for chunk in chunks:
                    told = "" if chunk.result else told + chunk.text
                    yield chunk
            except GeneratorExit:
                if told.strip() and self._messages is before:
                    self._messages = [*exchange.messages, {"role": "assistant", "content": told.strip()}]
                    self.dropped += exchange.dropped
                raise

    def _take(self, exchange: Exchange, chunk: Chunk) -> None:
        """Take a chunk in. The conversation changes once, before the last chunk is given out."""
        if chunk.result is None or not exchange.take(chunk.result):
            return
        if self._messages is not exchange.before:
            raise InputError("the conversation went on before this answer ended; one question at a time, or fork() it")
        self._messages = exchange.messages
        self.dropped += exchange.dropped

    def _refused(self, call: ToolCall) -> dict[str, object] | None:
        """What the model is told in place of a call that is not allowed."""
        allowed = True if self._allow is None else self._allow(call)
        if allowed is True:
            return None
        return call.answer(f"error: this call was refused{f': {allowed}' if allowed else ''}")

    def tool_result(self, call: ToolCall, content: str) -> None:
        """Answer a call that the last answer asks for. When all are answered, `say()` lets the model go on."""
        if call.id not in self._open_calls():
            raise InputError(f"call: {call.name} with id {call.id!a} does not wait for an answer")
        self._messages = [*self._messages, call.answer(content)]

    def _open_calls(self) -> list[object]:
        """Ids of calls that have no answer yet."""
        answered: list[object] = []
        for message in reversed(self._messages):
            if message["role"] != "tool":
                calls = message.get("tool_calls") or []
                assert isinstance(calls, list)
                return [call["id"] for call in calls if call.get("id") not in answered]
            answered.append(message.get("tool_call_id"))
        return []

    def _check_answered(self) -> None:
        if waiting := self._open_calls():
            raise InputError(f"{len(waiting)} tool calls wait for an answer: give each a tool_result, then say()")

    def _question(self, text: str | None, turn: Turn) -> list[Message]:
        images, audio = several(turn.images), several(turn.audio)
        self._check_answered()
        if text is None:
            if images or audio or not self._messages or self._messages[-1]["role"] != "tool":
                raise InputError("text: expected a question; only after tool_result is there something to go on from")
            return []
        seen = [_picture(picture_bytes(image)) for image in images]  # type: ignore[arg-type]
        heard = [_clip(clip_bytes(clip)) for clip in audio]  # type: ignore[arg-type]
        if not seen and not heard:
            return [{"role": "user", "content": text}]
        parts: list[object] = [*seen, {"type": "text", "text": text}]
        late = heard and self._positions([{"role": "user", "content": parts}]) > LATEST_SOUND
        return [{"role": "user", "content": [*heard, *parts] if late else [*parts, *heard]}]

    def _positions(self, more: Sequence[Message]) -> int:
        return self._model.count_tokens([*self._messages, *more], tools=self._tools or None).prompt

    # ── what becomes of it ───────────────────────────────────────────────────────────────────────────────────────

    def undo(self) -> None:
        """Take back the last question, with its pictures, calls and answers. Raises InputError where there is none."""
        turns = starts(self._messages)
        if not turns:
            raise InputError("there is no question to take back")
        self._messages = self._messages[: turns[-1]]

    def fork(self) -> Conversation:
        """A conversation that begins as this one; what is said in one of them does not reach the other."""
        twin = Conversation.__new__(Conversation)
        twin.__dict__.update(self.__dict__)
        return twin

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to one JSON file, whole or not at all; a file of that name is replaced.

        Functions are written as declarations. `open` and the command line's /load read it. Raises ConversionError.
        """
        data = Saved([dict(m) for m in self._messages], self._thinking, self._tools, self.dropped).to_json().encode()
        with new_file(Path(path), len(data), force=True) as file:
            file.write(data)

    @classmethod
    def open(
        cls,
        model: Model,
        path: str | os.PathLike[str],
        *,
        tools: Sequence[Tool] | None = None,
        on_full: OnFull = "drop",
        most_calls: int = 8,
        allow: Allow | None = None,
    ) -> Conversation:
        """What `save` wrote. `tools`: functions cannot be saved; give them again. None: the saved declarations.

        Nothing that the file names is opened. Raises InputError for any other file.
        """
        where = Path(path)
        if not where.is_file():
            raise InputError(f"{where}: no such file")
        if where.stat().st_size > (most := current().saved_bytes):
            raise InputError(f"{where}: longer than {most:,} bytes; this is no saved conversation")
        try:
            saved = Saved.from_json(where.read_bytes())
        except OSError as error:
            raise InputError(f"{where}: {error.strerror or error}") from error
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        if saved.attached:
            raise InputError(f"{where}: has attachments without a question; ask it in the command line's chat first")
        declared = saved.tools if tools is None else tools
        found = cls(model, tools=declared, thinking=saved.thinking, on_full=on_full, most_calls=most_calls, allow=allow)
        found._messages, found.dropped = [*saved.messages], saved.dropped
        return found


def _picture(data: bytes) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": f"data:{picture_type(data)};base64,{_base64(data)}"}}


def _clip(data: bytes) -> dict[str, object]:
    return {"type": "input_audio", "input_audio": {"data": _base64(data), "format": clip_format(data)}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
