"""What a prompt holds before it is fed: where its sound begins, and how many old turns must go to make room.

Spans come in, and prompts by the number of turns left out. Positions and counts go out. Nothing is evaluated.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..chat.rendering import Prompt, TextSegment
from ..media.audio import AudioWarning
from .session import Span

LATEST_SOUND = 400  # positions; sound that begins after about 450 is reported not to be understood, in every runtime


def media(spans: Sequence[Span]) -> list[Span]:
    """The pictures and clips of a prompt, in order."""
    return [span for span in spans if span.rows is not None]


def reusing(prompt: Prompt, read: Sequence[Span]) -> Prompt:
    """The prompt with its media read already: the last of `read`, in the prompt's order."""
    places = [at for at, part in enumerate(prompt.segments) if not isinstance(part, TextSegment)]
    parts = list(prompt.segments)
    for at, span in zip(reversed(places), reversed(read), strict=False):
        part = parts[at]
        assert not isinstance(part, TextSegment)
        parts[at] = replace(part, medium=span)
    return replace(prompt, segments=tuple(parts))


def late_sound(spans: Sequence[Span]) -> int | None:
    """The position where the first clip begins that begins too late, or None."""
    start = 0
    for span in spans:
        if span.rows is not None and span.causal and start > LATEST_SOUND:
            return start
        start += len(span)
    return None


def warn_of_late_sound(spans: Sequence[Span]) -> None:
    """Warn with the number where a clip begins too late."""
    start = late_sound(spans)
    if start is not None:
        warnings.warn(
            f"sound begins at position {start:,} of the prompt, and after about {LATEST_SOUND} it is often not "
            "understood; ask about it in a new conversation, with little before it",
            AudioWarning,
            stacklevel=6,
        )


def turns_to_drop(turns: int, size_without: Callable[[int], int], room: int) -> int:
    """How many of the oldest turns must go, so that a prompt has at most `room` positions; the last one stays.

    `size_without(n)`: the prompt's positions without the n oldest turns. Where some must go, more go than need to: a
    quarter of what can be free is left free, so that the next turns find the rest of the conversation in the cache.
    """
    if turns < 2 or size_without(0) <= room:
        return 0
    wanted = room - max(0, room - size_without(turns - 1)) // 4
    return bisect_left(range(turns - 1), True, key=lambda n: size_without(n) <= wanted)
