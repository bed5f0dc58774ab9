"""Tokens' bytes -> whole characters -> text up to a stop string; the one record that everything streams.

In: the bytes of each token as it is made, in any cut. Out: `Chunk`s. However the bytes are cut, the chunks add up to
the same. Knows no tokens and no model.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .reply import Delta, ReplyParser, ToolCall, held_back


@dataclass(frozen=True)
class Chunk:
    """What is new in a reply. The last chunk, and only that, has a `finish_reason`: stop, length or tool_calls.

    The last chunk of a model's answer also has the whole of it, an `answer.Result`.
    """

    text: str = ""
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    result: Any = None


class Characters:
    """Bytes to whole characters (code points). Half a character waits for its rest; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Text up to the first stop string, which is never given out.

    First is the one whose last character comes first; of several that end there, the longest counts. So it is certain
    when that character is there, whatever would have followed. `stopped` says that one was found; all later text is
    dropped. Raises InputError for a stop string that is empty or no text.
    """

    def __init__(self, stops: str | Iterable[str] = ()) -> None:
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        for index, stop in enumerate(self._stops):
            if not isinstance(stop, str) or not stop:
                raise InputError(f"stop[{index}]: expected a text of at least one character, found {stop!a}")
        self._held = ""  # may be the beginning of a stop string
        self.stopped = False

    def feed(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        starts = [(text.find(stop), len(stop)) for stop in self._stops]
        found = [(start + length, start) for start, length in starts if start >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        split = len(text) - held_back(text, self._stops)
        self._held = text[split:]
        return text[:split]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held


class ReplyStream:
    """Bytes to chunks: whole characters, thoughts and tool calls taken apart, stop strings looked for in the text.

    A stop string ends the text, not a thought that has it in it. `parser`: how to take the reply apart, a fresh one
    each time.
    """

    def __init__(self, stop: str | Iterable[str] = (), parser: ReplyParser | None = None) -> None:
        self._characters = Characters()
        self._parser = parser or ReplyParser()
        self._stops = StopStrings(stop)
        self._called = False

    @property
    def stopped(self) -> bool:
        """A stop string was found: make no more tokens."""
        return self._stops.stopped

    def feed(self, data: bytes) -> list[Chunk]:
        """What these bytes make certain: no chunk where nothing is new."""
        return self._chunks(self._parser.feed(self._characters.feed(data)))

    def finish(self, finish_reason: str) -> list[Chunk]:
        """The rest, ending with a chunk that says why: `tool_calls` in place of stop where there are any."""
        deltas = self._parser.feed(self._characters.finish()) + self._parser.finish()
        chunks = self._chunks(deltas)
        if finish_reason == "stop" and self._called:
            finish_reason = "tool_calls"
        return [*chunks, Chunk(self._stops.finish(), finish_reason=finish_reason)]

    def _chunks(self, deltas: Sequence[Delta]) -> list[Chunk]:
        chunks = []
        for delta in deltas:
            if self._stops.stopped:
                break
            if delta.kind == "text":
                chunks.append(Chunk(text=self._stops.feed(delta.text)))
                continue
            chunks.append(Chunk(text=self._stops.finish()))  # text that a thought or a call interrupts ends there
            if delta.kind == "thought":
                chunks.append(Chunk(thought=delta.text))
            elif delta.call:
                chunks.append(Chunk(tool_calls=(delta.call,)))
                self._called = True
        return [chunk for chunk in chunks if chunk != Chunk()]
