"""Show an answer while it is written: text, thought, tool calls, and a line of statistics.

Chunks come in. The text goes to standard output. The thought is dimmed; where there is no colour, its lines are marked.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from ..records import Chunk, Result
from .show import warn

MARK = "thought: "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline: a model may write any of them


class AnswerWriter:
    """One answer. `thoughts`: the stream that thoughts go to, or None to leave them out."""

    def __init__(self, thoughts: TextIO | None) -> None:
        self._thoughts = thoughts
        self._dimmed = thoughts is not None and has_colour(thoughts)
        self._at_line_start = True  # of what was written last, thought or text
        self._thinking = False

    def write(self, chunk: Chunk) -> None:
        if chunk.thought and self._thoughts is not None:
            self._thinking = True
            thought = _safe(chunk.thought, self._thoughts)
            shown = click.style(thought, dim=True) if self._dimmed else self._marked(thought)
            click.echo(shown, self._thoughts, nl=False)
            self._at_line_start = thought.endswith("\n")
        if chunk.text:
            self._end_thought()
            click.echo(_safe(chunk.text, sys.stdout), nl=False)
            self._at_line_start = chunk.text.endswith("\n")

    def end(self, result: Result | None = None) -> None:
        """The line ends; what the model wants called follows. Without a result, the answer was interrupted."""
        self._end_thought()
        if not self._at_line_start or (result and not result.text):
            click.echo()
        for call in result.tool_calls if result else ():
            click.echo(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})")

    def _end_thought(self) -> None:
        """The answer begins on a line of its own."""
        if self._thinking and not self._at_line_start:
            click.echo(file=self._thoughts)
            self._at_line_start = True
        self._thinking = False

    def _marked(self, thought: str) -> str:
        return (MARK if self._at_line_start else "") + re.sub(r"\n(?=[\s\S])", f"\n{MARK}", thought)


def _safe(text: str, stream: TextIO | None) -> str:
    """A terminal gets no control characters but line ends and tabs; a file gets what the model wrote."""
    return _CONTROL.sub("\ufffd", text) if stream is not None and stream.isatty() else text


def has_colour(stream: TextIO) -> bool:
    """A terminal that shows it, to a person who wants it (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def speed(result: Result) -> str:
    """One line of counts and times."""
    t, n, d = result.timings, result.tokens, result.draft
    drafts = f", {d.accepted:,} of {d.proposed:,} drafts accepted" if d.proposed else ""
    return (
        f"{n.prompt:,} tokens read in {t.prefill_s:.1f} s, {n.completion:,} written at {t.tokens_per_s:.1f} a second"
        f"{drafts} ({result.finish_reason})"
    )


@contextmanager
def warnings_told() -> Iterator[None]:
    """In this block, warnings of the library are told as the command line's own."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: warn(str(message))
        yield
