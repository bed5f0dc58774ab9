"""`gemma4gguf pack`: files from anyone in, one bundle out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import common, found, in_options, option_names, print_json
from .show import Progress, Table, size, warn


@click.command()
@click.argument("text", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--embedder", type=click.Path(path_type=Path), metavar="FILE", help="Its mmproj file.")
@click.option("--drafter", type=click.Path(path_type=Path), metavar="FILE", help="Its MTP assistant's GGUF.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@common
@found("text")
def pack(text: Path, out: Path, embedder: Path | None, drafter: Path | None, force: bool, as_json: bool) -> None:
    """Join a text model's GGUF, its mmproj and its drafter to one bundle.

    TEXT may be a bundle: its parts stay unless an option replaces them. It may be one file of a split model
    (NAME-00001-of-00003.gguf): the files are joined. Nothing is converted, so nothing is lost.
    """
    from ..bundle.reading import NAMES
    from ..tools.pack import pack as work

    with Progress(quiet=as_json) as progress:
        result = work(
            text,
            out,
            embedder=embedder,
            drafter=drafter,
            force=force,
            progress=lambda done, total: progress(done, total, "pack"),
        )
    options = option_names(click.get_current_context().command)
    notes = [in_options(note, options) for note in result.notes]
    if as_json:
        print_json({**asdict(result), "notes": notes})
        return
    table = Table("section", "size")
    for name, nbytes in zip(result.sections, result.sizes, strict=True):
        table.row(NAMES[name], size(nbytes))
    table.print()
    for note in notes:
        warn(note)
    click.echo(f"{result.path}: {size(result.size)}")


COMMANDS = (pack,)
