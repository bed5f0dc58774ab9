"""`convert`: reads a source, plans its sections, checks that they belong together, and writes the bundle.

In: the caller's arguments. Out: a finished file and a summary of it. Only joins the other modules.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGMLQuantizationType as T

from gemma4gguf.arguments import MOST_THREADS, local_path, whole
from gemma4gguf.bundle import newfile
from gemma4gguf.bundle.projector import check_embedder
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, NAMES, TEXT
from gemma4gguf.bundle.validation import check
from gemma4gguf.bundle.writing import Part, Placement, place_sections, planned_section, write_bundle
from gemma4gguf.errors import ConversionError, FormatError, InputError

from . import mixture
from .checkpoint import read_checkpoint
from .contents import Contents, SectionContents
from .gguf_source import read_gguf
from .grid import GRIDS, Count, Lattice
from .imatrix import ImportanceMatrix, read_imatrix
from .mixture import FLOATS, MIXTURES, Mixture
from .origin import Origin, locate
from .plan import ConversionPlan, PlannedSection, plan_section
from .recovery import Findings, look
from .safetensors import listed
from .target import targeting

Progress = Callable[[int, int, str], None]
DEFAULT, DRAFTER_DEFAULT = "Q4_K_M", "Q8_0"
GRID_TYPES = tuple(grid.type for grid in GRIDS)
HALF = 0.5  # of the weights on a grid: the model was trained for it, whatever its name says
LOW = (
    "{name} keeps fewer than 4 bits per weight: expect clearly more mistakes; "
    "measure it with `gemma4gguf quality` against a Q8_0 or BF16 bundle"
)
QAT = "{name} was trained to be stored as Q4_0 (quantisation-aware training), so Q4_0 was chosen; quant= takes another"
ON_GRID = (
    "{count} matrices lie on a grid ({kinds}), as quantisation-aware training leaves them: they are stored on it "
    "without loss; exact_llama=True rounds them as llama.cpp does"
)
LOSSLESS = "{count} matrices lie on a 4-bit grid: quant='Q4_0' is smaller than {name} and stores them without loss"
BY_CHANNEL = (
    "{names}: on a grid with a step for each row or column, which blocks of 32 cannot hold; rounded as any other matrix"
)


@dataclass(frozen=True)
class Conversion:
    """`path` is the finished bundle, or None after a dry run. `size` in bytes, `seconds` of wall time.

    `grids`: tensor -> how its blocks were stored on the grid they lie on. Empty where there is none, and after a dry
    run.
    """

    path: Path | None
    plan: ConversionPlan
    size: int
    seconds: float
    grids: Mapping[str, Count] = field(default_factory=dict)


@contextmanager
def _system_errors() -> Iterator[None]:
    """Turns what the system refuses, such as a read, into our error."""
    try:
        yield
    except OSError as error:
        raise ConversionError(f"{error.filename or 'a file'}: {error.strerror or error}") from error


@_system_errors()
def convert(
    source: str | Path,
    out: str | Path | None = None,
    *,
    quant: str | None = None,
    target_size: str | int | None = None,
    target_bpw: float | None = None,
    drafter: str | Path | None = None,
    drafter_quant: str | None = None,
    imatrix: str | Path | None = None,
    lora: str | Path | None = None,
    text_only: bool = False,
    exact_llama: bool = False,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    types: Iterable[str] = (),
    progress: Progress | None = None,
) -> Conversion:
    """Convert a checkpoint to a quantised bundle.

    `source` and `drafter` are checkpoint folders, Hub ids or GGUF files. `out` names the file or a folder for it; None
    makes `NAME-QUANT.gguf` in the current folder. `quant` None means Q4_K_M, or Q4_0 for a checkpoint that was trained
    for it; `drafter_quant` None means Q8_0, or Q4_0. Matrices that lie on a grid of that type are stored on it without
    loss; with `exact_llama` they are rounded as llama.cpp does it. `target_size` (of the whole file, bytes or "6.5GB")
    and `target_bpw` (bits per value of the text model) choose a type for each matrix so that it loses least, by
    `imatrix` if that is given. The mix is written beside `out` as a file that `types` takes as "@FILE". `lora` is the
    folder of a LoRA adapter as PEFT saves it, which is merged in float32. `types` are overrides PATTERN=TYPE for
    tensors of the text model; a pattern is a regular expression. `progress` is called with (bytes done, total bytes,
    stage); a stage is "download" or "convert".

    Raises InputError for unusable arguments and ConversionError for everything else that stops the work. No file is
    then left under the output's name.
    """
    started = time.monotonic()
    report = progress or (lambda done, total, stage: None)
    overrides = mixture.parse_overrides(types)
    asked = None if quant is None else mixture.mixture("quant", quant)
    target = targeting(target_size, target_bpw)
    if target is not None and quant is not None:
        raise InputError("quant is given with a target; leave one of them out")
    drafter_asked = None if drafter_quant is None else mixture.mixture("drafter_quant", drafter_quant)
    if threads is not None:
        threads = whole("threads", threads, lambda v: 1 <= v <= MOST_THREADS, f"a whole number, 1 to {MOST_THREADS:,}")
    importance = None if imatrix is None else read_imatrix(imatrix)
    if out is not None and not dry_run and not local_path(out).is_dir():
        newfile.check_output(local_path(out), 0, force=force)  # before anything is downloaded

    def fetched(done: int, total: int) -> None:
        report(done, total, "download")

    origin = locate(source, fetched, plan_only=dry_run)
    if lora is not None and origin.is_gguf:
        raise InputError("lora is for a checkpoint as the source; a GGUF's weights may be rounded already")
    model = _read(origin, text_only=text_only, lora=None if lora is None else local_path(lora))
    found = _look(origin, model.section(TEXT), asked)
    chosen = asked or MIXTURES[("Q4_0" if found.share >= HALF else model.trained_for) or DEFAULT]
    lattices = _held(found, asked, exact_llama)
    notes = [*model.notes, *_advice(origin, model, asked, chosen), *_uncovered(model, importance)]
    sections = [
        plan_section(
            m,
            chosen,
            overrides=overrides,
            imatrix=importance,
            lattices=lattices if m.architecture == TEXT else {},
        )
        for m in model.sections
    ]
    if drafter is not None:
        drafter_origin = locate(drafter, fetched, plan_only=dry_run)
        contents = _read(drafter_origin, drafter=True).sections[0]
        also = _look(drafter_origin, contents, drafter_asked)
        kind = drafter_asked or MIXTURES["Q4_0" if also.share >= HALF else DRAFTER_DEFAULT]
        held = plan_section(contents, kind, lattices=_held(also, drafter_asked, exact_llama))
        notes += [f"drafter: {note}" for note in _on_grid(also, held, kind)]
        sections = [s for s in sections if s.contents.architecture != DRAFTER] + [held]
    mix: list[str] = []
    if target is not None:
        if origin.tensors is not None:
            raise InputError("target_size and target_bpw look at the weights; download the checkpoint first")
        total = place_sections([s.part(1) for s in sections]).total
        mix = target.mix(sections[0], total, importance, overrides, lattices)
        chosen = target.mixture(mix)
        overrides = (*overrides, *mixture.parse_overrides(mix))
        sections[0] = plan_section(
            model.sections[0], chosen, overrides=overrides, imatrix=importance, lattices=lattices, mix=mix
        )
    notes += _on_grid(found, sections[0], chosen)

    path = _out_path(out, origin, chosen)
    counts: list[dict[str, Count]] = [{} for _ in sections]
    parts = [s.part(threads or _cores(), count) for s, count in zip(sections, counts, strict=True)]
    _check(parts, origin.path, origin.path if drafter is None else drafter_origin.path)
    placement = place_sections(parts)
    plan = _plan(str(source), path, chosen, sections, placement, tuple(notes))
    if dry_run:
        return Conversion(None, plan, placement.total, time.monotonic() - started)
    if path.exists() and origin.is_gguf and path.samefile(origin.path):
        raise InputError(f"{path}: is the source itself; choose another name for the output")
    listing = path.with_suffix(".mix.txt")
    if mix:
        newfile.check_output(listing, 0, force=force)
    write_bundle(path, parts, force=force, progress=lambda done: report(done, placement.total, "convert"))
    if mix:
        with newfile.new_file(listing, 0, force=force) as file:
            file.write("".join(f"{line}\n" for line in mix).encode())
    report(placement.total, placement.total, "convert")  # the padding between sections is not counted on the way
    grids = {
        name if part.architecture == TEXT else f"{NAMES[part.architecture]}: {name}": count
        for part, counted in zip(parts, counts, strict=True)
        for name, count in counted.items()
    }
    return Conversion(path, plan, placement.total, time.monotonic() - started, grids)


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def _read(origin: Origin, *, drafter: bool = False, text_only: bool = False, lora: Path | None = None) -> Contents:
    if origin.is_gguf:
        return read_gguf(origin, drafter=drafter, text_only=text_only)
    return read_checkpoint(origin, drafter=drafter, text_only=text_only, lora=lora)


def _advice(origin: Origin, contents: Contents, asked: Mixture | None, chosen: Mixture) -> list[str]:
    notes = []
    if asked is None and contents.trained_for is not None:
        notes.append(QAT.format(name=origin.name))
    if chosen.name in mixture.UNDER_FOUR_BITS:
        notes.append(LOW.format(name=chosen.name))
    return notes


def _look(origin: Origin, section: SectionContents | None, asked: Mixture | None) -> Findings:
    """What a section's matrices lie on; where it could not be stored, only as much as to tell of it."""
    if origin.tensors is not None or section is None or (asked is not None and asked.default in FLOATS):
        return Findings()
    return look(
        section.tensors, GRID_TYPES if asked is None else [asked.default if asked.default in GRID_TYPES else T.Q4_0]
    )


