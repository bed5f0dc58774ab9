"""`gemma4gguf pull`, `list` and `rm`: published parts to a bundle in the models folder, and what is in it."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from .common import common, in_options, option_names, print_json
from .show import Progress, Table, number, printable, size, warn

if TYPE_CHECKING:
    from ..tools.offer import Offer, Verdict


@click.command()
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
    from huggingface_hub.utils import logging

    from ..tools.offer import look, verdict
    from ..tools.pull import pull as work

    # The client tells of each retry; after an interrupt even the threads do that are left behind.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    offer = look(repo, drafter=drafter, embedder=embedder, text_only=text_only, name=name)
    if not as_json:
        _print_offer(offer)
        _print_verdict(verdict(offer))
    if dry_run:
        if as_json:
            print_json(_for_json(offer) | {"memory": asdict(verdict(offer))})
        return
    with Progress(quiet=as_json) as progress:
        result = work(offer, keep=keep, progress=progress)
    if as_json:
        print_json(_for_json(offer) | asdict(result))
        return
    options = option_names(click.get_current_context().command)
    for note in result.notes:
        warn(in_options(note, options))
    if result.kept:
        click.echo(f"parts kept in {result.kept}")
    click.echo(f"{result.path}: {size(result.size)}")
    click.echo(f'ask it: gemma4gguf generate {result.name} -p "What can you do?"')


def _print_offer(offer: Offer) -> None:
    from ..bundle.reading import NAMES

    click.echo(f"{offer.record.repo}, licence {printable(offer.record.licence)}")
    table = Table("part", "type", "size", "file")
    for part in offer.parts:
        first = part.files[0]
        file = first.path if first.repo == offer.record.repo else first.where
        more = f" and {len(part.files) - 1} more" if len(part.files) > 1 else ""
        table.row(NAMES[part.section], part.type, size(part.size), file + more)
    table.print()
    for note in offer.notes:
        warn(note)
    click.echo("there already, to be checked" if offer.ready else f"to fetch: {size(offer.missing)}")
    click.echo(f"bundle: {size(offer.size)}, {offer.path}")


def _print_verdict(found: Verdict) -> None:
    held = f", {size(found.limit)} is there" if found.limit is not None else ""
    click.echo(f"memory: {size(found.needed)} with a context of {number(found.context)} tokens{held}")
    if not found.fits:
        warn("it does not fit into this machine's memory; take a smaller type")


def _for_json(offer: Offer) -> dict[str, Any]:
    """Everything but the sections, whose headers are long."""
    shown = {f.name: getattr(offer, f.name) for f in fields(offer) if f.name != "sections"}
    parts = [asdict(part) | {"size": part.size} for part in offer.parts]
    return shown | {"record": asdict(offer.record), "parts": parts, "missing": offer.missing}


@click.command("list")
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


@click.command()
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
