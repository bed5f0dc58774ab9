"""The question of `generate`, from where people put it: an argument, an option, a file, standard input, or several.

In: what was typed. Out: one text.
"""

from __future__ import annotations

import os
import stat
import sys
import threading

import click

from ..arguments import local_path
from ..errors import InputError
from .common import standard_input
from .show import warn

STDIN = "-"
FILE = "@"  # -p @notes.txt
PATIENCE_S = 5.0
WAITING = "waiting for text on standard input; add </dev/null to ask without it"


def question(argument: str | None, option: str | None, *, stdin_taken: bool) -> str:
    """The question's text. What is piped in follows it. Raises InputError, and UsageError where there is none."""
    if argument is not None and option is not None:
        raise click.UsageError("the question is given twice: after FILE and with -p/--prompt")
    given = argument if option is None else _read(option)
    if given == STDIN:
        return _text(standard_input())
    text = joined(given, "" if stdin_taken else _piped())
    if not text:
        raise click.UsageError("no question: give it after FILE, with -p/--prompt, or on standard input")
    return text


def joined(given: str | None, piped: str) -> str:
    """What to do, then what to do it with."""
    return "\n\n".join(filter(None, [given, piped if piped.strip() else ""]))


def _read(option: str) -> str:
    if not option.startswith(FILE):
        return option
    path = local_path(option[len(FILE) :])
    if not path.is_file():
        raise InputError(f"{path}: no such file; a question that begins with {FILE} goes after FILE, without -p")
    return _text(path.read_bytes())


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace").removesuffix("\n")


def _piped() -> str:
    """Text from a pipe or a file. Elsewhere, such as a terminal or /dev/null, nobody put one there."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or not a real file
        return ""
    if stat.S_ISREG(mode):
        return _text(standard_input())
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return ""
    reminder = threading.Timer(PATIENCE_S, warn, [WAITING])  # a script's open pipe would wait for ever
    reminder.daemon = True
    reminder.start()
    try:
        return _text(standard_input())
    finally:
        reminder.cancel()
