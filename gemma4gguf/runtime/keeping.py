"""What is kept of caches that are gone: states of sequences and of their sliding windows, within one budget of bytes.

A state comes in as bytes and is kept until others need its place: what was used least recently goes first. This module
does not know what a state means.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(eq=False)
class Kept:
    """One state. `data` is None once it was given up."""

    data: bytes | None


class Keeper:
    """The owner of all kept states of one engine."""

    def __init__(self, budget: int) -> None:
        """`budget`: bytes that all states may take together."""
        self.budget, self.used = budget, 0
        self._states: OrderedDict[int, Kept] = OrderedDict()  # the least recently used first

    def fits(self, size: int) -> bool:
        """Whether a state of this size can be kept at all."""
        return size <= self.budget

    def keep(self, data: bytes) -> Kept:
        """Keep a state that fits, and give up others for it."""
        kept = Kept(data)
        self._states[id(kept)] = kept
        self.used += len(data)
        while self.used > self.budget:
            self.drop(next(iter(self._states.values())))
        return kept

    def use(self, kept: Kept) -> bytes | None:
        """A state's bytes, or None if it was given up. It is now the most recently used."""
        if kept.data is not None:
            self._states.move_to_end(id(kept))
        return kept.data

    def drop(self, kept: Kept) -> None:
        """Give a state up."""
        if kept.data is not None:
            del self._states[id(kept)]
            self.used -= len(kept.data)
            kept.data = None
