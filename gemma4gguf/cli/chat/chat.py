"""One chat: the model, the conversation, and what each command does to them.

In: questions, paths, wishes. Out: answers on standard output, remarks on standard error. Knows no terminal: whoever
reads lines calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...bundle.newfile import new_file
from ...bundle.reading import EMBEDDER
from ...errors import InputError
from ...media.audio import frame
from ...media.rgb import to_rgb
from ...model import Gemma4
from ...records import Chunk, Result
from ..answering import AnswerWriter, speed
from ..show import StatusLine, note
from .background import Background
from .conversation import Conversation, Kind

WORDS: Mapping[Kind, str] = {"image": "picture", "audio": "sound clip"}
READABLE: Mapping[Kind, Callable[[Path], object]] = {"image": to_rgb, "audio": frame}  # raise InputError where not
Reading = tuple[int, int]  # positions read, of how many


class Chat:
    """`screen`: whether a person watches standard output; thoughts go there too then. `options`: of every answer."""

    def __init__(self, model: Gemma4, conversation: Conversation, options: Mapping[str, Any], *, screen: bool) -> None:
        self.model = model
        self.conversation = conversation
        self.saved: Path | None = None  # the file that may be written again without asking
        self._options = options
        self._thoughts = sys.stdout if screen else sys.stderr
        self._last: Result | None = None

    def ask(self, text: str) -> bool:
        """Ask, with what is attached. False where Ctrl-C stopped the answer."""
        return self._respond(self.conversation.ask(text))

    def retry(self) -> bool:
        """Answer the last question again."""
        asked = self.conversation.retry()
        if not asked.turns:
            raise InputError("there is no question yet")
        return self._respond(asked)

    def undo(self) -> None:
        before, self.conversation = self.conversation, self.conversation.undo()
        if before == self.conversation:
            raise InputError("there is nothing to take back")
        what = "the attachment" if before.attached else "the last question and its answer"
        note(f"took back {what}; {self._length()}")

    def reset(self) -> None:
        self.conversation = self.conversation.reset()
        note("a new chat")

    def attach(self, kind: Kind, path: Path) -> None:
        """A picture or a clip for the next question; an unreadable one is told now."""
        self.model.bundle.require(EMBEDDER)
        READABLE[kind](path)
        self.conversation = self.conversation.attach(kind, path.name, path.read_bytes())
        note(f"{path.name}: a {WORDS[kind]} that goes with the next question")

    def think(self) -> None:
        self.conversation = replace(self.conversation, thinking=not self.conversation.thinking)
        note("it thinks before it answers" if self.conversation.thinking else "it answers without thinking")

    def system(self, text: str) -> None:
        self.conversation = replace(self.conversation, system=text or None)
        note("told first from now on" if text else "nothing is told first")

    def save(self, path: Path) -> None:
        data = self.conversation.to_json().encode()
        with new_file(path, len(data), force=True) as file:
            file.write(data)
        self.saved = path
        note(f"{path}: saved, {self._length()}")

    def load(self, path: Path) -> None:
        try:
            self.conversation = Conversation.from_json(path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not a saved chat: no UTF-8 text") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.saved = path
        note(f"{path}: loaded, {self._length()}")

    def statistics(self) -> None:
        note(self._length())
        if self._last is not None:
            note(f"the last answer: {speed(self._last)}")

    def label(self) -> str:
        """What goes with the next question, to be shown where it is typed."""
        count = len(self.conversation.attached)
        return f"[{count} attached] " if count else ""

    def _length(self) -> str:
        count = sum(message["role"] == "user" for message in self.conversation.turns)
        return f"{count} {'question' if count == 1 else 'questions'} so far"

    def _respond(self, asked: Conversation) -> bool:
        """Answer the question that `asked` ends with. Only an answer, whole or stopped, changes the conversation."""
        line, writer = StatusLine(), AnswerWriter(self._thoughts)
        text = thought = ""
        result: Result | None = None

        def chunks(progress: Callable[[Reading], None]) -> Generator[Chunk | Reading, None, None]:
            yield from self.model.stream_chat(
                asked.messages,
                thinking=asked.thinking,
                on_full="drop",
                on_progress=lambda done, total: progress((done, total)),
                **self._options,
            )

        answering: Background[Chunk | Reading] = Background(chunks)
        try:
            line.tell("loading")
            for item in answering:
                if isinstance(item, tuple):
                    line.tell(f"reading {item[0]:,} of {item[1]:,}")
                    continue
                line.clear()
                text, thought, result = text + item.text, thought + item.thought, item.result
                writer.write(item)  # last: what is shown is kept
        except KeyboardInterrupt:
            line.clear()
            line.tell("stopping; Ctrl-C again leaves")
            answering.stop()
        finally:
            line.clear()
            writer.end(result)
        if result is not None:
            self._last = result
            if result.dropped_turns:
                note(f"the context is full: without the oldest {result.dropped_turns} of the questions and answers")
            if result.finish_reason == "length":
                note("the answer is cut here: --max-tokens or the context is reached")
        if text or result is not None:
            self.conversation = asked.answer(text, thought)
        if result is None:
            note("stopped" if text else "stopped; the question was not answered")
        return result is not None
