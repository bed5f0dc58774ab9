"""`gemma4gguf export`: a bundle's parts for llama.cpp, LM Studio or Ollama."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import common, found, print_json
from .show import Progress, Table, size, warn


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--for", "target", required=True, metavar="llama.cpp|lmstudio|ollama", help="Who will read it.")
@click.option("--image-tokens", type=int, metavar="N", help="Soft tokens a picture may take: 70, 140, 280, 560, 1120.")
@click.option("--copy", is_flag=True, help="Cut the text model out too, instead of linking the whole file.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@common
@found("file")
def export(
    file: Path,
    folder: Path,
    target: str,
    image_tokens: int | None,
    copy: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Lay a bundle's parts out in DIR for another runtime, and print what to type there.

    The parts are the bundle's own bytes; `gemma4gguf pack` makes the same bundle of them again.
    """
    from ..tools.export import export as work

    with Progress(quiet=as_json) as progress:
        result = work(
            file,
            folder,
            target,
            image_tokens=image_tokens,
            link=not copy,
            force=force,
            progress=lambda done, total: progress(done, total, "export"),
        )
    if as_json:
        print_json(asdict(result))
        return
    table = Table("file", "size", "what")
    for made in result.files:
        linked = ", the whole bundle's second name" if made.how == "linked" else ""
        table.row(str(made.path), size(made.size), made.what + linked)
    table.print()
    for note in result.notes:
        warn(note)
    for command in result.commands:
        click.echo(command)


COMMANDS = (export,)
