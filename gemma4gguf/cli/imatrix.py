"""`gemma4gguf imatrix`: what each column of each matrix matters, for text, pictures and sound."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .common import common, found, print_json
from .show import Progress, Table, number


def _shares(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, float] | None:
    """KIND=NUMBER options."""
    pairs = [text.partition("=") for text in given]
    try:
        return {kind: float(value) for kind, _, value in pairs} or None
    except ValueError:
        raise click.BadParameter("expected KIND=NUMBER, such as picture=2") from None


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="A text to evaluate.")
@click.option("--image", "images", multiple=True, metavar="PATH", help="A picture to include; may be repeated.")
@click.option("--audio", multiple=True, metavar="PATH", help="A sound clip to include; may be repeated.")
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="KIND=NUMBER",
    callback=_shares,
    help="What text, picture or sound counts [by their positions].",
)
@click.option("--add", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Add another one's sums.")
@click.option("--weigh", is_flag=True, help="Measure each matrix's weight too, for convert --target-size: takes long.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads [physical cores].")
@click.option("--gpu-layers", type=int, metavar="N", help="Layers on the GPU [all where there is one].")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@common
@found("source")
def imatrix(
    source: Path,
    out: Path,
    text: Path | None,
    images: tuple[str, ...],
    audio: tuple[str, ...],
    shares: dict[str, float] | None,
    add: tuple[Path, ...],
    weigh: bool,
    threads: int | None,
    gpu_layers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compute an importance matrix of the bundle SOURCE and write it to OUT, for convert --imatrix and llama-quantize.

    SOURCE should be Q8_0 or better. Without --text, --image and --audio, a bundled corpus is evaluated: several
    languages, code, chats, tool calls, pictures and sounds. A run that was stopped goes on where it was. With --weigh
    and an OUT that is there already, only the weights that it lacks are measured.
    """
    from ..tools.imatrix import compute
    from ..tools.quality import read_text
    from ..tools.sensitivity import weigh as measure_weights

    done = None
    with Progress(quiet=as_json) as progress:
        if force or not (weigh and out.exists()):
            done = compute(
                source,
                out,
                text=None if text is None else read_text(text),
                images=images,
                audio=audio,
                shares=shares,
                add=add,
                name="" if text is None else text.name,
                threads=threads,
                gpu_layers=gpu_layers,
                force=force,
                progress=lambda at, total: progress(at, total, "imatrix", lambda n: f"{number(int(n))} positions"),
            )
        if weigh:
            measure_weights(
                source,
                out,
                threads=threads,
                gpu_layers=gpu_layers,
                progress=lambda at, total: progress(at, total, "weights", lambda n: f"{number(int(n))} matrices"),
            )
    if as_json:
        print_json(asdict(done) if done else {"path": str(out)})
        return
    if done is not None:
        table = Table("kind", "positions", "share")
        for kind, share in done.shares.items():
            table.row(kind, number(done.positions[kind]), f"{100 * share:.0f} %")
        table.print()
    click.echo(f"{out}: {done.tensors} matrices" if done else f"{out}: weights of its matrices")


COMMANDS = (imatrix,)
