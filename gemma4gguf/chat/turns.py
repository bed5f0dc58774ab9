"""A conversation as turns: a question with everything up to the next question.

Messages come in as the OpenAI API has them, and so they go out. Does not look inside a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Message


def starts(messages: Sequence[Message]) -> list[int]:
    """Where each turn begins. What comes before the first question, the system's words left out, belongs to it."""
    head = head_length(messages)
    asked = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    return [head, *asked[1:]] if asked else [head] * (head < len(messages))


def head_length(messages: Sequence[Message]) -> int:
    """How many messages of the system open the conversation."""
    roles = (message.get("role") for message in messages)
    return next((at for at, role in enumerate(roles) if role not in ("system", "developer")), len(messages))


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """The messages without the `count` oldest turns; the system's stay."""
    begins = [*starts(messages), len(messages)]
    return [*messages[: head_length(messages)], *messages[begins[count] :]]