def _held(found: Findings, asked: Mixture | None, exact_llama: bool) -> Mapping[str, Lattice]:
    """The tensors that are stored on their grid."""
    return {} if exact_llama or not (asked is None or asked.default in GRID_TYPES) else found.lattices


def _on_grid(found: Findings, section: PlannedSection, chosen: Mixture) -> list[str]:
    kinds = [t.lattice.grid.type.name for t in section.tensors if t.lattice is not None]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    notes = []
    if kinds:
        notes.append(ON_GRID.format(count=len(kinds), kinds=counted))
    elif found.lattices and chosen.default not in GRID_TYPES:
        notes.append(LOSSLESS.format(count=len(found.lattices), name=chosen.name))
    return [*notes, *([BY_CHANNEL.format(names=listed(list(found.by_channel), 3))] if found.by_channel else [])]


def _uncovered(contents: Contents, importance: ImportanceMatrix | None) -> list[str]:
    """Raise for another model's importance matrix; return a note on the tensors that it does not cover."""
    text = contents.section(TEXT)
    if importance is None or text is None:
        return []
    widths = {s.name: s.shape[-1] for s in text.tensors if mixture.quantisable(s.name, s.shape)}
    missing = importance.check(widths)
    return [f"{importance.path.name} says nothing about {listed(list(missing), 4)}"] if missing else []


def _check(parts: list[Part], source: Path, drafter: Path) -> None:
    """What the runtime would refuse to load is told before anything is written."""
    try:
        text = planned_section(parts[0], source)
        for part in parts:
            section = planned_section(part, drafter if part.architecture == DRAFTER else source)
            if part.architecture == EMBEDDER:
                check_embedder(text, section)
            else:
                check(section, text)
    except FormatError as error:
        raise ConversionError(str(error)) from None


def _plan(
    source: str,
    path: Path,
    chosen: Mixture,
    sections: list[PlannedSection],
    placement: Placement,
    notes: tuple[str, ...],
) -> ConversionPlan:
    planned = tuple(s.summary(size) for s, size in zip(sections, placement.sizes, strict=True))
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return ConversionPlan(source, path, chosen.name, planned, placement.total, free, notes)


def _out_path(out: str | Path | None, origin: Origin, chosen: Mixture) -> Path:
    name = f"{origin.name}-{chosen.name}.gguf"
    if out is None:
        return Path(name)
    path = local_path(out)
    return path / name if path.is_dir() else path
