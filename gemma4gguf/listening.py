"""`Ear`: one turn of a conversation that is spoken, and read while it is spoken.

Samples come in as they are recorded; the answer goes out. The model hears at most 30 s at a time, and only where sound
begins early: whatever is longer or later is heard in a prompt of its own, and goes into the conversation as text. Does
not know devices, or when a turn ends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Unpack

from .chat.turns import without_oldest
from .errors import ContextError, InputError
from .media.audio import FRAME_SECONDS, SAMPLE_RATE
from .media.framing import Framer
from .records import Chunk, Message, Result
from .runtime.asking import ChatOptions
from .runtime.hearing import Hearing
from .runtime.options import GenerateOptions
from .runtime.request import Prepares, Request, last
from .transcription import TOKENS_A_SECOND, unshared

OVERLAP = 25  # frames that two windows share, so that no word is cut in both

_Samples: TypeAlias = "NDArray[np.float32]"
Answer = Callable[[str, "_Samples | None", ChatOptions, Hearing | None], Generator[Chunk, None, None]]
"""Answers a turn of a text and a clip, in the place where the clip was heard."""


class Ear:
    """Listens for one turn. Made by `conversation.hear()`; use it in a `with` block, and feed it from one thread.

    It holds one of the model's places (`parallel`) until it is answered or the block ends. Leaving the block without an
    answer leaves the conversation as it was.
    """

    def __init__(
        self,
        model: Prepares,
        before: Sequence[Message],
        beside: Sequence[object],
        text: str,
        how: ChatOptions,
        answer: Answer,
        question: str,
    ) -> None:
        """`beside`: parts of the message that come before the sound, `text` behind them. `question`: asks for what was
        heard, where it goes into the conversation as text.
        """
        self._model, self._before, self._beside, self._text = model, before, beside, text
        self._how, self._answer, self._question = how, answer, question
        self._framer = Framer()
        self._writer = ThreadPoolExecutor(1, "gemma4gguf-ear")
        self._written: list[Future[str]] = []  # what was said in each window that is over
        self._clip: list[_Samples] = []  # frames of this window
        self._frames = 0  # of all windows
        self._in_chat, self._over = True, False
        self._place = model._hear(self._asked(_SILENCE), how) or self._apart()
        self._places = [self._place]  # of all windows
        self._left = self._place.most

    @property
    def seconds(self) -> float:
        """Seconds of sound that were fed."""
        return self._frames * FRAME_SECONDS

    @property
    def behind(self) -> float:
        """Seconds of sound that are not read yet: what an answer would have to wait for."""
        return self._place.behind

    def feed(self, samples: ArrayLike, rate: float) -> None:
        """Hear what follows: samples [n] or [n, channels] at `rate` Hz, types as for `frame`. Returns at once.

        Raises InputError for what is no sound, for another rate than before, and behind the end of the turn.
        """
        self._check()
        self._take(self._framer.feed(samples, rate))

    def pause(self) -> None:
        """Nobody speaks for a moment: read what ends the turn, too, so that its answer can begin at once.

        Feeding may go on as before. It helps most behind whole frames at 16 kHz (640 samples each): nothing of the
        sound is left to read then. Raises InputError behind the end of the turn.
        """
        self._check()
        self._place.pause()

    def end(self) -> None:
        """The turn is over: nothing more will be said. Raises InputError where nothing was."""
        if not self._over:
            self._take(self._framer.end())
            self._over = True

    def answer(self, **options: Unpack[GenerateOptions]) -> Result:
        """End the turn, and answer it."""
        return last(self.stream(**options))

    def stream(self, **options: Unpack[GenerateOptions]) -> Generator[Chunk, None, None]:
        """`answer`, piece by piece. Closed before its end, the turn stays with what was answered until then.

        That is what speaking into an answer takes; where nothing was answered yet, the conversation is as it was.
        """
        self.end()
        how: ChatOptions = {**self._how, **options}
        if self._in_chat and not self._written:
            return self._answer(self._text, np.concatenate(self._clip), how, self._place)
        self._write_down()
        return self._answer(self._said(), None, how, None)

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more, and free the place."""
        for place in self._places:
            place.close()
        self._writer.shutdown(cancel_futures=True)

    def _check(self) -> None:
        if self._over:
            raise InputError("this turn is over; listen anew")

    # ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, frames: _Samples) -> None:
        self._frames += len(frames)
        while len(frames):
            if not self._left:
                self._next_window()
            now, frames = frames[: self._left], frames[self._left :]
            self._hear(now)

    def _hear(self, frames: _Samples) -> None:
        self._place.feed(frames)
        self._clip.append(frames)
        self._left -= len(frames)

    def _next_window(self) -> None:
        """Have a full window written down, and go on in another, which begins with the end of this one."""
        end = np.concatenate(self._clip)[-OVERLAP:]
        self._write_down()
        self._place = self._apart()
        self._places.append(self._place)
        self._clip, self._left = [], self._place.most
        self._hear(end)

    def _apart(self) -> Hearing:
        """Listen in a prompt of its own, sound first."""
        self._in_chat = False
        place = self._model._hear(self._asked(_SILENCE), {})
        if place is None or place.most <= OVERLAP:
            raise ContextError("the context has no room to listen in; open the model with a larger one (context=N)")
        return place

    def _asked(self, sound: tuple[_Samples, int], question: str = "") -> list[Message]:
        """What this window is heard in, and asked."""
        parts: list[object] = [*self._beside, *_words(self._text)] if self._in_chat else []
        parts += [{"type": "audio", "audio": sound}, *_words(question or ("" if self._in_chat else self._question))]
        return [*(self._before if self._in_chat else ()), {"role": "user", "content": parts}]

    def _write_down(self) -> None:
        """Have what was said in this window written down, in its own place."""
        clip = np.concatenate(self._clip)
        messages = without_oldest(self._asked((clip.reshape(-1), SAMPLE_RATE), self._question), self._place.dropped)
        how: ChatOptions = {"temperature": 0, "max_tokens": 16 + int(TOKENS_A_SECOND * len(clip) * FRAME_SECONDS)}
        if self._in_chat:
            how |= {"tools": self._how["tools"], "tool_choice": "none", "thinking": self._how["thinking"]}
            how |= {"max_thinking_tokens": 0} if self._how["thinking"] else {}
        self._written.append(self._writer.submit(_text, self._model._chat(messages, how, self._place)))

    def _said(self) -> str:
        """All that was said, as text, words in two windows once."""
        windows = [written.result() for written in self._written]
        said = windows[0] + "".join(f" {unshared(before, text)}" for before, text in pairwise(windows))
        return f"{self._text}\n{said}".strip()


_SILENCE = np.zeros(1, np.float32), SAMPLE_RATE


def _words(text: str) -> list[object]:
    return [{"type": "text", "text": text}] if text else []


def _text(request: Request) -> str:
    return " ".join(last(request.stream()).text.split())
