"""Options of the commands that run a model, made from the library's own tables where those say what there is.

Options come as one dictionary each: those of the model when it is opened, those of every answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import click

from ..runtime.options import OPTIONS, GenerateOptions

Function = Callable[..., Any]
# What an option's help calls its value; N for all others.
LETTERS = {"temperature": "T", "top_k": "K", "top_p": "P", "min_p": "P"} | dict.fromkeys(
    ("repetition_penalty", "frequency_penalty", "presence_penalty"), "R"
)
FOR_PROGRAMS = {"logit_bias", "logprobs", "top_logprobs"}  # options of an answer that nobody types
_MODEL = (
    click.option("--image-tokens", type=int, metavar="N", help="Soft tokens per picture: 70, 140, 280, 560, 1120."),
    click.option("--context", type=int, metavar="N", help="Tokens of prompt and answer together [what fits]."),
    click.option("--threads", type=int, metavar="N", help="Processor threads [physical cores]."),
    click.option("--gpu-layers", metavar="N|auto", default="auto", show_default=True, help="Layers on the GPU."),
    click.option(
        "--kv-type", metavar="TYPE", default="f16", show_default=True, help="Cache: f16, bf16, q8_0, q4_0, f32."
    ),
    click.option(
        "--flash-attention", metavar="auto|on|off", default="auto", show_default=True, help="A leaner attention."
    ),
    click.option("--draft", metavar="auto|off|N", default="auto", show_default=True, help="Tokens drafted at a time."),
    click.option("--force", is_flag=True, help="Open a model whose memory cannot fit."),
)


def model_options(function: Function) -> Function:
    """Options of `Gemma4`."""
    for option in reversed(_MODEL):
        function = option(function)
    return function


def answer_options(function: Function) -> Function:
    """Options of one answer: what `runtime.options.OPTIONS` has for people."""
    for name in reversed([name for name in OPTIONS if name not in FOR_PROGRAMS]):
        function = _answer_option(name)(function)
    return function


def _answer_option(name: str) -> Function:
    wanted = get_args(get_type_hints(GenerateOptions)[name])
    flag, text = f"--{name.replace('_', '-')}", OPTIONS[name].help
    if str in wanted:
        return click.option(flag, multiple=True, metavar="TEXT", help=f"{text} May be given several times.")
    return click.option(flag, type=int if int in wanted else float, metavar=LETTERS.get(name, "N"), help=text)


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as click gives them -> those of the model, and those of an answer; without what was not given."""
    chosen = {name: _number(name, value) for name, value in given.items() if value not in (None, ())}
    answer = {name: chosen.pop(name) for name in OPTIONS if name in chosen}
    return chosen, answer


def _number(name: str, value: Any) -> Any:
    """A number or a word, such as `--draft 3` and `--draft auto`."""
    return int(value) if name in ("gpu_layers", "draft") and str(value).isdecimal() else value
