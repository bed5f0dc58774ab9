"""Split the model's reply into thought, text and tool calls, at once or while it streams.

Text comes in, in which Gemma 4's marks are visible (`<|channel>thought … <channel|>`,
`<|tool_call>call:NAME{…}<tool_call|>`). Deltas go out as soon as they are certain. They add up to the same reply
however the text was cut into pieces.

No readable text is lost: a tool call that cannot be parsed stays in the text, with its marks, and is listed as such.
All other marks are removed. So are the stray ones that the model is known to write: empty thought blocks, a trailing
`<channel|>`, an extra `<tool_call|>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..records import ToolCall
from .calls import QUOTE, Call, read_calls

CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
CALL, CALL_END = "<|tool_call>", "<tool_call|>"
THOUGHT = "thought"

Place = Literal["text", "name", "thought", "call"]

_MARKS = (CHANNEL, CHANNEL_END, CALL, CALL_END)
_ANY_MARK = re.compile("|".join(map(re.escape, _MARKS)))
_THOUGHT_MARKS = (CHANNEL, CHANNEL_END)
_ANY_THOUGHT_MARK = re.compile("|".join(map(re.escape, _THOUGHT_MARKS)))
_CALL_MARKS = (QUOTE, *_MARKS)
_ANY_CALL_MARK = re.compile("|".join(map(re.escape, _CALL_MARKS)))


@dataclass(frozen=True)
class Delta:
    """A new part of a reply: a piece of text or of a thought, one complete tool call, or text that should be one."""

    kind: Literal["text", "thought", "tool_call", "unreadable_call"]
    text: str = ""
    call: ToolCall | None = None


@dataclass(frozen=True)
class Reply:
    """A complete reply, split. Thought blocks are stripped of the white space around them and joined by line breaks.

    `unreadable_calls`: the parts of `text` that are calls by their marks and could not be parsed.
    """

    text: str
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = field(default=())
    unreadable_calls: tuple[str, ...] = field(default=())


def parse_reply(text: str, thinking_open: bool = False) -> Reply:
    """Split a complete reply. `thinking_open`: the prompt already ended with `<|channel>thought`. Never raises."""
    parser = ReplyParser(thinking_open)
    return gather(parser.feed(text) + parser.finish())


def gather(deltas: Sequence[Delta]) -> Reply:
    """The reply that these deltas add up to."""
    return Reply(
        text="".join(delta.text for delta in deltas if delta.kind in ("text", "unreadable_call")),
        thought="".join(delta.text for delta in deltas if delta.kind == "thought"),
        tool_calls=tuple(delta.call for delta in deltas if delta.call is not None),
        unreadable_calls=tuple(delta.text for delta in deltas if delta.kind == "unreadable_call"),
    )


def _number_id(index: int) -> str:
    return f"call_{index}"


class ReplyParser:
    """Splits a reply while it streams: `feed` each piece, then `finish`.

    `thinking_open`: the prompt already ended with `<|channel>thought`, so the reply begins inside a thought;
    `thought_begun`: that thought has words already.
    `call_id`: makes the id of the n-th call of this reply, counted from 0. The default makes `call_0`, `call_1`, ….
    """

    def __init__(
        self, thinking_open: bool = False, call_id: Callable[[int], str] = _number_id, *, thought_begun: bool = False
    ) -> None:
        self._state: Callable[[bool], bool] = self._in_thought if thinking_open else self._in_text
        self._around = self._in_text  # the state to return to after a stray `<|channel>`
        self._buffer = ""
        self._deltas: list[Delta] = []
        self._calls = 0
        self._call_id = call_id
        self._thought_space = ""  # trailing white space, emitted only if the thought goes on
        self._block_empty = not thought_begun  # this thought block has only white space so far
        self._thought_before = False  # an earlier thought block was not empty
        self._scanned = 0  # characters of the buffer already searched for a call's end
        self._quoted = False  # whether the search is inside a string

    @property
    def place(self) -> Place:
        """Where the text that comes next will go: `name` behind a `<|channel>`, which may open a thought."""
        places: dict[Callable[[bool], bool], Place] = {
            self._in_text: "text",
            self._at_channel_name: "name",
            self._in_thought: "thought",
            self._in_call: "call",
        }
        return places[self._state]

    def feed(self, piece: str) -> list[Delta]:
        """Add a piece of text. Returns the deltas that are now certain."""
        self._buffer += piece
        return self._run(final=False)

    def finish(self) -> list[Delta]:
        """End the reply. Returns the remaining deltas; a thought or call that is still open ends here."""
        return self._run(final=True)

    def _run(self, final: bool) -> list[Delta]:
        while self._state(final):
            pass
        deltas, self._deltas = self._deltas, []
        return deltas

    # Each state consumes what it can from the front of the buffer and returns whether to run the (new) state again.

    def _in_text(self, final: bool) -> bool:
        mark = self._take_until(_ANY_MARK, _MARKS, final, self._emit_text)
        if mark == CHANNEL:
            self._state, self._around = self._at_channel_name, self._in_text
        elif mark == CALL:
            self._start_call()
        return mark is not None

    def _at_channel_name(self, final: bool) -> bool:
        """After `<|channel>`. If the name of a thought does not follow, the mark was a stray one."""
        rest = self._buffer[len(THOUGHT) :]
        named = self._buffer.startswith(THOUGHT)
        if not final and (THOUGHT.startswith(self._buffer) or (named and not rest)):
            return False
        if named and (not rest or rest[0].isspace() or rest[0] == "<"):
            self._buffer = rest
            self._start_thought()
        else:
            self._state = self._around
        return True

    def _start_thought(self) -> None:
        self._thought_before = self._thought_before or not self._block_empty
        self._block_empty, self._thought_space = True, ""
        self._state = self._in_thought

    def _in_thought(self, final: bool) -> bool:
        mark = self._take_until(_ANY_THOUGHT_MARK, _THOUGHT_MARKS, final, self._emit_thought)
        if mark == CHANNEL_END:
            self._state = self._in_text
            self._thought_space = ""
        elif mark == CHANNEL:  # perhaps a new thought before this one was closed
            self._state, self._around = self._at_channel_name, self._in_thought
        return mark is not None

    def _start_call(self) -> None:
        self._state = self._in_call
        self._scanned, self._quoted = 0, False

    def _in_call(self, final: bool) -> bool:
        """After `<|tool_call>`. The call ends at the first mark outside its strings."""
        for match in _ANY_CALL_MARK.finditer(self._buffer, self._scanned):
            self._scanned = match.end()
            if match[0] == QUOTE:
                self._quoted = not self._quoted
            elif not self._quoted:
                self._end_call(match.start(), match.end() if match[0] == CALL_END else match.start())
                return True
        if not final:
            self._scanned = max(self._scanned, len(self._buffer) - max(map(len, _CALL_MARKS)) + 1)
            return False
        if not self._quoted:  # only the end mark may be missing: parse the call
            self._end_call(len(self._buffer), len(self._buffer), closed=False)
        else:  # a string is not closed: the call becomes text, up to the first end mark, or else to the first mark
            closed, mark = self._buffer.find(CALL_END), _ANY_MARK.search(self._buffer)
            stop = mark.start() if mark else len(self._buffer)
            self._leave_call(None, stop if closed < 0 else closed + len(CALL_END))
        return True

    def _end_call(self, end: int, behind: int, closed: bool = True) -> None:
        """The call is `buffer[:end]`; parsing continues at `behind`."""
        self._leave_call(read_calls(self._buffer[:end], closed), behind)

    def _leave_call(self, calls: Sequence[Call] | None, behind: int) -> None:
        if calls is None:
            self._deltas.append(Delta("unreadable_call", CALL + self._buffer[:behind]))
        for call in calls or ():
            self._deltas.append(Delta("tool_call", call=ToolCall(*call, id=self._call_id(self._calls))))
            self._calls += 1
        self._buffer = self._buffer[behind:]
        self._state = self._in_text

    def _take_until(
        self, pattern: re.Pattern[str], marks: Sequence[str], final: bool, emit: Callable[[str], None]
    ) -> str | None:
        """Emit the buffer up to the first mark and remove the mark. Returns the mark, or None if there is none."""
        match = pattern.search(self._buffer)
        if match:
            emit(self._buffer[: match.start()])
            self._buffer = self._buffer[match.end() :]
            return match[0]
        keep = 0 if final else held_back(self._buffer, marks)
        split = len(self._buffer) - keep
        emit(self._buffer[:split])
        self._buffer = self._buffer[split:]
        return None

    def _emit_text(self, text: str) -> None:
        self._emit("text", text)

    def _emit_thought(self, text: str) -> None:
        text = self._thought_space + text
        if self._block_empty:
            text = text.lstrip()
        kept = text.rstrip()
        self._thought_space = text[len(kept) :]
        if not kept:
            return
        if self._block_empty and self._thought_before:
            kept = "\n" + kept
        self._block_empty = False
        self._emit("thought", kept)

    def _emit(self, kind: Literal["text", "thought"], text: str) -> None:
        if not text:
            return
        if self._deltas and self._deltas[-1].kind == kind:
            text = self._deltas.pop().text + text
        self._deltas.append(Delta(kind, text))


def held_back(text: str, marks: Sequence[str]) -> int:
    """The length of the longest end of `text` that may be the beginning of a mark; 0 for none."""
    longest = min(len(text), max((len(mark) for mark in marks), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(mark.startswith(text[-n:]) for mark in marks)), 0)
