"""What a source holds, ready to be planned: sections with their tensors and keys, whatever it was read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemma4gguf.bundle.reading import Section

from .gemma4 import MappedTensor
from .metadata import Pairs


@dataclass(frozen=True)
class SectionContents:
    """One section to be: its tensors, its keys for a given file type, and what the mixture rules ask of the model.

    `carried` is a section of an existing file that passes into the new one unchanged; there are then no `tensors`.
    """

    architecture: str
    tensors: tuple[MappedTensor, ...]
    pairs: Callable[[int], Pairs]
    layers: int = 0
    group: int = 1
    carried: Section | None = None


@dataclass(frozen=True)
class Contents:
    """`trained_for` is the mixture that a quantisation-aware training was for, or None. `notes` are for people."""

    sections: tuple[SectionContents, ...]
    notes: tuple[str, ...] = ()
    trained_for: str | None = None

    def section(self, architecture: str) -> SectionContents | None:
        return next((s for s in self.sections if s.architecture == architecture), None)
