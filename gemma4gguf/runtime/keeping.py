"""What is kept of caches that are gone: states of sequences and of their sliding windows, within one budget of bytes.

A state comes in as bytes and is kept until others need its place, or until nobody refers to it any more: what was used
least recently goes first. This module does not know what a state means.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from weakref import WeakValueDictionary


@dataclass(eq=False)
class Kept:
    """One state. `data` is None once it was given up."""

    data: bytes | bytearray | None


class Keeper:
    """The bookkeeper of all kept states of one engine. Whoever can use a state refers to it; the keeper does not."""

    def __init__(self, budget: int) -> None:
        """`budget`: bytes that all states may take together."""
        self.budget = budget
        self._states: WeakValueDictionary[int, Kept] = WeakValueDictionary()  # the least recently used first

    @property
    def used(self) -> int:
        """Bytes of all states."""
        return sum(len(kept.data) for kept in self._states.values() if kept.data is not None)

    def fits(self, size: int) -> bool:
        """Whether a state of this size can be kept at all."""
        return size <= self.budget

    def keep(self, data: bytes | bytearray, last: Collection[Kept] = ()) -> Kept:
        """Keep a state that fits, and give up others for it; those in `last` only when no more are left."""
        others, kept = list(self._states.values()), Kept(data)
        self._states[id(kept)] = kept
        for other in sorted(others, key=lambda other: other in last):
            if self.used <= self.budget:
                break
            self.drop(other)
        return kept

    def use(self, kept: Kept) -> bytes | bytearray | None:
        """A state's bytes, or None if it was given up. It is now the most recently used."""
        if self._states.pop(id(kept), None):
            self._states[id(kept)] = kept
        return kept.data

    def drop(self, kept: Kept) -> None:
        """Give a state up."""
        self._states.pop(id(kept), None)
        kept.data = None
