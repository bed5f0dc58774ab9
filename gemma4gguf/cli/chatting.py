"""`gemma4gguf chat` and `gemma4gguf run`: the commands; what a chat is lies in chat/."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from ..bundle.finding import HUB_ID, pulled_models
from ..errors import Gemma4Error
from .answering import warnings_told
from .chat.background import AbandonedError
from .chat.conversation import Conversation
from .chat.echo import no_echo
from .common import Function, debug_option, found, one_line_errors
from .opening import opened
from .options import answer_options, model_options, split
from .pull import pull
from .show import note, warn
from .signals import ending_at_once


def _chat(file: Path, system: str | None, thinking: bool, debug: bool, **given: Any) -> int:
    """Chat with a model, in a terminal or line by line from standard input. /help lists the commands.

    \b
      gemma4gguf chat gemma.gguf
      printf 'What is 47 + 38?\\nAnd 3 more?\\n' | gemma4gguf chat gemma.gguf
    """
    from .chat.chat import Chat
    from .chat.loop import Lines, converse

    opening, answering = split(given)
    watched = sys.stdin is not None and sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()
    with warnings_told(), opened(file, debug=debug, **opening) as model:
        for name in model.bundle.missing:
            warn(f"{file}: {model.bundle.absence(name)}")
        threading.Thread(target=_load, args=[model], daemon=True).start()
        conversation = Conversation(system=system, thinking=thinking)
        chat = Chat(model, conversation, answering, screen=watched)
        if not watched:
            return converse(chat, Lines())
        from .chat.terminal import Terminal

        note(f"{file.name}. /help lists the commands, Ctrl-D leaves.")
        with suppress(AbandonedError), no_echo():
            return converse(chat, Terminal())
        with ending_at_once():  # C code may compute for seconds more, and nothing can be lost
            signal.raise_signal(signal.SIGINT)
        return 130


def _load(model: Any) -> None:
    """Load while the first question is typed. What goes wrong, the question meets again and tells."""
    with suppress(Gemma4Error):
        model.load()


def _run(file: Path, **options: Any) -> int:
    """The same as chat. A repository on the Hub is pulled first, if that has not happened yet.

    \b
      gemma4gguf run gemma-4-12B-it-Q4_K_M
      gemma4gguf run OWNER/gemma-4-12B-it-GGUF:Q4_K_M
    """
    named = HUB_ID.fullmatch(str(file))
    if named and not file.exists() and not pulled_models(named["repo"], named["type"]):
        status = click.get_current_context().invoke(pull, repo=str(file))
        if status:
            return int(status)
    return found("file")(_chat)(file=file, **options)  # type: ignore[no-any-return]


def _command(name: str, function: Function) -> click.Command:
    for decorate in (one_line_errors, debug_option, answer_options, model_options):
        function = decorate(function)
    function = click.option("--thinking", is_flag=True, help="Let it think before each answer.")(function)
    function = click.option("--system", metavar="TEXT", help="What the model is told first.")(function)
    function = click.argument("file", type=click.Path(path_type=Path))(function)
    return click.command(name)(function)


COMMANDS = (
    _command("chat", found("file")(_chat)),
    _command("run", _run),
)
