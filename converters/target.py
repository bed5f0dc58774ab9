"""How large a file may become, and the mix of types that fits it.

In: a size or bits per value, and a section as it would be planned without. Out: the mix, as lines of a user's options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from gemma4gguf.arguments import real
from gemma4gguf.errors import InputError

from . import budget
from .grid import Lattice
from .imatrix import ImportanceMatrix
from .mixture import MIXTURES, TENSOR_TYPES, Mixture, Override, overridden
from .plan import PlannedSection

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MARGIN = 1 << 16  # bytes for the mix itself in the header, and for padding


@dataclass(frozen=True)
class Target:
    """`size` of the whole file in bytes, or `bits` per value of the text model."""

    size: int | None
    bits: float | None

    def mix(
        self,
        text: PlannedSection,
        total: int,
        imatrix: ImportanceMatrix | None,
        overrides: Sequence[Override],
        lattices: Mapping[str, Lattice],
    ) -> list[str]:
        """PATTERN=TYPE lines for the text model's matrices, without those of `overrides`. `total`: the file as planned.
        `lattices`: tensors that their grid's type holds without loss.

        Raises InputError where nothing is small enough.
        """
        planned = sum(t.nbytes for t in text.tensors)
        if self.size is not None:
            room = self.size - (total - planned) - MARGIN
        else:
            assert self.bits is not None
            room = int(self.bits * sum(prod(t.tensor.shape) for t in text.tensors) / 8)
        fixed = [t for t in text.tensors if overridden(t.tensor.name, overrides)]
        free = [t.tensor for t in text.tensors if not overridden(t.tensor.name, overrides)]
        weights = imatrix.weights if imatrix is not None else {}
        return budget.mix(free, room - sum(t.nbytes for t in fixed), imatrix, weights, lattices)

    def mixture(self, mix: Sequence[str]) -> Mixture:
        """What the file is called, and its number: that of the llama.cpp mixture with the mix's most common type."""
        kinds = [line.rpartition("=")[2] for line in mix]
        common = TENSOR_TYPES[max(sorted(set(kinds)), key=kinds.count)]
        alike = next(m for m in MIXTURES.values() if m.default is common)
        name = f"{self.bits:g}bpw" if self.bits is not None else f"{(self.size or 0) / 1e9:.4g}GB"
        return Mixture(name, alike.file_type, alike.default)


def targeting(size: str | int | None, bits: float | None) -> Target | None:
    """The target, or None. Raises InputError."""
    if size is not None and bits is not None:
        raise InputError("target_size is given with target_bpw; leave one of them out")
    if bits is not None:
        return Target(None, real("target_bpw", bits, lambda v: 2 <= v <= 16, "a number from 2 to 16"))
    if size is None:
        return None
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([KMG]?I?B?)\s*", str(size).upper())
    if found is None or found[2] not in UNITS:
        raise InputError(f"target_size: {size!r:.40}, expected bytes, or a size such as 6.5GB")
    return Target(int(float(found[1]) * UNITS[found[2]]), None)
