"""Measuring by turns: contestants that do the same work run one after another in every round, for machines drift."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def in_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds that each took, by round. A round before them warms up."""
    taken: dict[str, list[float]] = {who: [] for who in contestants}
    for _ in range(rounds + 1):
        for who, work in contestants.items():
            begun = time.perf_counter()
            work()
            taken[who].append(1000 * (time.perf_counter() - begun))
    return {who: times[1:] for who, times in taken.items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
