"""The command line: arguments in, results on standard output, everything else on standard error.

One module a command (or a few alike); here what they share. The only place that prints and exits. Exit status: 0 done,
1 an expected failure in one line, 2 usage, 130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from ..version import __version__
from .signals import Ended, ending_cleanly

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_LISTED = {  # by name: the module that has it, and what `--help` says of it
    "batch": ("batch", "Answer a file or a folder of questions."),
    "bench": ("bench", "Measure a model on this machine."),
    "chat": ("chatting", "Chat with a model."),
    "convert": ("convert", "Turn a checkpoint into one GGUF file."),
    "demo": ("demo", "Convert and question the bundled model."),
    "doctor": ("examine", "Show what this machine offers."),
    "export": ("export", "Lay out a bundle for other runtimes."),
    "generate": ("generate", "Answer a question about text, pictures, sound, videos."),
    "imatrix": ("imatrix", "Measure which weights matter, for --imatrix."),
    "inspect": ("examine", "Show what a bundle holds."),
    "list": ("pull", "Show the models in the models folder."),
    "listen": ("listen", "Listen and answer, while it is spoken."),
    "pack": ("pack", "Join GGUF files from anyone to one bundle."),
    "plan": ("plan", "Tell what fits into this machine's memory."),
    "pull": ("pull", "Fetch a published model into one bundle."),
    "quality": ("quality", "Measure what quantising has cost."),
    "rm": ("pull", "Delete models from the models folder."),
    "run": ("chatting", "Chat with a model; pull it first where need be."),
    "serve": ("serve", "Serve a model to OpenAI's, Anthropic's and Ollama's clients."),
    "transcribe": ("transcribe", "Write down speech of any length."),
    "verify": ("verify", "Check every byte of a bundle, and hold it against its source."),
}


class Commands(Mapping[str, click.Command]):
    """The commands by name. Each is loaded with its module when it is asked for: `--help` needs none of them."""

    def __getitem__(self, name: str) -> click.Command:
        module, _ = _LISTED[name]
        commands: tuple[click.Command, ...] = import_module(f".{module}", __name__).COMMANDS
        return next(command for command in commands if command.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(_LISTED)

    def __len__(self) -> int:
        return len(_LISTED)


class Group(click.Group):
    """The program, with its commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in _LISTED.items()])


@click.group(cls=Group, commands=Commands(), context_settings=SETTINGS)
@click.version_option(__version__, prog_name="gemma4gguf")
def cli() -> None:
    """Gemma 4 12B in one GGUF file: convert it, look into it, and ask it about text, pictures, sound and videos.

    Nothing leaves this machine: no command uses the network but `pull`, a Hub id given as a source, and
    `batch --servers`.
    """


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a click command as a program would: the exit status, with the failure told on standard error."""
    color = False if os.environ.get("NO_COLOR") else None  # https://no-color.org; click does not know it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where a terminal or a log cannot show a character
    try:
        with ending_cleanly():
            status = command.main(args=arguments, standalone_mode=False, color=color, **SETTINGS)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except Ended as signalled:
        click.echo("ended by a signal", err=True)
        return int(signalled.code or 0)
    except SystemExit:  # click's, when the reader of our output went away, as `head` does
        return 0
    except click.UsageError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 1


def main() -> None:
    """Entry point of `gemma4gguf`."""
    sys.exit(run(cli))


def convert_to_gguf() -> None:
    """Entry point of `convert-to-gguf`."""
    sys.exit(run(cli.commands["convert"]))
