"""`gemma4gguf quality`: what quantising has cost, measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..bundle.finding import find_model
from .common import common, found, print_json
from .show import Progress, Table, number


def _positions(n: float) -> str:
    return f"{number(int(n))} positions"


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path), help="The same model: its checkpoint, BF16 or Q8_0."
)
@click.option("--text", type=click.Path(path_type=Path), metavar="PATH", help="A text to predict [a fixed one].")
@click.option("--image", "images", multiple=True, metavar="PATH", help="A picture to include; may be repeated.")
@click.option("--audio", multiple=True, metavar="PATH", help="A sound clip to include; may be repeated.")
@click.option("--windows", type=click.IntRange(1), metavar="N", help="Windows of 512 tokens that count [all].")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads [physical cores].")
@click.option("--gpu-layers", type=int, metavar="N", help="Layers on the GPU [all where there is one].")
@common
@found("files")
def quality(
    files: tuple[Path, ...],
    reference: Path,
    text: Path | None,
    images: tuple[str, ...],
    audio: tuple[str, ...],
    windows: int | None,
    threads: int | None,
    gpu_layers: int | None,
    as_json: bool,
) -> None:
    """Compare bundles with a reference of the same model: how far their predictions are from its own.

    Each FILE's predictions of a text are compared with the reference's, position by position. KL divergence is 0 for
    the same predictions; llama-perplexity computes the same numbers. For example:

    gemma4gguf quality gemma-Q4_K_M.gguf gemma-Q4_0.gguf --reference gemma-Q8_0.gguf

    The folder of the checkpoint is the true reference. It is computed in float32, a matrix at a time: slow, and in
    little memory.
    """
    from ..tools.quality import compare, read_text
    from ..tools.truth import is_checkpoint

    reference = reference if is_checkpoint(reference) else find_model(reference)
    with Progress(quiet=as_json) as progress:
        results = compare(
            files,
            reference,
            text=None if text is None else read_text(text),
            images=images,
            audio=audio,
            windows=windows,
            threads=threads,
            gpu_layers=gpu_layers,
            progress=lambda done, total: progress(done, total, "quality", _positions),
        )
        found = list(zip(files, results, strict=True))
    if as_json:
        print_json({"reference": str(reference), "bundles": [{"file": str(f)} | asdict(r) for f, r in found]})
        return
    table = Table("file", "size", "KL mean", "KL 99.9 %", "same top", "perplexity", "ratio", "KL after media")
    for file, r in found:
        media = "" if r.kl_media is None else f"{r.kl_media:.4f}"
        numbers = f"{r.kl_mean:.4f}", f"{r.kl_999:.4f}", f"{100 * r.same_top:.2f} %", f"{r.perplexity:.3f}"
        table.row(file.name, f"{file.stat().st_size / 1e9:.2f} GB", *numbers, f"{r.perplexity_ratio:.4f}", media)
    table.print()
    click.echo(f"{number(found[0][1].positions)} positions against {reference.name}")


COMMANDS = (quality,)
