"""`gemma4gguf verify`: what is wrong with a file, and whether it is what its source makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import common, model_path, print_json
from .show import Progress, Table, note, number, printable, size

if TYPE_CHECKING:
    from converters.origin import Origin

    from ..proof.report import Report


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", metavar="SOURCE", help="The checkpoint (folder, Hub id or GGUF) that it was made of.")
@click.option("--drafter", metavar="SOURCE", help="The drafter's checkpoint, to be compared too.")
@click.option("--quick", is_flag=True, help="Compare one layer of each kind, with short prompts.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads [physical cores].")
@common
def verify(
    file: Path, against: str | None, drafter: str | None, quick: bool, threads: int | None, as_json: bool
) -> int:
    """Check a bundle's every byte: sizes, hashes, values, parts, template, tokenizer. Exit status 1 on any fault.

    With --against, hold it against its source too: every tensor, every key, the vocabulary and the template; and the
    engine against a reference, layer by layer, with text, pictures and sound. For example:

    gemma4gguf verify gemma-Q4_K_M.gguf --against google/gemma-4-12B-it

    FILE may be one on the Hub, as hub:OWNER/NAME/FILE.gguf. With --quick only what is compared is fetched. What came
    stays, so that the same command goes on after an end.
    """
    from ..tools.mirror import SCHEME
    from ..tools.verify import faults

    if against is None and (drafter is not None or quick):
        raise click.UsageError("--drafter and --quick go with --against")
    remote = str(file).startswith(SCHEME)
    file = _mirrored(str(file), quick, drafter is not None, as_json) if remote else model_path(file)
    partial = remote and quick
    wrong: list[str] = []
    if not partial:
        with Progress(quiet=as_json) as progress:
            wrong = faults(file, lambda done, total: progress(done, total, "verify"))
    report = None
    if against is not None:
        from ..proof.report import prove

        def tell(done: int, total: int, stage: str) -> None:
            progress(done, total, stage, _layers if stage in ("layers", "source") else size)

        with Progress(quiet=as_json) as progress:
            source = _mirrored_source(against, tell) if quick and _is_on_hub(against) else against
            report = prove(file, source, drafter=drafter, quick=quick, partial=partial, threads=threads, progress=tell)
        wrong += report.faults
    if as_json:
        print_json({"file": str(file), "faults": wrong} | ({} if report is None else {"against": report.json()}))
        return 1 if wrong else 0
    for fault in wrong:
        click.echo(f"{click.style('fault', fg='red')}  {printable(fault)}")
    if report is not None:
        _tell(report)
    elif not wrong:
        click.echo(f"{file}: sound")
    return 1 if wrong else 0


def _mirrored(name: str, quick: bool, drafter: bool, as_json: bool) -> Path:
    """A file on the Hub, here: all of it, or what a quick proof reads."""
    from ..bundle.reading import Bundle
    from ..proof.report import needed
    from ..tools.mirror import Mirror, find

    mirror = Mirror(find(name))
    with Progress(quiet=as_json) as progress:
        mirror.fetch_headers()
        wanted = needed(Bundle.open(mirror.path), drafter=drafter) if quick else [(0, len(mirror))]
        mirror.fetch(wanted, lambda done, total: progress(done, total, "download"))
    note(f"{size(mirror.fetched)} fetched; {size(mirror.held)} of {size(len(mirror))} in {mirror.path}")
    return mirror.path


def _is_on_hub(source: str) -> bool:
    """As `converters.origin.locate` tells a Hub id from a path."""
    from converters.origin import HUB_ID

    return bool(HUB_ID.fullmatch(source)) and not Path(source).exists() and not Path(source).parent.exists()


def _mirrored_source(name: str, tell: Callable[[int, int, str], None]) -> Origin:
    """A checkpoint on the Hub, here: what a quick proof reads of it."""
    from ..proof.report import needed_of_source
    from ..tools.mirrored_source import MirroredSource

    source = MirroredSource(name)
    wanted = needed_of_source(source.origin, source.tensors)
    source.fetch(wanted, lambda done, total: tell(done, total, "download"))
    note(f"{size(source.fetched)} of the source's {size(source.size)} fetched, to {source.origin.path}")
    return source.origin


def _layers(n: float) -> str:
    return f"{number(int(n))} layers"


def _tell(report: Report) -> None:
    if report.logits:
        table = Table("prompt", "KL", "same top", "largest difference")
        for each in report.logits:
            table.row(each.modality, f"{each.kl:.5f}", f"{100 * each.same_top:.1f} %", f"{each.largest:.3f}")
        table.print()
    for name, value in report.facts.items():
        note(f"source: {number(value) if isinstance(value, int) else value} {name}")
    for line in report.left_out:
        note(f"not compared: {line}")
    click.echo(report.verdict)


COMMANDS = (verify,)
