"""The command line: arguments in, results on standard output, everything else on standard error.

One module a command (or a few alike); here what they share. The only place that prints and exits. Exit status: 0 done,
1 an expected failure in one line, 2 usage, 130 interrupted, 129 and 143 ended by SIGHUP and SIGTERM.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..version import __version__
from . import (
    batch,
    bench,
    chatting,
    convert,
    demo,
    examine,
    export,
    generate,
    imatrix,
    listen,
    pack,
    plan,
    pull,
    quality,
    serve,
    transcribe,
    verify,
)
from .signals import Ended, ending_cleanly

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
@click.version_option(__version__, prog_name="gemma4gguf")
def cli() -> None:
    """Gemma 4 12B in one GGUF file: convert it, look into it, and ask it about text, pictures and sound.

    Nothing leaves this machine: no command uses the network but `pull`, a Hub id given as a source, and
    `batch --servers`.
    """


for module in (
    convert,
    pull,
    plan,
    generate,
    chatting,
    transcribe,
    listen,
    serve,
    batch,
    examine,
    verify,
    pack,
    export,
    quality,
    imatrix,
    bench,
    demo,
):
    for command in module.COMMANDS:
        cli.add_command(command)


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
    sys.exit(run(convert.convert))
