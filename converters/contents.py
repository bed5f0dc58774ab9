"""The records that both readers return: what a source holds, ready to be planned. They read and decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemma4gguf.bundle.reading import Section

from .gemma4 import MappedTensor
from .metadata import Pairs


@dataclass(frozen=True)
class SectionContents:
    """One section to be written.

    `pairs` returns the encoded keys for a file type. `layers`, and `group` (query heads per key head), are what the
    mixture rules need. `carried` is a section of an existing file that is copied unchanged; `tensors` is then empty.
    """

    architecture: str
    tensors: tuple[MappedTensor, ...]
    pairs: Callable[[int], Pairs]
    layers: int = 0
    group: int = 1
    carried: Section | None = None


@dataclass(frozen=True)
class Contents:
    """`trained_for`: the type of a quantisation-aware training, or None. `notes`: lines for the user."""

    sections: tuple[SectionContents, ...]
    notes: tuple[str, ...] = ()
    trained_for: str | None = None

    def section(self, architecture: str) -> SectionContents | None:
        return next((s for s in self.sections if s.architecture == architecture), None)
