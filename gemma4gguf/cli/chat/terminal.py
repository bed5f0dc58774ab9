"""Lines typed in a terminal: editing, history, completion of commands and paths, several lines.

The only module that knows prompt_toolkit.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
from prompt_toolkit import PromptSession, prompt
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from .commands import COMMANDS, PATH, Command
from .loop import CONTINUED


class Terminal:
    """A `Screen` for a person at a terminal."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            completer=CommandCompleter(COMMANDS),
            history=_history(),
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation="  ",
            color_depth=ColorDepth.DEPTH_1_BIT if os.environ.get("NO_COLOR") else None,
        )

    def read(self, label: str) -> str:
        try:
            return self._session.prompt(f"{label}> ")
        except asyncio.CancelledError:  # Ctrl-C before the prompt had taken the keyboard over
            raise KeyboardInterrupt from None

    def confirm(self, question: str) -> bool:
        try:
            return prompt(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False


class CommandCompleter(Completer):
    """Names of commands after a slash, and paths after those that take one."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for known, command in self._commands.items():
                if known.startswith(name):
                    yield Completion(known, -len(name), display=f"/{known}", display_meta=command.help)
        elif (wanted := self._commands.get(name)) and wanted.argument == PATH:
            yield from self._paths.get_completions(Document(argument), complete_event)


def _keys() -> KeyBindings:
    """Enter sends, or takes the completion that is chosen; Alt-Enter and a backslash before Enter begin a line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif buffer.document.text_before_cursor.endswith(CONTINUED):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """Lines of earlier chats, readable by their writer alone; only this chat's where no file can be kept."""
    path = Path(click.get_app_dir("gemma4gguf")) / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("ab"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
