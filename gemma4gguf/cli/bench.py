"""`gemma4gguf bench`: how fast a model is on this machine, and whether that changed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .bundled import converted
from .common import common, found, print_json
from .options import model_options, model_words, split
from .show import StatusLine, Table, warn

if TYPE_CHECKING:
    from ..tools.bench import Figure, Report
    from ..tools.tune import Tuning

BAR = 32  # columns of the longest bar


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--compare", type=click.Path(path_type=Path), metavar="JSON", help="What bench --json wrote before.")
@click.option("--tune", is_flag=True, help="Try threads, micro-batches and more, and say which options to type.")
@model_options
@common
@found("file")
def bench(file: Path | None, compare: Path | None, tune: bool, as_json: bool, **given: Any) -> None:
    """Measure a model on this machine: reading, writing, pictures, sound, drafts, several answers at once.

    Takes a minute or two. Without FILE the bundled small model is measured, which says whether all is well, and
    little of the real one. Figures are medians; half of the measurements lie within the ± beside them.

    With --tune it tries which options are fastest here, one after another, beginning with those that are given: a
    minute or two, longer where a large model is slow.
    """
    from ..tools.bench import bench as work
    from ..tools.bench import compared

    if tune and compare:
        raise InputError("compare: of no use with --tune, which compares options")
    before = _read(compare) if compare else None
    options, _ = split(given)
    if tune:
        _tune(file, as_json, options)
        return
    with _bundle(file) as path, StatusLine(quiet=as_json, every_s=0) as status:
        report = work(path, tell=lambda stage: status.tell(f"measuring: {stage}"), **options)
    if as_json:
        print_json(report.as_json())
        return
    _print(report)
    if before is not None:
        _print_compared(compared(report, before))


def _tune(file: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    from ..tools.tune import tune

    with _bundle(file) as path, StatusLine(quiet=as_json, every_s=0) as status:
        tuning = tune(path, tell=lambda stage: status.tell(f"measuring: {stage}"), **options)
    typed = shlex.join(model_words(tuning.options))
    if as_json:
        print_json(tuning.as_json() | {"typed": typed})
        return
    _introduce(tuning)
    names = list(dict.fromkeys(one.name for each in tuning.tried for one in each.figures))
    table = Table("", *names, "")
    for each in tuning.tried:
        told = {one.name: _value(one, one.value) for one in each.figures}
        for name, gain in each.gains.items():
            told[name] += f" ({gain:.2f}x)"
        table.row(
            shlex.join(model_words({each.option: each.value})),
            *(told.get(name, "") for name in names),
            "taken" if each.best and each.gains else "" if each.gains else "as it was",
        )
    table.print()
    click.echo(f"type:  {typed}" if typed else "the defaults are best here")


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


def _introduce(measured: Report | Tuning) -> None:
    machine = measured.machine
    click.echo(f"{Path(measured.file).name} on {machine['processor']}, {machine['cores']} cores")
    for text in measured.warnings:
        warn(text)


def _print(report: Report) -> None:
    _introduce(report)
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
