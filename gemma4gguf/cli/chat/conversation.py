"""The state of a chat: messages, the media in them, and what goes with the next question.

In: questions, answers, pictures and clips as bytes. Out: messages as the OpenAI API has them, and the chat as JSON.
A value: every step gives a new one, so a step that fails loses nothing. Knows no model and no terminal.
"""

from __future__ import annotations

import base64
import mimetypes
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from ...chat.saved import Saved

Message = dict[str, Any]
Kind = Literal["image", "audio"]


@dataclass(frozen=True)
class Conversation:
    """`turns`: user and assistant messages. `attached`: parts that the next question takes along."""

    turns: tuple[Message, ...] = ()
    system: str | None = None
    thinking: bool = False
    attached: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[Message]:
        """All messages, the system's first."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*head, *self.turns]

    def attach(self, kind: Kind, name: str, data: bytes) -> Conversation:
        """With a picture or a clip for the next question. The bytes are kept: its file may change or go."""
        return replace(self, attached=(*self.attached, _part(kind, name, data)))

    def ask(self, text: str) -> Conversation:
        """With a question, in the order that the model card advises: pictures, text, sound."""
        images = [part for part in self.attached if part["type"] == "image_url"]
        sound = [part for part in self.attached if part["type"] != "image_url"]
        words = [{"type": "text", "text": text}] if text else []
        content = [*images, *words, *sound] if self.attached else text
        return replace(self, turns=(*self.turns, {"role": "user", "content": content}), attached=())

    def answer(self, text: str, thought: str = "") -> Conversation:
        """With an answer to the last question. Templates leave out the thoughts of earlier answers."""
        message = {"role": "assistant", "content": text} | ({"reasoning_content": thought} if thought else {})
        return replace(self, turns=(*self.turns, message))

    def undo(self) -> Conversation:
        """Without what was attached last; where nothing is attached, without the last question and its answer."""
        if self.attached:
            return replace(self, attached=self.attached[:-1])
        return replace(self, turns=self.turns[: max(0, self._last_question())])

    def retry(self) -> Conversation:
        """Without the last answer: it ends with a question again. The same where there is no question."""
        return replace(self, turns=self.turns[: self._last_question() + 1])

    def reset(self) -> Conversation:
        """Without messages and media; the system text and thinking stay."""
        return replace(self, turns=(), attached=())

    def _last_question(self) -> int:
        asked = [index for index, message in enumerate(self.turns) if message["role"] == "user"]
        return asked[-1] if asked else -1

    def to_json(self) -> str:
        """The whole chat, media included; `messages` is what the OpenAI API takes."""
        return Saved(self.messages, self.thinking, attached=list(self.attached)).to_json()

    @classmethod
    def from_json(cls, text: str) -> Conversation:
        """What `to_json` wrote. Raises InputError for anything else; paths of this machine's files are refused."""
        saved = Saved.from_json(text)
        messages = list(saved.messages)
        system = None
        if messages and messages[0]["role"] == "system":
            system = messages.pop(0)["content"]
        return cls(tuple(messages), system, saved.thinking, tuple(saved.attached))


def _part(kind: Kind, name: str, data: bytes) -> Message:
    text = base64.b64encode(data).decode("ascii")
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": text, "format": PurePath(name).suffix[1:].lower()}}
    guess = mimetypes.guess_type(name)[0] or ""
    media_type = guess if guess.startswith("image/") else "application/octet-stream"
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{text}"}}
