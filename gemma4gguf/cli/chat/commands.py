"""The commands of a chat: one table of names, arguments, help and what they do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

from ...errors import InputError
from ..show import Table, columns, wrapped
from .chat import Chat
from .paths import as_path

PATH = "PATH"
Confirm = Callable[[str], bool]


class Leave(Exception):  # noqa: N818 - no failure
    """The chat is over."""


@dataclass(frozen=True)
class Command:
    """`argument`: what follows the name, in capitals; empty for nothing. `act` may ask for a confirmation."""

    argument: str
    help: str
    act: Callable[[Chat, str, Confirm], object]


def _save(chat: Chat, name: str, confirm: Confirm) -> None:
    path = as_path(name)
    if path.exists() and path != chat.saved and not confirm(f"{path} exists. Replace it?"):
        raise InputError(f"{path}: exists already; nothing was saved")
    chat.save(path)


def _leave(*_: object) -> None:
    raise Leave


def _help(*_: object) -> None:
    table = Table("command", "what it does")
    for name, command in COMMANDS.items():
        table.row(f"/{name} {command.argument}".rstrip(), command.help)
    table.print(header=False)
    hint = "Alt-Enter, or a backslash at the end: another line. Ctrl-C: stop the answer; twice: leave."
    click.echo("\n".join(wrapped(hint, columns())))


COMMANDS: Mapping[str, Command] = {
    "image": Command(PATH, "Show it a picture.", lambda c, a, _: c.attach("image", as_path(a))),
    "audio": Command(PATH, "Let it hear a clip.", lambda c, a, _: c.attach("audio", as_path(a))),
    "think": Command("", "Think first, or not.", lambda c, a, _: c.think()),
    "system": Command("[TEXT]", "What it is told first.", lambda c, a, _: c.system(a)),
    "retry": Command("", "Answer again.", lambda c, a, _: c.retry()),
    "undo": Command("", "Take back the last turn.", lambda c, a, _: c.undo()),
    "reset": Command("", "Begin a new chat.", lambda c, a, _: c.reset()),
    "save": Command(PATH, "Keep the chat in a file.", _save),
    "load": Command(PATH, "Go on with a saved chat.", lambda c, a, _: c.load(as_path(a))),
    "stats": Command("", "Counts and times.", lambda c, a, _: c.statistics()),
    "help": Command("", "This list.", _help),
    "exit": Command("", "Leave.", _leave),
}


def is_command(line: str) -> bool:
    """A line that begins with a slash and a word. `/home/me/cat.jpg` is none."""
    name = line.split(maxsplit=1)[0] if line.strip() else ""
    return line.startswith("/") and name[1:].isalpha()


def run_command(line: str, chat: Chat, confirm: Confirm) -> bool:
    """Do what a line such as `/image cat.jpg` says. False where Ctrl-C stopped it.

    Raises InputError for what is no command, Leave at the end.
    """
    name, _, argument = line[1:].strip().partition(" ")
    argument = argument.strip()
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise InputError(f"/{name} is no command; " + (f"did you mean /{near[0]}?" if near else "/help lists them"))
    if bool(argument) != bool(command.argument) and not (not argument and command.argument.startswith("[")):
        takes = f"expected /{name} {command.argument}" if command.argument else "it takes nothing after its name"
        raise InputError(f"/{name}: {takes}")
    return command.act(chat, argument, confirm) is not False
