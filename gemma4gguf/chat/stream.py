"""Turn the bytes of a reply into chunks while it streams: whole characters, up to a stop string.

The bytes of each token come in; `Chunk`s go out. They add up to the same reply however the bytes were cut. `reply`
splits the text; this module decodes the bytes and looks for stop strings. It does not know token ids or the model.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from ..errors import InputError
from ..records import Chunk, FinishReason
from .reply import Delta, ReplyParser, held_back


class Characters:
    """Bytes to whole characters (code points). Bytes of an incomplete one are kept; invalid UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Passes text on, up to the first stop string, which is dropped with everything after it.

    The first stop string is the one whose last character comes first; if several end there, the longest. So a match is
    certain as soon as that character arrives. `stopped`: a stop string was found. Raises InputError for a stop string
    that is empty or not a text.
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
    """Bytes to chunks: decodes characters, splits off thoughts and tool calls, looks for stop strings in the text.

    A stop string inside a thought is ignored. `parser`: a new parser, which splits this reply. `unreadable_calls`: the
    parts of the text so far that are tool calls by their marks and could not be parsed.
    """

    def __init__(self, stop: str | Iterable[str] = (), parser: ReplyParser | None = None) -> None:
        self._characters = Characters()
        self._parser = parser or ReplyParser()
        self._stops = StopStrings(stop)
        self._called = False
        self.unreadable_calls: tuple[str, ...] = ()

    @property
    def stopped(self) -> bool:
        """A stop string was found: make no more tokens."""
        return self._stops.stopped

    def feed(self, data: bytes) -> list[Chunk]:
        """Add bytes. Returns the chunks that are now certain; none if nothing is new."""
        return self._chunks(self._parser.feed(self._characters.feed(data)))

    def finish(self, finish_reason: FinishReason) -> list[Chunk]:
        """End the reply. Returns the remaining chunks; the last has the reason, `tool_calls` for stop after a call."""
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
            if delta.kind in ("text", "unreadable_call"):
                chunks.append(Chunk(text=self._stops.feed(delta.text)))
                if delta.kind == "unreadable_call" and not self._stops.stopped:
                    self.unreadable_calls += (delta.text,)
                continue
            chunks.append(Chunk(text=self._stops.finish()))  # no stop string spans a thought or a call
            if delta.kind == "thought":
                chunks.append(Chunk(thought=delta.text))
            elif delta.call:
                chunks.append(Chunk(tool_calls=(delta.call,)))
                self._called = True
        return [chunk for chunk in chunks if chunk != Chunk()]
