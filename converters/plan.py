"""From what a source holds to what will be written: a type for every tensor, a part for every section, and the plan.

In: a `Model` and the asked types. Out: `Aimed` sections, which become parts of a bundle, and the records that describe
them. Reads and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T

from gemma4gguf.bundle.container import layout
from gemma4gguf.bundle.reading import EMBEDDER, TEXT, Part, part_of
from gemma4gguf.errors import ConversionError
from gemma4gguf.native import quantizer

from . import mixture
from . import quantise as stream
from .contents import Material
from .gguf_source import READABLE
from .imatrix import ImportanceMatrix
from .mixture import FLOATS, MIXTURES, Mixture, Override
from .quantise import Target
from .safetensors import listed

CARRIED = "as in the source"


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
class Aimed:
    """A section whose tensors have their types; `quant` is the mixture's name, or `CARRIED`."""

    material: Material
    quant: str
    targets: tuple[Target, ...]
    pairs: dict[str, bytes]

    def part(self, threads: int) -> Part:
        if self.material.carried is not None:
            return part_of(self.material.carried)
        table = layout([(t.source.name, t.source.shape, t.type) for t in self.targets])
        return Part(self.material.architecture, self.pairs, table, lambda: stream.pieces(self.targets, threads))

    def planned(self, size: int) -> PlannedSection:
        if self.material.carried is not None:
            held = self.material.carried.tensors.values()
            tensors = tuple(PlannedTensor(t.name, t.shape, t.type.name, t.type.name, t.nbytes) for t in held)
        else:
            tensors = tuple(_planned(t) for t in self.targets)
        return PlannedSection(self.material.architecture, self.quant, tensors, size)


def _planned(target: Target) -> PlannedTensor:
    source = target.source
    stored = source.stored.type.name if source.stored else None
    return PlannedTensor(source.name, source.shape, stored, target.type.name, target.nbytes)


def aim(
    material: Material,
    asked: Mixture,
    *,
    overrides: tuple[Override, ...] = (),
    imatrix: ImportanceMatrix | None = None,
) -> Aimed:
    """Give every tensor of a section its type. Overrides and importance values are for the text model only.

    Raises ConversionError when the source keeps less than what is asked, or values are needed that are not there.
    """
    if material.carried is not None:
        return Aimed(material, CARRIED, (), {})
    if material.architecture == EMBEDDER:
        # It stays in float32: 0.2 GB of the 12B's 7, exact soft tokens, and numpy maps it as it lies.
        asked = MIXTURES["F32"]
    if material.architecture != TEXT:
        overrides, imatrix = (), None
    chosen = mixture.choose(
        [(s.name, s.shape) for s in material.sources],
        asked,
        layers=material.layers,
        group=material.group,
        imatrix=imatrix is not None,
        overrides=overrides,
    )
    targets = []
    for source in sorted(material.sources, key=lambda s: mixture.write_order(s.name)):
        values = imatrix.of(source.name, source.shape[-1]) if imatrix is not None else None
        targets.append(Target(source, chosen[source.name], values))
    _check_sources(targets)
    _check_importance(targets)
    pairs = material.pairs(asked.file_type) | (imatrix.pairs() if imatrix is not None else {})
    return Aimed(material, asked.name, tuple(targets), pairs)


def bits(kind: T) -> float:
    """Bits per value."""
    block, size = GGML_QUANT_SIZES[kind]
    return float(8 * size / block)


def _check_sources(targets: list[Target]) -> None:
    """A type can only be lowered: what a source has rounded away does not come back."""
    for target in targets:
        stored = target.source.stored
        if stored is None or stored.type is target.type or stored.type in FLOATS:
            continue
        if stored.type not in READABLE or bits(target.type) > bits(stored.type):
            raise ConversionError(
                f"{stored.path}: {stored.name!r} is {stored.type.name}, which cannot become {target.type.name}; "
                "start from the checkpoint or a BF16 or Q8_0 file"
            )


def _check_importance(targets: list[Target]) -> None:
    needy = [
        t.source.name
        for t in targets
        if t.type not in FLOATS and t.importance is None and quantizer.requires_importance(t.type)
    ]
    if needy:
        raise ConversionError(f"{listed(needy, 3)}: this type needs importance values; give an --imatrix that has them")
