"""`convert-to-gguf` and `gemma4gguf convert`: checkpoint in, bundle out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..version import __version__
from .common import common, in_options, option_names, print_json
from .show import Progress, Table, number, size, warn

if TYPE_CHECKING:
    from converters.grid import Count


@click.command()
@click.argument("source")
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option("--quant", metavar="TYPE", help="Type of the text model's matrices, such as Q4_K_M, Q8_0, BF16.")
@click.option("--target-size", metavar="SIZE", help="Choose types so that the file takes at most this, such as 6.5GB.")
@click.option(
    "--target-bpw", type=float, metavar="N", help="The same by bits per value of the text model, such as 4.5."
)
@click.option("--drafter", metavar="SOURCE", help="The MTP assistant to put into the same file.")
@click.option("--drafter-quant", metavar="TYPE", help="Type of its matrices [Q8_0, or Q4_0 if trained for it].")
@click.option("--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Importance matrix.")
@click.option(
    "--lora", type=click.Path(path_type=Path), metavar="FOLDER", help="LoRA adapter to merge, as PEFT saves it."
)
@click.option(
    "--type", "types", multiple=True, metavar="PATTERN=TYPE", help="Type of the tensors that match, or @FILE."
)
@click.option("--exact-llama", is_flag=True, help="Round matrices that lie on a grid as llama.cpp does.")
@click.option("--text-only", is_flag=True, help="Leave the multimodal embedder out.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads [all cores].")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.version_option(__version__, prog_name="convert-to-gguf")
@common
def convert(source: str, out: Path | None, as_json: bool, **how: Any) -> None:
    """Turn a checkpoint into one GGUF file: text model, multimodal embedder, drafter.

    SOURCE is a checkpoint folder, a Hub id such as google/gemma-4-12B-it, or a GGUF. OUT is the file to write
    [NAME-TYPE.gguf in this folder].
    """
    from converters import convert as work

    from ..bundle.reading import NAMES

    given = {name: value for name, value in how.items() if value is not None}
    with Progress(quiet=as_json) as progress:
        result = work(source, out, progress=progress, **given)
    plan = result.plan
    if as_json:
        print_json(asdict(result))
        return
    table = Table("section", "tensors", "size", "types")
    for section in plan.sections:
        kinds = ", ".join(f"{count} {kind}" for kind, count in section.counts.items())
        table.row(NAMES[section.architecture], number(len(section.tensors)), size(section.size), kinds)
    table.print()
    _print_grids(result.grids)
    for note in plan.notes:
        warn(in_options(note, option_names(convert)))
    if result.path is None:
        click.echo(f"would write {plan.out}: {size(plan.total)}, {size(plan.free)} free there")
    else:
        click.echo(f"{result.path}: {size(result.size)} in {result.seconds:.1f} s")


def _print_grids(grids: Mapping[str, Count]) -> None:
    """How the tensors on a grid were stored: those given back exactly together, the others one by one."""
    if not grids:
        return
    table = Table("on its grid", "blocks", "exact", "step rounded", "on no grid", "largest error")
    exact = [c for c in grids.values() if c.exact == c.blocks]
    rest = {name: c for name, c in grids.items() if c.exact < c.blocks}
    whole = {f"{len(exact)} tensors": sum(exact[1:], exact[0])} if exact else {}
    for name, c in (whole | rest).items():
        table.row(name, *map(number, (c.blocks, c.exact, c.rounded, c.off)), f"{c.error:.2g}")
    table.print()


COMMANDS = (convert,)
