"""Checkpoint to bundle: one call, one file, in one pass.

In: a checkpoint folder, a Hub id or a GGUF, and optionally a drafter. Out: a bundle, written whole or not at all.
The steps, each a module: source, safetensors, config, tokenizer, gemma4 (tensor tables), metadata, mixture (types),
stream (read, quantise), and `gemma4gguf.bundle` to write.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gemma4gguf import bundle
from gemma4gguf.bundle import EMBEDDER, TEXT, Part
from gemma4gguf.container import layout
from gemma4gguf.errors import ConversionError, InputError

from . import mixture, stream
from .checkpoint import Material, Model, read_checkpoint
from .mixture import MIXTURES, Mixture, Override
from .source import Origin, locate
from .stream import Target

__all__ = ["MIXTURES", "Conversion", "Plan", "PlannedSection", "PlannedTensor", "convert"]

Progress = Callable[[int, int, str], None]
DEFAULT, DRAFTER_DEFAULT = "Q4_K_M", "Q8_0"
LOW = (
    "{name} keeps fewer than 4 bits per weight: a 12B model makes clearly more mistakes there; "
    "measure it with `gemma4gguf quality` against a Q8_0 or BF16 bundle"
)
QAT = "{name} was trained to be stored as Q4_0, so Q4_0 was chosen; --quant takes another"


@dataclass(frozen=True)
class PlannedTensor:
    """`shape` rows first; `source_type` is None where the values are computed, not read."""

    name: str
    shape: tuple[int, ...]
    source_type: str | None
    type: str
    nbytes: int


@dataclass(frozen=True)
class PlannedSection:
    """`size` is the section's length in the file in bytes, header included."""

    architecture: str
    quant: str
    tensors: tuple[PlannedTensor, ...]
    size: int

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors have each type."""
        names = [t.type for t in self.tensors]
        return {name: names.count(name) for name in sorted(set(names))}


@dataclass(frozen=True)
class Plan:
    """What a conversion will write. `total` and `free` in bytes; `notes` are lines for people, the loud in capitals."""

    source: str
    out: Path
    quant: str
    sections: tuple[PlannedSection, ...]
    total: int
    free: int
    notes: tuple[str, ...]

    @property
    def has_embedder(self) -> bool:
        return any(s.architecture == EMBEDDER for s in self.sections)


@dataclass(frozen=True)
class Conversion:
    """`path` is the finished bundle, or None after a dry run. `size` in bytes, `seconds` of wall time."""

    path: Path | None
    plan: Plan
    size: int
    seconds: float


def convert(
    source: str | Path,
    out: str | Path | None = None,
    *,
    quant: str | None = None,
    drafter: str | Path | None = None,
    drafter_quant: str = DRAFTER_DEFAULT,
    imatrix: str | Path | None = None,
    text_only: bool = False,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    types: Iterable[str] = (),
    progress: Progress | None = None,
) -> Conversion:
    """Convert a checkpoint to a bundle, quantising on the way.

    `source` and `drafter` are checkpoint folders, Hub ids or GGUF files. `out` names the file or a folder for it; None
    makes `NAME-QUANT.gguf` here. `quant` None means Q4_K_M, or Q4_0 for a checkpoint that was trained for it.
    `types` are overrides NAME=TYPE for tensors of the text model, by pattern. `progress` is told (bytes done, bytes in
    all, stage), stages being "download" and "convert".

    Raises InputError for unusable arguments and ConversionError for everything that stops the work; nothing is then
    left under the output's name.
    """
    started = time.monotonic()
    report = progress or (lambda done, total, stage: None)
    overrides = mixture.parse_overrides(types)
    asked = mixture.mixture(quant) if quant is not None else None
    drafter_asked = mixture.mixture(drafter_quant)
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"--threads {threads}: expected 1 to 1024")

    origin = locate(source, lambda done, total: report(done, total, "download"))
    model = _read(origin, text_only=text_only)
    chosen = asked or mixture.mixture(model.trained_for or DEFAULT)
    notes = [*model.notes]
    if asked is None and model.trained_for is not None:
        notes.append(QAT.format(name=origin.name))
    if chosen.name in mixture.UNDER_FOUR_BITS:
        notes.append(LOW.format(name=chosen.name))

    sections = [_aim(s, _mixture_of(s, chosen), overrides) for s in model.sections]
    if drafter is not None:
        drafter_origin = locate(drafter, lambda done, total: report(done, total, "download"))
        sections += [_aim(s, drafter_asked, ()) for s in _read(drafter_origin, drafter=True).sections]
        _check_drafter(model, sections[-1].material, drafter_origin)

    parts = [s.part(threads or os.cpu_count() or 1) for s in sections]
    planned = bundle.plan_layout(parts)
    path = _out_path(out, origin, chosen)
    plan = Plan(
        source=str(source),
        out=path,
        quant=chosen.name,
        sections=tuple(s.planned(size) for s, size in zip(sections, planned.sizes, strict=True)),
        total=planned.total,
        free=_free(path),
        notes=tuple(notes),
    )
    if dry_run:
        return Conversion(None, plan, planned.total, time.monotonic() - started)
    bundle.write_bundle(path, parts, force=force, progress=lambda done: report(done, planned.total, "convert"))
    return Conversion(path, plan, planned.total, time.monotonic() - started)


# ── one section ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Aimed:
    """A section whose tensors have their types."""

    material: Material
    mixture: Mixture
    targets: tuple[Target, ...]

    def part(self, threads: int) -> Part:
        table = layout([(t.source.name, t.source.shape, t.type) for t in self.targets])
        pairs = self.material.pairs(self.mixture.file_type)
        return Part(self.material.architecture, pairs, table, lambda: stream.pieces(self.targets, threads))

    def planned(self, size: int) -> PlannedSection:
        tensors = tuple(
            PlannedTensor(
                t.source.name,
                t.source.shape,
                t.source.stored.type.name if t.source.stored else None,
                t.type.name,
                t.nbytes,
            )
            for t in self.targets
        )
        return PlannedSection(self.material.architecture, self.mixture.name, tensors, size)


def _mixture_of(material: Material, asked: Mixture) -> Mixture:
    # The embedder stays in float32: 0.2 GB of the 12B's 7, exact soft tokens, and numpy maps it as it lies.
    return MIXTURES["F32"] if material.architecture == EMBEDDER else asked


def _aim(material: Material, asked: Mixture, overrides: tuple[Override, ...]) -> _Aimed:
    chosen = mixture.choose(
        [(s.name, s.shape) for s in material.sources],
        asked,
        layers=material.layers,
        group=material.group,
        overrides=overrides if material.architecture == TEXT else (),
    )
    ordered = sorted(material.sources, key=lambda s: mixture.write_order(s.name))
    return _Aimed(material, asked, tuple(Target(s, chosen[s.name]) for s in ordered))


def _read(origin: Origin, *, drafter: bool = False, text_only: bool = False) -> Model:
    return read_checkpoint(origin, drafter=drafter, text_only=text_only)


def _check_drafter(model: Model, drafter: Material, origin: Origin) -> None:
    """A drafter reads the target's hidden states and cache: their widths must agree."""
    text = model.section(TEXT)
    assert text is not None
    hidden = next(s.shape[-1] for s in text.sources if s.name == "token_embd.weight")
    wanted = next(s.shape[0] for s in drafter.sources if s.name == "nextn.post_projection.weight")
    if hidden != wanted:
        raise ConversionError(
            f"{origin.path}: drafts for a model of hidden size {wanted}, the source has {hidden}; take its own drafter"
        )


# ── the output ───────────────────────────────────────────────────────────────────────────────────────────────────


def _out_path(out: str | Path | None, origin: Origin, chosen: Mixture) -> Path:
    name = f"{origin.name}-{chosen.name}.gguf"
    if out is None:
        return Path(name)
    path = Path(out).expanduser()
    return path / name if path.is_dir() else path


def _free(path: Path) -> int:
    folder = path.parent
    return shutil.disk_usage(folder).free if folder.is_dir() else 0
