"""The command line: arguments in, results on standard output, everything else on standard error.

The only module that prints and exits. Exit status: 0 done, 1 an expected failure in one line, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__
from .errors import Gemma4Error, InputError
from .show import Progress, Table, number, size, warn

Command = TypeVar("Command", bound=Callable[..., Any])
STDIN = "-"


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a click command as a program would: the exit status, with the failure told on standard error."""
    try:
        status = command.main(args=arguments, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 1
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Gemma4Error as error:
        if "--debug" in (arguments or sys.argv):
            raise
        click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
        return 1


def main() -> None:
    """Entry point of `gemma4gguf`."""
    sys.exit(run(cli))


def convert_to_gguf() -> None:
    """Entry point of `convert-to-gguf`."""
    sys.exit(run(convert))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gemma4gguf")
def cli() -> None:
    """Gemma 4 12B in one GGUF file: convert it, look into it, and ask it about text, pictures and sound.

    Nothing leaves this machine: no command but a conversion from a Hub id uses the network.
    """


def common(command: Command) -> Command:
    """Options that every command takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(command)
    return click.option("--debug", is_flag=True, help="Show llama.cpp's log, and tracebacks.")(command)


def _json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


# ── convert ──────────────────────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@click.argument("source")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--quant", metavar="TYPE", help="Type of the text model's matrices, such as Q4_K_M, Q8_0, BF16.")
@click.option("--drafter", metavar="SOURCE", help="The MTP assistant to put into the same file.")
@click.option("--drafter-quant", metavar="TYPE", default="Q8_0", show_default=True, help="Type of its matrices.")
@click.option("--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Importance matrix.")
@click.option("--type", "types", multiple=True, metavar="PATTERN=TYPE", help="Type of the tensors that match.")
@click.option("--text-only", is_flag=True, help="Leave the multimodal embedder out.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads [all cores].")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@common
def convert(source: str, out: Path | None, as_json: bool, debug: bool, **how: Any) -> None:
    """Turn a checkpoint into one GGUF file: text model, multimodal embedder, drafter.

    SOURCE is a checkpoint folder, a Hub id such as google/gemma-4-12B-it, or a GGUF. OUT is the file to write
    [NAME-TYPE.gguf in this folder].
    """
    from converters import convert as work

    from .bundle import NAMES

    given = {name: value for name, value in how.items() if value is not None}
    with Progress(quiet=as_json) as progress:
        result = work(source, out, progress=progress, **given)
    plan = result.plan
    if as_json:
        _json(asdict(result))
        return
    table = Table("section", "tensors", "size", "types")
    for section in plan.sections:
        kinds = ", ".join(f"{count} {kind}" for kind, count in section.counts.items())
        table.row(NAMES[section.architecture], number(len(section.tensors)), size(section.size), kinds)
    table.print()
    for note in plan.notes:
        warn(note)
    if result.path is None:
        click.echo(f"would write {plan.out}: {size(plan.total)}, {size(plan.free)} free there")
    else:
        click.echo(f"{result.path}: {size(result.size)} in {result.seconds:.1f} s")


# ── generate ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _stdin_bytes() -> bytes:
    return sys.stdin.buffer.read()


def _medium(path: str) -> str | bytes:
    return _stdin_bytes() if path == STDIN else path


@cli.command()
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
@click.option("--min-p", type=float, metavar="P", help="Leave out what is P times less likely than the best.")
@click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given several times.")
@click.option("--context", type=int, metavar="N", help="Tokens that prompt and answer may have together [8192].")
@click.option("--threads", type=int, metavar="N", help="Processor threads [physical cores].")
@click.option("--gpu-layers", metavar="N|auto", default="auto", show_default=True, help="Layers on the GPU.")
@click.option("--kv-type", metavar="TYPE", default="f16", show_default=True, help="Cache type: f16, q8_0, q4_0, f32.")
@click.option("--flash-attention", metavar="auto|on|off", default="auto", show_default=True)
@common
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
    from .model import Gemma4

    if [prompt, *images, *audio].count(STDIN) > 1:
        raise click.UsageError("standard input (-) can be read only once")
    how = {name: value for name, value in given.items() if value is not None}
    opening = {name: how.pop(name) for name in OPENING if name in how}
    opening["gpu_layers"] = _gpu_layers(how.pop("gpu_layers"))
    if prompt == STDIN:
        prompt = _stdin_bytes().decode("utf-8", "replace").removesuffix("\n")
    with warnings.catch_warnings(), Gemma4(file, debug=debug, **opening) as model:
        warnings.showwarning = lambda message, *_: warn(str(message))
        for name in model.bundle.missing:
            warn(f"{file}: {model.bundle.absence(name)}")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # in C for seconds at a time: end at once, nothing can be lost
        result, shown = None, ""
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
                click.echo(click.style(chunk.thought, dim=True), nl=False, err=True)
                click.echo(chunk.text, nl=False)
                sys.stdout.flush()
            shown += chunk.text
        assert result is not None
        if as_json:
            _json(asdict(result))
            return
        if not shown.endswith("\n"):
            click.echo()
        for call in result.tool_calls:
            click.echo(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})")
        if sys.stderr.isatty():
            click.secho(speed(result), dim=True, err=True)


OPENING = ("context", "threads", "kv_type", "flash_attention", "image_tokens")


def _gpu_layers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither a number nor auto", param_hint="--gpu-layers")
    return int(text)


def speed(result: Any) -> str:
    """One line of counts and times."""
    t, n = result.timings, result.tokens
    return (
        f"{n.prompt} tokens read in {t.prefill_s:.1f} s, {n.completion} written at {t.tokens_per_s:.1f} a second"
        f" ({result.finish_reason})"
    )


# ── inspect, verify, doctor ──────────────────────────────────────────────────────────────────────────────────────


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@common
def inspect(file: Path, as_json: bool, debug: bool) -> None:
    """Show what a bundle holds: sections, types, sizes, defaults."""
    from .bundle import Bundle
    from .examine import summary

    report = summary(Bundle.open(file))
    if as_json:
        _json(report)
        return
    click.echo(f"{report['file']}  {size(report['size'])}")
    table = Table("section", "at", "size", "parameters", "bits", "types")
    for section in report["sections"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in section["types"].items())
        table.row(
            section["what"],
            number(section["offset"]),
            size(section["size"]),
            number(section["parameters"]),
            f"{section['bits_per_weight']:.2f}",
            kinds,
        )
    table.print()
    facts = Table("", "")
    for group in ("model", "sampling", "provenance"):
        for name, value in report[group].items():
            if value is not None:
                facts.row(name.replace("_", " "), number(value) if isinstance(value, int) else str(value))
    facts.row("vocabulary", number(report["vocabulary"]))
    facts.row("chat template", f"SHA-256 {(report['chat_template_sha256'] or 'none')[:16]}")
    facts.print(header=False)
    for name in report["missing"]:
        warn(Bundle.open(file).absence(name))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@common
def verify(file: Path, as_json: bool, debug: bool) -> int:
    """Check a bundle's every byte: sizes, hashes, values, template. Exit status 1 on any fault."""
    from .examine import faults

    found = faults(file)
    if as_json:
        _json({"file": str(file), "faults": found})
    else:
        for fault in found:
            click.echo(f"{click.style('fault', fg='red')}  {fault}")
        if not found:
            click.echo(f"{file}: sound")
    return 1 if found else 0


@cli.command()
@common
def doctor(as_json: bool, debug: bool) -> int:
    """Show what this machine offers and what would stop gemma4gguf on it."""
    from .doctor import examine

    findings = examine()
    if as_json:
        _json([asdict(finding) for finding in findings])
    else:
        table = Table("", "")
        for finding in findings:
            table.row(finding.name, finding.value)
        table.print(header=False)
        for finding in findings:
            if finding.problem:
                warn(f"{finding.name} {finding.value}: {finding.problem}")
    return 1 if any(finding.problem for finding in findings) else 0


__all__ = ["InputError", "cli", "main"]
