"""`gemma4gguf generate`: one question, answered as it is being written."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..records import Chunk
from .answering import AnswerWriter, speed, warnings_told
from .common import common, debug_option, found, print_json
from .media import media_of, media_options, uses_standard_input
from .opening import opened
from .options import answer_options, model_options, split
from .question import STDIN, question
from .show import StatusLine, note, warn
from .signals import ending_at_once


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("text", required=False, metavar="[QUESTION]")
@click.option("-p", "--prompt", metavar="TEXT", help="The question; @FILE reads a file, - standard input.")
@media_options
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@click.option("--thinking", is_flag=True, help="Let it think first; the thought goes to standard error.")
@click.option("--raw", is_flag=True, help="No chat template; <|image|> and <|audio|> stand where media go.")
@answer_options
@model_options
@click.option("--quiet", is_flag=True, help="Only the answer: no thought, no progress, no statistics.")
@click.option(
    "--jsonl", is_flag=True, help="Print JSON objects line by line as the answer is made; the last is all of it."
)
@common
@debug_option
@found("file")
def generate(
    file: Path,
    text: str | None,
    prompt: str | None,
    system: str | None,
    thinking: bool,
    raw: bool,
    quiet: bool,
    as_json: bool,
    jsonl: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Answer one question about text, pictures, sound and videos.

    FILE is a bundle made by `gemma4gguf convert`. Text that is piped in follows the question. For example:

    \b
      gemma4gguf generate gemma.gguf "What is in this picture?" --image cat.jpg
      gemma4gguf generate gemma.gguf "Write down what is said." --audio note.wav
      gemma4gguf generate gemma.gguf "What happens here?" --video clip.mp4 --from 1:30 --to 2:00
      gemma4gguf generate gemma.gguf "What is owed?" --image letter.pdf#2-4 --image-tokens 1120
      gemma4gguf generate gemma.gguf "Summarise" < letter.txt
    """
    if [text, prompt, *given["images"], *given["audio"], *given["videos"]].count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read only once")
    asked = question(text, prompt, stdin_taken=uses_standard_input(given))
    media = media_of(given)
    opening, answering = split(given)
    writer = AnswerWriter(None if quiet else sys.stderr)
    status = StatusLine(quiet=quiet or as_json or jsonl)
    with warnings_told(), ending_at_once(), status as line, opened(file, debug=debug, **opening) as model:
        for name in model.bundle.missing:
            warn(f"{file}: {model.bundle.absence(name)}")
        line.tell("loading")
        for chunk in model.stream(
            "\n\n".join([*media.texts, asked]),
            **media.keywords,
            system=system,
            thinking=thinking,
            raw=raw,
            on_progress=lambda done, total: line.tell(f"reading {done:,} of {total:,}"),
            **answering,
        ):
            line.clear()
            result = chunk.result
            if jsonl:
                print_json(_record(chunk), indent=None)
            elif not as_json:
                writer.write(chunk)
    assert result is not None  # of the last chunk
    if as_json:
        print_json(asdict(result))
    elif not jsonl:
        writer.end(result)
        if sys.stderr is not None and sys.stderr.isatty() and not quiet:
            note(speed(result))


def _record(chunk: Chunk) -> dict[str, Any]:
    """What is new, by name; at the end the whole."""
    if chunk.result is not None:
        return {"result": asdict(chunk.result)}
    return {name: value for name in ("text", "thought") if (value := getattr(chunk, name))}


COMMANDS = (generate,)
