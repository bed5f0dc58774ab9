"""Plans what will be written: a type for every tensor, a part for every section, and a summary for the user.

In: a source's sections and the chosen types. Out: `PlannedSection`s, which become parts of a bundle, and summaries.
Reads and writes no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGUFValueType
from gguf import GGMLQuantizationType as T

from gemma4gguf.bundle.container import encode_array, place_tensors
from gemma4gguf.bundle.reading import EMBEDDER, TEXT
from gemma4gguf.bundle.settings import GRID_TENSORS, MIX
from gemma4gguf.bundle.writing import Part, part_of
from gemma4gguf.errors import ConversionError
from gemma4gguf.native import quantizer

from . import mixture, quantise
from .contents import SectionContents
from .gguf_source import READABLE
from .grid import Count, Lattice
from .imatrix import ImportanceMatrix
from .mixture import FLOATS, MIXTURES, Mixture, Override
from .quantise import PlannedTensor
from .safetensors import listed

CARRIED = "as in the source"


@dataclass(frozen=True)
class TensorSummary:
    """`shape` rows first. `stored_type` is None where the values are computed, not read."""

    name: str
    shape: tuple[int, ...]
    stored_type: str | None
    type: str
    nbytes: int


@dataclass(frozen=True)
class SectionSummary:
    """`size` is the section's length in the file in bytes, header included."""

    architecture: str
    quant: str
    tensors: tuple[TensorSummary, ...]
    size: int

    @property
    def counts(self) -> dict[str, int]:
        """Type -> number of tensors."""
        names = [t.type for t in self.tensors]
        return {name: names.count(name) for name in sorted(set(names))}


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion will write. `total` and `free` in bytes. `notes`: lines for the user."""

    source: str
    out: Path
    quant: str
    sections: tuple[SectionSummary, ...]
    total: int
    free: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PlannedSection:
    """A section with a type for each tensor. `quant` is the mixture's name, or `CARRIED`."""

    contents: SectionContents
    quant: str
    tensors: tuple[PlannedTensor, ...]
    pairs: dict[str, bytes]

    def part(self, threads: int, counts: dict[str, Count] | None = None) -> Part:
        """What will be written. `counts` gets how the tensors on a grid were stored."""
        if self.contents.carried is not None:
            return part_of(self.contents.carried)
        table = place_tensors([(t.tensor.name, t.tensor.shape, t.type) for t in self.tensors])
        return Part(
            self.contents.architecture, self.pairs, table, lambda: quantise.pieces(self.tensors, threads, counts)
        )

    def summary(self, size: int) -> SectionSummary:
        if self.contents.carried is not None:
            held = self.contents.carried.tensors.values()
            tensors = tuple(TensorSummary(t.name, t.shape, t.type.name, t.type.name, t.nbytes) for t in held)
        else:
            tensors = tuple(_summary(t) for t in self.tensors)
        return SectionSummary(self.contents.architecture, self.quant, tensors, size)


def _summary(planned: PlannedTensor) -> TensorSummary:
    tensor = planned.tensor
    stored = tensor.stored.type.name if tensor.stored else None
    return TensorSummary(tensor.name, tensor.shape, stored, planned.type.name, planned.nbytes)


def plan_section(
    contents: SectionContents,
    asked: Mixture,
    *,
    overrides: tuple[Override, ...] = (),
    imatrix: ImportanceMatrix | None = None,
    lattices: Mapping[str, Lattice] | None = None,
    mix: Sequence[str] = (),
) -> PlannedSection:
    """Choose a type for every tensor of a section. Overrides and importance values apply to the text model only.

    `lattices`: tensors that are stored on the grid they lie on, in its type unless an override names another.
    `mix`: lines to be written into the text model's metadata.
    Raises ConversionError when the source is stored with fewer bits than `asked`, or importance values are missing.
    """
    if contents.carried is not None:
        return PlannedSection(contents, CARRIED, (), {})
    if contents.architecture == EMBEDDER:
        # float32 costs 0.2 GB of the 12B's 7, keeps soft tokens exact, and lets numpy map the file.
        asked = MIXTURES["F32"]
    if contents.architecture != TEXT:
        overrides, imatrix = (), None
    chosen = mixture.choose(
        [(s.name, s.shape) for s in contents.tensors],
        asked,
        layers=contents.layers,
        group=contents.group,
        imatrix=imatrix is not None,
        overrides=overrides,
    )
    tensors = []
    for tensor in sorted(contents.tensors, key=lambda s: mixture.write_order(s.name)):
        lattice, kind = (lattices or {}).get(tensor.name), chosen[tensor.name]
        if lattice is not None and not mixture.overridden(tensor.name, overrides):
            kind = lattice.grid.type
        if lattice is not None and kind is lattice.grid.type:
            tensors.append(PlannedTensor(tensor, kind, lattice=lattice))
            continue
        values = imatrix.of(tensor.name, tensor.shape[-1]) if imatrix is not None else None
        tensors.append(PlannedTensor(tensor, kind, values))
    _check_stored_types(tensors)
    _check_importance(tensors)
    pairs = contents.pairs(asked.file_type) | (imatrix.pairs() if imatrix is not None else {})
    on_grid = [t.tensor.name for t in tensors if t.lattice is not None]
    pairs.pop(GRID_TENSORS, None)  # a source's
    pairs.pop(MIX, None)
    if mix and contents.architecture == TEXT:
        pairs[MIX] = encode_array(MIX, GGUFValueType.STRING, mix)
    if on_grid:
        pairs[GRID_TENSORS] = encode_array(GRID_TENSORS, GGUFValueType.STRING, on_grid)
    return PlannedSection(contents, asked.name, tuple(tensors), pairs)


def bits(kind: T) -> float:
    """Bits per value."""
    block, size = GGML_QUANT_SIZES[kind]
    return float(8 * size / block)


def _check_stored_types(tensors: list[PlannedTensor]) -> None:
    """Raise where a tensor would get more bits than it is stored with: rounding cannot be undone."""
    for planned in tensors:
        stored = planned.tensor.stored
        if stored is None or stored.type is planned.type or stored.type in FLOATS:
            continue
        if stored.type not in READABLE or bits(planned.type) > bits(stored.type):
            raise ConversionError(
                f"{stored.path}: {stored.name!r} is {stored.type.name}, which cannot become {planned.type.name}; "
                "start from the checkpoint or a BF16 or Q8_0 file"
            )


def _check_importance(tensors: list[PlannedTensor]) -> None:
    needy = [
        t.tensor.name
        for t in tensors
        if t.type not in FLOATS and t.importance is None and quantizer.requires_importance(t.type)
    ]
    if needy:
        raise ConversionError(f"{listed(needy, 3)}: this type needs importance values; give an imatrix= that has them")
