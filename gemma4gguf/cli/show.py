"""Show results in a terminal: tables, sizes, warnings and a line of progress.

Plain values come in. Tables go to standard output, progress and warnings to standard error. This module does not know
commands.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType

import click
from wcwidth import wcswidth

MIN_COLUMN = 12  # of a table's last column; in a narrower one rows are shown one cell a line
REDRAWN_S, TOLD_S = 0.1, 10.0  # seconds between two status lines, on a terminal and in a log


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
    tell("warning: ", "yellow", message)


def tell_error(message: str) -> None:
    tell("error: ", "red", message)


def tell(label: str, colour: str, message: str) -> None:
    """A labelled line on standard error."""
    text = fitted(label + printable(message))
    click.echo(click.style(label, fg=colour, bold=True) + text[len(label) :], err=True)


def note(text: str) -> None:
    """Something said beside a result, on standard error."""
    click.secho(fitted(text), dim=True, err=True)


def fitted(line: str) -> str:
    """A line for standard error: wrapped at the edge where that is a terminal, whole elsewhere."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return "\n".join(wrapped(line, columns())) if terminal else line


def columns() -> int:
    """The window's width."""
    return shutil.get_terminal_size((100, 24)).columns


def width(text: str) -> int:
    """Terminal columns of a printable text: wide characters count two, combining ones none."""
    return max(0, wcswidth(text))


def wrapped(text: str, room: int) -> list[str]:
    """Wrap at spaces to `room` columns, if no word is longer. A number stays with the word after it: `8.04 GB`."""
    lines, line = [], ""
    for word in re.split(r"(?<!\d) ", text):
        if line and width(line) + 1 + width(word) > room:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


class Table:
    """Rows with aligned columns; the last column wraps at the window's edge. In a narrow window, one cell per line."""

    def __init__(self, *header: str) -> None:
        self._header = header
        self._rows: list[tuple[str, ...]] = []

    def row(self, *cells: str) -> None:
        self._rows.append(tuple(map(printable, cells)))

    def print(self, header: bool = True) -> None:
        """Print it to standard output."""
        rows = [self._header, *self._rows] if header else self._rows
        widths = [max(width(row[i]) for row in rows) for i in range(len(self._header) - 1)]
        indent = sum(widths) + 2 * len(widths)
        if indent + MIN_COLUMN > columns():
            self._print_stacked()
            return
        for i, row in enumerate(rows):
            lead = "".join(_padded(cell, n + 2) for cell, n in zip(row, widths, strict=False))
            for k, line in enumerate(wrapped(row[-1], columns() - indent)):
                margin: str = lead if k == 0 else " " * indent
                click.secho(f"{margin}{line}".rstrip(), bold=header and i == 0)

    def _print_stacked(self) -> None:
        """Print each row's first cell, then each other cell on a line of its own, after its column's name."""
        lead = 3 + max(map(width, self._header[1:]), default=0)
        for first, *others in self._rows:
            click.secho(first, bold=True)
            for name, cell in zip(self._header[1:], others, strict=True):
                for k, line in enumerate(wrapped(cell, max(MIN_COLUMN, columns() - lead))):
                    click.echo(_padded("" if k else f"  {name}", lead) + line if line else f"  {name}")


def _padded(text: str, room: int) -> str:
    return text + " " * (room - width(text))


class StatusLine:
    """Status on standard error: one line that is redrawn on a terminal, elsewhere a new line every 10 seconds."""

    def __init__(self, *, quiet: bool = False, every_s: float = TOLD_S) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._every_s = REDRAWN_S if self._terminal else every_s
        self._due = time.monotonic() + (0 if self._terminal else every_s)
        self._drawn = 0  # columns

    def tell(self, *parts: str, last: bool = False) -> None:
        """Show as many parts as fit, unless a line was shown just now. A terminal always shows the `last` one."""
        now = time.monotonic()
        if self._quiet or (now < self._due and not (last and self._terminal)):
            return
        self._due = now + self._every_s
        if not self._terminal:
            click.echo("  ".join(parts), err=True)
            return
        fitting = [parts[:n] for n in range(1, len(parts) + 1) if width("  ".join(parts[:n])) < columns()]
        line = "  ".join(fitting[-1] if fitting else ())
        sys.stderr.write("\r" + _padded(line, self._drawn))
        sys.stderr.flush()
        self._drawn = width(line)

    def clear(self) -> None:
        """Clear the terminal's line. The next status is shown at once."""
        if self._drawn:
            sys.stderr.write("\r" + " " * self._drawn + "\r")
            sys.stderr.flush()
            self._drawn, self._due = 0, time.monotonic()

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()


class Progress:
    """A status line with share, speed and time left."""

    def __init__(self, *, quiet: bool = False, every_s: float = TOLD_S) -> None:
        self._line = StatusLine(quiet=quiet, every_s=every_s)
        self._stage, self._first, self._started = "", 0, time.monotonic()

    def __call__(self, done: int, total: int, stage: str, amount: Callable[[float], str] = size) -> None:
        """Show that `done` of `total` of a stage are finished. `amount` formats a count; bytes unless given."""
        if stage != self._stage:  # a resumed download starts with some of it done
            self._stage, self._first, self._started = stage, done, time.monotonic()
        rate = (done - self._first) / max(1e-9, time.monotonic() - self._started)
        left = int((total - done) / rate if rate else 0)
        self._line.tell(
            f"{stage}  {100 * done / max(1, total):3.0f} %",
            f"{amount(done)} of {amount(total)}",
            f"{amount(rate)}/s",
            f"{left // 60}:{left % 60:02d} left",
            last=done >= total,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._line.clear()
