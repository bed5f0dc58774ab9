"""`gemma4gguf transcribe`: write down speech of any length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from ..tools.subtitles import FORMATS, words
from .answering import warnings_told
from .common import common, debug_option, found, print_json, standard_input
from .opening import opened
from .options import model_options, split
from .question import STDIN
from .show import StatusLine, printable
from .signals import ending_at_once


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("sounds", nargs=-1, required=True, metavar="SOUND...")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="txt", show_default=True, help="What is written."
)
@click.option("--language", metavar="NAME", help="What is spoken, such as German [the model hears it].")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="translate writes English.",
)
@click.option("-p", "--prompt", metavar="TEXT", help="What each piece of sound is asked, in place of our question.")
@click.option("--hint", metavar="TEXT", help="Names and words that may be said.")
@click.option("--carry", is_flag=True, help="Each question tells the words before it.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="A file for each SOUND goes there.")
@click.option("--replace", is_flag=True, help="Files of that name in DIR are replaced.")
@click.option("--parallel", type=int, metavar="N", help="Pieces of sound that are written down together [1].")
@model_options
@click.option("--quiet", is_flag=True, help="No progress.")
@common
@debug_option
@found("file")
def transcribe(
    file: Path,
    sounds: tuple[str, ...],
    form: str,
    out: Path | None,
    replace: bool,
    quiet: bool,
    as_json: bool,
    debug: bool,
    language: str | None,
    task: str,
    prompt: str | None,
    hint: str | None,
    carry: bool,
    **given: Any,
) -> None:
    """Write down what is said in sound files of any length, videos too.

    Speech is found between its pauses; silence costs nothing. With --out, a run that was ended goes on where it
    stopped. SOUND may be - for standard input. For example:

    \b
      gemma4gguf transcribe gemma.gguf memo.m4a
      gemma4gguf transcribe gemma.gguf meeting.mp4 --format srt --out subtitles
    """
    from ..tools.transcripts import transcribe_file

    if form != "txt" and len(sounds) > 1 and out is None:
        raise click.UsageError("several sounds give several files: name a folder with --out")
    if out is not None and (STDIN in sounds or len({Path(sound).stem for sound in sounds}) < len(sounds)):
        raise click.UsageError("--out names files after each SOUND: give files of different names")
    if out is not None and not out.is_dir():
        raise InputError(f"{out}: no such folder; make it first")
    opening, _ = split(given)
    how: dict[str, Any] = {"language": language, "task": task, "prompt": prompt, "hint": hint, "carry": carry}
    quiet = quiet or as_json
    with (
        warnings_told(),
        ending_at_once(),
        StatusLine(quiet=quiet) as line,
        opened(file, debug=debug, **opening) as model,
    ):
        line.tell("loading")
        model.load()
        for sound in sounds:
            progress, written = _progress(line, sound), []
            options = {**how, "on_progress": progress}
            segments: Iterator[Any] = (
                model.transcribe(standard_input() if sound == STDIN else sound, **options)
                if out is None
                else transcribe_file(
                    model, Path(sound), out / f"{Path(sound).stem}.{form}", form, force=replace, **options
                )
            )
            for segment in segments:
                written.append(segment)
                if out is None and form == "txt" and not as_json:
                    line.clear()
                    click.echo(printable(words(segment)))
            line.clear()
            if as_json:
                print_json({"file": sound, "segments": [vars(segment) for segment in written]})
            elif out is None and form != "txt":
                click.echo(FORMATS[form](written), nl=False)
            elif out is not None:
                click.echo(out / f"{Path(sound).stem}.{form}")


def _progress(line: StatusLine, sound: str) -> Any:
    """Told how many seconds are done; tells them, and how many times faster than speech that is."""
    from ..media.video import stamp

    began = time.monotonic()

    def progress(seconds: float) -> None:
        speed = seconds / max(time.monotonic() - began, 1e-9)
        line.tell(f"{sound}: {stamp(seconds)} written down, {speed:.1f} times as fast as it is spoken")

    return progress


COMMANDS = (transcribe,)
