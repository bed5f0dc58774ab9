"""`gemma4gguf generate`: one question, answered as it is being written."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .common import common, debug_option, found, print_json, standard_input
from .show import warn
from .signals import ending_at_once

STDIN = "-"
OPENING = (
    "context",
    "threads",
    "gpu_layers",
    "kv_type",
    "flash_attention",
    "image_tokens",
    "draft",
)  # options of the model, not the answer


def _medium(path: str) -> str | bytes:
    return standard_input() if path == STDIN else path


@click.command(short_help="Answer a question about text, pictures, sound.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", required=True, metavar="TEXT", help="The question; - reads standard input.")
@click.option("--image", "images", multiple=True, metavar="PATH", help="A picture; may be given several times.")
@click.option("--audio", multiple=True, metavar="PATH", help="A sound clip; may be given several times.")
@click.option("--system", metavar="TEXT", help="What the model is told first.")
@click.option("--thinking", is_flag=True, help="Let it think first; the thought goes to standard error.")
@click.option("--raw", is_flag=True, help="No chat template; <|image|> and <|audio|> stand where media go.")
@click.option("--image-tokens", type=int, metavar="N", help="Soft tokens a picture may take: 70, 140, 280, 560, 1120.")
@click.option("--max-tokens", type=int, metavar="N", help="Longest answer [until the context is full].")
@click.option("--temperature", type=float, metavar="T", help="0 is greedy [the model's own].")
@click.option("--top-k", type=int, metavar="K", help="Choose among the K likeliest [the model's own].")
@click.option("--top-p", type=float, metavar="P", help="Choose among the likeliest that make up P [the model's own].")
@click.option(
    "--min-p",
    type=float,
    metavar="P",
    help="Leave out what is less than P times as likely as the best [the model's own].",
)
@click.option("--repetition-penalty", type=float, metavar="R", help="Make what was said less likely [the model's own].")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--context", type=int, metavar="N", help="Tokens that prompt and answer may have together [8192].")
@click.option("--threads", type=int, metavar="N", help="Processor threads [physical cores].")
@click.option("--gpu-layers", metavar="N|auto", default="auto", show_default=True, help="Layers on the GPU.")
@click.option("--kv-type", metavar="TYPE", default="f16", show_default=True, help="Cache: f16, bf16, q8_0, q4_0, f32.")
@click.option("--flash-attention", metavar="auto|on|off", default="auto", show_default=True, help="A leaner attention.")
@click.option("--draft", metavar="auto|off|N", default="auto", show_default=True, help="Tokens drafted at a time.")
@common
@debug_option
@found("file")
def generate(
    file: Path,
    prompt: str,
    images: tuple[str, ...],
    audio: tuple[str, ...],
    system: str | None,
    thinking: bool,
    raw: bool,
    as_json: bool,
    debug: bool,
    **given: Any,
) -> None:
    """Answer one question about text, pictures and sound.

    FILE is a bundle made by `gemma4gguf convert`. For example:

    \b
      gemma4gguf generate gemma.gguf -p "What is in this picture?" --image cat.jpg
      gemma4gguf generate gemma.gguf -p "Write down what is said." --audio note.wav
    """
    from ..model import Gemma4

    if [prompt, *images, *audio].count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read only once")
    how = {name: value for name, value in given.items() if value is not None}
    opening = {name: how.pop(name) for name in OPENING if name in how}
    for name in ("gpu_layers", "draft"):  # a number or a word
        opening[name] = int(opening[name]) if opening[name].isdecimal() else opening[name]
    if prompt == STDIN:
        prompt = standard_input().decode("utf-8", "replace").removesuffix("\n")
    with warnings.catch_warnings(), ending_at_once(), Gemma4(file, debug=debug, **opening) as model:
        warnings.showwarning = lambda message, *_: warn(str(message))
        for name in model.bundle.missing:
            warn(f"{file}: {model.bundle.absence(name)}")
        result, shown, thought = None, "", ""
        for chunk in model.stream(
            prompt,
            images=[_medium(path) for path in images],
            audio=[_medium(path) for path in audio],
            system=system,
            thinking=thinking,
            raw=raw,
            **how,
        ):
            result = chunk.result
            if not as_json:
                if chunk.thought:
                    click.secho(chunk.thought, dim=True, nl=False, err=True)
                if chunk.text and thought:
                    click.echo(err=True)  # the answer begins on a line of its own
                    thought = ""
                click.echo(chunk.text, nl=False)
            thought += chunk.thought
            shown += chunk.text
        assert result is not None
        if as_json:
            print_json(asdict(result))
            return
        if not shown.endswith("\n"):
            click.echo()
        for call in result.tool_calls:
            click.echo(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})")
        if sys.stderr.isatty():
            click.secho(speed(result), dim=True, err=True)


def speed(result: Any) -> str:
    """One line of counts and times."""
    t, n, d = result.timings, result.tokens, result.draft
    drafts = f", {d.accepted} of {d.proposed} drafts accepted" if d.proposed else ""
    return (
        f"{n.prompt} tokens read in {t.prefill_s:.1f} s, {n.completion} written at {t.tokens_per_s:.1f} a second"
        f"{drafts} ({result.finish_reason})"
    )


COMMANDS = (generate,)
