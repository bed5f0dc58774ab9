"""One question of a conversation on its way to an answer: what is asked next, and the messages that come of it.

In: messages with the question, results, answers to calls. Out: the messages to ask with, and calls to be made. Does not
know models or functions.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from ..records import Message, Result, ToolCall
from .turns import without_oldest


class Exchange:
    """`messages`: with the question, and later all that came of it. `calls`: to be made before it is asked again.

    `before`: the conversation as it was. `functions`: names of those that may be called, `most_calls` times in a row.
    `dropped`: turns that had to go.
    """

    def __init__(
        self, before: Sequence[Message], question: Sequence[Message], functions: Container[str], most_calls: int
    ) -> None:
        self.before = before
        self.messages: list[Message] = [*before, *question]
        self.calls: tuple[ToolCall, ...] = ()
        self.dropped = 0
        self._functions, self._calls_left = functions, most_calls

    def take(self, result: Result) -> bool:
        """Add an answer. Returns whether it is the last one; else there are calls to be made."""
        self.leave_out(result.dropped_turns)
        self.messages = [*self.messages, result.message()]
        known = all(call.name in self._functions for call in result.tool_calls)
        self.calls = result.tool_calls if known and self._calls_left else ()
        self._calls_left -= 1
        return not self.calls

    def leave_out(self, turns: int) -> None:
        """Go on without so many of the oldest turns."""
        if turns:
            self.messages = without_oldest(self.messages, turns)
            self.dropped += turns

    def called(self, answers: Iterable[Message]) -> None:
        """Add what the calls returned."""
        self.messages = [*self.messages, *answers]
