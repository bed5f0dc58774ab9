"""Options of the commands that run a model, made from the library's own tables where those say what there is.

Options come as one dictionary each: those of the model when it is opened, those of every answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from ..arguments import local_path
from ..errors import InputError
from ..runtime.options import OPTIONS, GenerateOptions

Function = Callable[..., Any]
# What an option's help calls its value; N for all others.
LETTERS = {"temperature": "T", "top_k": "K", "top_p": "P", "min_p": "P"} | dict.fromkeys(
    ("repetition_penalty", "frequency_penalty", "presence_penalty"), "R"
)
FOR_PROGRAMS = {"logit_bias", "logprobs", "top_logprobs"}  # options of an answer that nobody types
MOST_BYTES = 1 << 20  # of a schema's or a grammar's file
_FROM_FILES = {  # options of an answer that are too long to be typed
    "response_format": click.option(
        "--schema", "response_format", metavar="FILE", help="Answer in JSON, as this JSON schema says."
    ),
    "grammar": click.option("--grammar", metavar="FILE", help="Answer in what this grammar (GBNF) writes."),
}
_MODEL = (
    click.option("--image-tokens", type=int, metavar="N", help="Soft tokens per picture: 70, 140, 280, 560, 1120."),
    click.option(
        "--context", metavar="N|max", help="Tokens of prompt and answer together [what fits]; max: all that fits."
    ),
    click.option("--threads", type=int, metavar="N", help="Processor threads [physical cores]."),
    click.option("--threads-batch", type=int, metavar="N", help="The same for several rows at once [as --threads]."),
    click.option("--micro-batch", type=int, metavar="N", help="Rows of a prompt computed together [512]."),
    click.option("--repack/--no-repack", default=True, help="Copy weights into an order that suits the processor."),
    click.option("--gpu-layers", metavar="N|auto", default="auto", show_default=True, help="Layers on the GPU."),
    click.option(
        "--kv-type", metavar="TYPE", default="f16", show_default=True, help="Cache: f16, bf16, q8_0, q4_0, f32."
    ),
    click.option(
        "--flash-attention", metavar="auto|on|off", default="auto", show_default=True, help="A leaner attention."
    ),
    click.option("--draft", metavar="auto|off|N", default="auto", show_default=True, help="Tokens drafted at a time."),
    click.option("--cache-dir", metavar="PATH", help="Keep beginnings of prompts in this folder for the next start."),
    click.option("--force", is_flag=True, help="Open a model whose memory cannot fit."),
)


def model_options(function: Function) -> Function:
    """Options of `Gemma4`."""
    for option in reversed(_MODEL):
        function = option(function)
    return function


def model_words(options: Mapping[str, Any]) -> list[str]:
    """Options of `Gemma4` as they are typed."""
    words: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def answer_options(function: Function) -> Function:
    """Options of one answer: what `runtime.options.OPTIONS` has for people."""
    for name in reversed([name for name in OPTIONS if name not in FOR_PROGRAMS]):
        function = _answer_option(name)(function)
    return function


def _answer_option(name: str) -> Function:
    if name in _FROM_FILES:
        return _FROM_FILES[name]
    wanted = get_args(get_type_hints(GenerateOptions)[name])
    flag, text = f"--{name.replace('_', '-')}", OPTIONS[name].help
    if str in wanted:
        return click.option(flag, multiple=True, metavar="TEXT", help=f"{text} May be given several times.")
    return click.option(flag, type=int if int in wanted else float, metavar=LETTERS.get(name, "N"), help=text)


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as click gives them -> those of the model, and those of an answer; without what was not given."""
    chosen = {name: _meant(name, value) for name, value in given.items() if value not in (None, ())}
    answer = {name: chosen.pop(name) for name in OPTIONS if name in chosen}
    return chosen, answer


def _meant(name: str, value: Any) -> Any:
    """What was typed, as the library takes it: a number or a word (`--draft 3`, `--draft auto`); what a file holds."""
    if name in _FROM_FILES:
        text = _file(local_path(value))
        return text if name == "grammar" else {"type": "json_schema", "json_schema": {"schema": _json(text, value)}}
    return int(value) if name in ("context", "gpu_layers", "draft") and str(value).isdecimal() else value


def _file(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: longer than {MOST_BYTES:,} bytes")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start:,}") from error


def _json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
