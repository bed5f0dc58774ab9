"""`gemma4gguf pull`, `list` and `rm`: published parts to a bundle in the models folder, and what is in it."""

from __future__ import annotations

from dataclasses import asdict

import click

from .common import common, print_json
from .show import Progress, Table, printable, size, warn


@click.command(short_help="Fetch a published model into one bundle.")
@click.argument("repo", metavar="REPO[:TYPE]")
@click.option("--drafter", metavar="REPO", help="Where its MTP drafter is [the same repository, if it is there].")
@click.option("--embedder", metavar="REPO", help="Where its mmproj is [the same repository].")
@click.option("--text-only", is_flag=True, help="Leave the embedder and the drafter out.")
@click.option("--name", metavar="NAME", help="What the model is called [the repository's name and the type].")
@click.option("--keep", is_flag=True, help="Keep the parts beside the bundle.")
@click.option("--dry-run", is_flag=True, help="Tell what would be fetched, and fetch nothing.")
@common
def pull(
    repo: str,
    drafter: str | None,
    embedder: str | None,
    text_only: bool,
    name: str | None,
    keep: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch a model's published GGUF parts from the Hub and pack them into one bundle in the models folder.

    TYPE is the text model's, such as Q4_K_M (taken if none is named), or a file in the repository. The files are
    recognised by their headers. A pull that was interrupted goes on where it stopped. For example:

    gemma4gguf pull OWNER/gemma-4-12B-it-GGUF:Q4_K_M
    """
    from ..bundle.reading import NAMES
    from ..tools.pull import look
    from ..tools.pull import pull as work

    offer = look(repo, drafter=drafter, embedder=embedder, text_only=text_only, name=name)
    if not as_json:
        table = Table("part", "type", "size", "file")
        for part in offer.parts:
            for i, file in enumerate(part.files):
                table.row("" if i else NAMES[part.section], "" if i else part.type, size(file.size), file.where)
        table.print()
        click.echo(f"licence: {printable(offer.record.licence)}")
        click.echo(f"bundle: {size(offer.size)}, {offer.path}")
        for note in offer.notes:
            warn(note)
        click.echo("there already, to be checked" if offer.ready else f"to fetch: {size(offer.missing)}")
    if dry_run:
        if as_json:
            print_json(asdict(offer) | {"missing": offer.missing})
        return
    with Progress(quiet=as_json) as progress:
        result = work(offer, keep=keep, progress=progress)
    if as_json:
        print_json(asdict(offer) | asdict(result))
        return
    for note in result.notes:
        warn(note)
    if result.kept:
        click.echo(f"parts kept in {result.kept}")
    click.echo(f"{result.path}: {size(result.size)}")
    click.echo(f'gemma4gguf generate {result.name} -p "What can you do?"')


@click.command("list", short_help="Show the models in the models folder.")
@common
def list_models(as_json: bool) -> None:
    """Show the models in the models folder (GEMMA4GGUF_MODELS): names, sizes, where they come from."""
    from ..bundle.finding import models_folder
    from ..tools.models import models

    found = models()
    if as_json:
        print_json({"folder": str(models_folder()), "models": [asdict(model) for model in found]})
        return
    if not found:
        click.echo(f"no models in {models_folder()}; `gemma4gguf pull REPO` fetches one")
        return
    table = Table("model", "size", "from")
    for model in found:
        origin = model.record.repo if model.record else "this machine"
        parts = f", {'and ' if model.size else 'unfinished, '}{size(model.parts)} of parts" if model.parts else ""
        table.row(model.name, size(model.size) if model.size else "-", f"{origin}{parts}")
    table.print()


@click.command(short_help="Delete models from the models folder.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@common
def rm(names: tuple[str, ...], as_json: bool) -> None:
    """Delete models from the models folder, with what an unfinished pull left of them."""
    from ..tools.models import remove

    removed = []
    for name in names:
        removed.append(remove(name))
        if not as_json:
            click.echo(f"{removed[-1].name}: deleted, {size(removed[-1].size + removed[-1].parts)}")
    if as_json:
        print_json([asdict(model) for model in removed])


COMMANDS = (pull, list_models, rm)
