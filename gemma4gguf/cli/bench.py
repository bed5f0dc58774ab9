"""`gemma4gguf bench`: how fast a model is on this machine, and whether that changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .bundled import converted
from .common import common, found, print_json
from .options import model_options, split
from .show import StatusLine, Table, warn

if TYPE_CHECKING:
    from ..tools.bench import Figure, Report

BAR = 32  # columns of the longest bar


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--compare", type=click.Path(path_type=Path), metavar="JSON", help="What bench --json wrote before.")
@model_options
@common
@found("file")
def bench(file: Path | None, compare: Path | None, as_json: bool, **given: Any) -> None:
    """Measure a model on this machine: reading, writing, pictures, sound, drafts, several answers at once.

    Takes a minute or two. Without FILE the bundled small model is measured, which says whether all is well, and
    little of the real one. Figures are medians; half of the measurements lie within the ± beside them.
    """
    from ..tools.bench import bench as work
    from ..tools.bench import compared

    before = _read(compare) if compare else None
    options, _ = split(given)
    with _bundle(file) as path, StatusLine(quiet=as_json, every_s=0) as status:
        report = work(path, tell=lambda stage: status.tell(f"measuring: {stage}"), **options)
    if as_json:
        print_json(report.as_json())
        return
    _print(report)
    if before is not None:
        _print_compared(compared(report, before))


@contextmanager
def _bundle(file: Path | None) -> Iterator[Path]:
    if file is not None:
        yield file
        return
    with converted() as (path, _):
        yield path


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None


def _print(report: Report) -> None:
    machine = report.machine
    click.echo(f"{Path(report.file).name} on {machine['processor']}, {machine['cores']} cores")
    for text in report.warnings:
        warn(text)
    table = Table("", "", "±", "")
    for one in report.figures:
        table.row(one.name, _value(one, one.value), f"{50 * one.spread:.0f} %" if one.rounds > 1 else "", one.note)
    table.print(header=False)
    _plot([one for one in report.figures if one.name.startswith("a check of")])


def _value(one: Figure, value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {one.unit}"


def _plot(figures: list[Figure]) -> None:
    """A check's time by its rows: where it jumps, a longer draft costs more than it brings."""
    if not figures:
        return
    longest = max(one.value for one in figures)
    click.echo()
    for one in figures:
        bar = "█" * max(1, round(BAR * one.value / longest))
        click.echo(f"{one.name:<18} {bar} {_value(one, one.value)}")


def _print_compared(rows: list[tuple[Figure, float, float]]) -> None:
    click.echo()
    table = Table("", "before", "now", "better by")
    for one, value, better in rows:
        table.row(one.name, _value(one, value), _value(one, one.value), f"{better:.2f}x")
    table.print()


COMMANDS = (bench,)
