"""`gemma4gguf plan`: does a model fit into this machine's memory, which type is best, and what to type."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import Any

import click

from ..arguments import LONGEST
from .common import common, print_json
from .show import Progress, Table, note, number, printable, size, warn

UNITS = {"": 10**9, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
TIGHT = "tight: it opens, but takes some of what the system needs, or reads pages again and again; no: it is refused"
LONGER = (
    "longer: {type} has {more} tokens with --context max --kv-type {lean} (8 bits a value), {tokens} with {kv_type}"
)
LOW = "{type} keeps fewer than 4 bits per weight: expect clearly more mistakes"


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """16GB, 7.5G or 8GiB as bytes; a number alone is in GB."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", value.strip().upper())
    if not found or found[2] not in UNITS or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no size; expected for example 16GB", ctx, param)
    return int(float(found[1]) * UNITS[found[2]])


def _tokens(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == LONGEST:
        return value
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r}: expected a number of tokens or {LONGEST}", ctx, param)
    return int(value)


@click.command()
@click.argument("source")
@click.option(
    "--memory", "limit", callback=_bytes, metavar="SIZE", help="Memory to plan for, such as 16GB [this machine's]."
)
@click.option(
    "--context",
    callback=_tokens,
    metavar="N|max",
    help="Tokens of a conversation [what fits, to 32768]; max: what fits.",
)
@click.option("--parallel", type=click.IntRange(1), metavar="N", default=1, help="Conversations held at once [1].")
@click.option("--kv-type", metavar="TYPE", default="f16", show_default=True, help="Cache: f16, bf16, q8_0, q4_0, f32.")
@click.option("--drafter", metavar="SOURCE", help="The MTP assistant that goes into the bundle too.")
@common
def plan(source: str, as_json: bool, **how: Any) -> int:
    """Tell what of a model fits into memory, with which context, and the commands that get and run it.

    SOURCE is a bundle, a checkpoint folder or a Hub id, each of the last two perhaps with a type: google/gemma-4-12B-it
    or google/gemma-4-12B-it:Q4_K_M. Only headers are read. Exit status 1 where it does not fit.
    """
    from converters.mixture import UNDER_FOUR_BITS

    from ..tools.plan import LEAN
    from ..tools.plan import plan as work

    with Progress(quiet=as_json) as progress:
        found = work(source, progress=lambda done, total: progress(done, total, "download"), **how)
    chosen = found.best or found.instead
    if as_json:
        print_json(_for_json(found))
        return 0 if found.best else 1
    click.echo(f"{source} in {size(found.limit)} of memory, {size(found.room)} of it for the model")
    _print_choices(found)
    if found.best is None:
        _print_no(found)
    if chosen is not None:
        _print_kinds(chosen)
        if chosen.type in UNDER_FOUR_BITS:
            warn(LOW.format(type=chosen.type))
    for name, command in (("get it", found.get), ("run it", found.run), ("or a mix of types", found.mix)):
        if command is not None:
            click.echo(f"{name}:  {printable(command)}")  # on one line, to be copied
    tokens = found.longest.tokens
    if tokens[LEAN] > tokens[found.kv_type] and not (found.best and isinstance(how["context"], int)):
        names = {"type": found.longest.type, "lean": LEAN, "kv_type": found.kv_type}
        note(LONGER.format(more=number(tokens[LEAN]), tokens=number(tokens[found.kv_type]), **names))
    return 0 if found.best else 1


def _for_json(found: Any) -> dict[str, Any]:
    """Its fields, with the sums of every choice."""
    held = asdict(found)
    for choice, told in zip(
        (*found.choices, found.best, found.instead, found.least),
        (*held["choices"], held["best"], held["instead"], held["least"]),
        strict=True,
    ):
        if choice is not None:
            told["fits"] = choice.fits
            told |= {name: getattr(choice.memory, name) for name in ("private", "mapped", "total")}
    return held


def _print_choices(found: Any) -> None:
    table = Table("type", "file", *(number(at.context) for at in found.choices[0].contexts), "takes", "tokens")
    for choice in found.choices:
        fits = [at.fit for at in choice.contexts]
        mark = "best" if choice == found.best else choice.fit
        tokens = number(choice.context) + (f" ({mark})" if mark != "fits" else "")
        table.row(choice.type, size(choice.size), *fits, size(choice.memory.total), tokens)
    table.print()
    if any(at.fit != "fits" for choice in found.choices for at in choice.contexts):
        note(TIGHT)


def _print_no(found: Any) -> None:
    click.secho("It does not fit.", fg="red", bold=True)
    if found.instead is not None:
        click.echo(f"What would: {found.instead.type} with {number(found.instead.context)} tokens.")
        return
    least = found.least
    click.echo(
        f"Nothing would: {least.type} takes least, {size(least.memory.total)} with {number(least.context)} tokens."
    )


def _print_kinds(choice: Any) -> None:
    table = Table(f"{choice.type}, {number(choice.context)} tokens", "private", "mapped")
    for kind in fields(choice.memory):
        held = getattr(choice.memory, kind.name)
        if held.total:
            table.row(kind.name, size(held.private), size(held.mapped))
    table.row("together", size(choice.memory.private), size(choice.memory.mapped))
    table.print()


COMMANDS = (plan,)
