"""The loop of a chat: read a line, do it, tell what went wrong, go on."""

from __future__ import annotations

import sys
from typing import Protocol

import click

from ...errors import Gemma4Error
from ..common import option_names, told
from ..show import note, tell_error
from .chat import WORDS, Chat
from .commands import Leave, is_command, run_command
from .paths import mentions, without

CONTINUED = "\\"  # at the end of a line: the next one belongs to it


class Screen(Protocol):
    """Where lines come from."""

    def read(self, label: str) -> str:
        """A question or a command. Raises EOFError at the end, KeyboardInterrupt at Ctrl-C."""

    def confirm(self, question: str) -> bool:
        """Yes or no. No where nobody can be asked."""


class Lines:
    """Lines of standard input, for scripts and pipes: nothing is asked, a label is shown only to a person."""

    def read(self, label: str) -> str:
        lines: list[str] = []
        while True:
            if sys.stdin is None:
                raise EOFError
            if sys.stdin.isatty():
                click.echo(f"{label}> ", nl=False, err=True)
            data = sys.stdin.buffer.readline()
            if not data and not lines:
                raise EOFError
            line = data.decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line.removesuffix(CONTINUED))
            if not data or not line.endswith(CONTINUED):
                return "\n".join(lines)

    def confirm(self, question: str) -> bool:
        return False


def converse(chat: Chat, screen: Screen) -> int:
    """Until the end of input or /exit. The exit status: 1 if anything went wrong and nobody was there to see it.

    Raises AbandonedError where Ctrl-C came twice during an answer.
    """
    options = option_names(click.get_current_context().command)
    interrupted, failures = False, 0  # by Ctrl-C, as the last thing that happened
    while True:
        try:
            line = screen.read(chat.label())
        except EOFError:
            break
        except KeyboardInterrupt:
            if interrupted:
                return 130
            interrupted = True
            note("Ctrl-C again leaves")
            continue
        try:
            interrupted = not _take(line, chat, screen)
        except Leave:
            break
        except BrokenPipeError:  # nobody reads the answers any more
            raise
        except (Gemma4Error, OSError) as error:
            interrupted, failures = False, failures + 1
            tell_error(told(error, options))
    return int(failures > 0 and isinstance(screen, Lines))


def _take(line: str, chat: Chat, screen: Screen) -> bool:
    """Do what a line asks for. False where Ctrl-C stopped the answer."""
    if is_command(line):
        return run_command(line, chat, screen.confirm)
    for found in mentions(line) if not isinstance(screen, Lines) else ():
        if screen.confirm(f"Attach {found.path.name} as a {WORDS[found.kind]}?"):
            chat.attach(found.kind, found.path)
            line = without(line, found)
    return chat.ask(line.strip()) if line.strip() else True
