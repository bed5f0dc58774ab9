"""Where a sequence may go back to although its sliding layers have moved on: states of them that were kept.

Pure functions: which positions are worth a state, what a state is good for, and which goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .keeping import Kept

WORTH_A_CHECKPOINT = 128  # positions; fewer are read again


@dataclass(frozen=True)
class Checkpoint:
    """The sliding layers of a sequence that held `length` positions, kept."""

    length: int
    kept: Kept


def reach(length: int, shared: int, window: int) -> int:
    """How many of `shared` positions need not be read where the sliding layers come back as they were at `length`.

    They come back with one window: so they go on from exactly there, or from anywhere if that is all there was.
    """
    return min(length, shared) if length <= window else length if length <= shared else 0


def best(checkpoints: Iterable[Checkpoint], shared: int, window: int) -> tuple[int, Checkpoint | None]:
    """The most of `shared` positions that need not be read, and the checkpoint for it."""
    found = [(reach(c.length, shared, window), c) for c in checkpoints if c.kept.data is not None]
    length, checkpoint = max(found, key=lambda pair: pair[0], default=(0, None))
    return length, checkpoint if length else None


def stops(turns: Sequence[int], held: int, end: int, window: int) -> list[int]:
    """The positions of a prompt that are worth a checkpoint, in order.

    The end of its first turn, most often the system's; where its last message begins, which may be edited; and `end`,
    where its answer will begin. `turns`: where its turns end. `held`: positions that need not be read.
    """
    begins = max([held, *(turn for turn in turns if turn <= end)])
    found = sorted(at for at in {*turns[:1], begins, end} if held <= at <= end and at >= WORTH_A_CHECKPOINT)
    early = sum(at <= window for at in found)
    return found[max(0, early - 1) :]  # within the first window, the last is good for all


def spare(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The one to give up for the next: closest to the one before it. The first stays; docs/decisions.md has why."""
    pairs = pairwise(sorted(checkpoints, key=lambda c: c.length))
    return min(pairs, key=lambda pair: pair[1].length - pair[0].length, default=(None, None))[1]
