"""Show results in a terminal: tables, sizes, warnings and a progress line.

Plain values come in. Tables go to standard output, progress and warnings to standard error. This module does not know
commands.
"""

from __future__ import annotations

import shutil
import sys
import time
import unicodedata
from collections.abc import Callable
from types import TracebackType

import click

MIN_COLUMN = 12


def size(n: float) -> str:
    """Bytes as text in decimal units: 1 kB is 1000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    raise AssertionError


def number(n: int) -> str:
    return f"{n:,}"


def printable(text: str) -> str:
    """Text from a file or a name, safe in a terminal and on one line: control characters become U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def warn(message: str) -> None:
    click.secho("warning: ", fg="yellow", bold=True, nl=False, err=True)
    click.echo(printable(message), err=True)


def width(text: str) -> int:
    """Terminal columns of a text: wide characters count two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


class Table:
    """Rows whose columns line up; the last column wraps at the terminal's edge."""

    def __init__(self, *header: str) -> None:
        self._header = header
        self._rows: list[tuple[str, ...]] = [header]

    def row(self, *cells: str) -> None:
        self._rows.append(tuple(map(printable, cells)))

    def print(self, header: bool = True) -> None:
        """Print it to standard output."""
        rows = self._rows if header else self._rows[1:]
        widths = [max(width(row[i]) for row in rows) for i in range(len(self._header) - 1)]
        indent = sum(widths) + 2 * len(widths)
        room = max(MIN_COLUMN, shutil.get_terminal_size((100, 24)).columns - indent)
        for i, row in enumerate(rows):
            lead = "".join(cell + " " * (n - width(cell) + 2) for cell, n in zip(row, widths, strict=False))
            for k, line in enumerate(_wrap(row[-1], room)):
                margin: str = lead if k == 0 else " " * indent
                click.secho(f"{margin}{line}".rstrip(), bold=header and i == 0)


def _wrap(text: str, room: int) -> list[str]:
    """Break at spaces so that each line takes at most `room` columns where that is possible."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


class Progress:
    """One line on standard error with share, speed and time left; nothing unless standard error is a terminal."""

    def __init__(self, *, quiet: bool = False, every_s: float = 0.2) -> None:
        self._every_s = every_s
        self._stream = sys.stderr
        self._on = sys.stderr.isatty() and not quiet
        self._started = self._told = time.monotonic()
        self._length = 0

    def __call__(self, done: int, total: int, stage: str, amount: Callable[[float], str] = size) -> None:
        """Show that `done` of `total` of a stage are finished. `amount` formats a count; bytes unless given."""
        now = time.monotonic()
        if not self._on or (now - self._told < self._every_s and done < total):
            return
        self._told = now
        rate = done / max(1e-9, now - self._started)
        left = (total - done) / rate if rate else 0
        line = (
            f"{stage}  {100 * done / max(1, total):3.0f} %  {amount(done)} of {amount(total)}"
            f"  {amount(rate)}/s  {int(left // 60)}:{int(left % 60):02d} left"
        )
        self._draw(line[: shutil.get_terminal_size((100, 24)).columns - 1])

    def _draw(self, line: str) -> None:
        self._stream.write("\r" + line + " " * max(0, self._length - len(line)))
        self._stream.flush()
        self._length = len(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._on and self._length:
            self._draw("")
            self._stream.write("\r")
            self._stream.flush()
