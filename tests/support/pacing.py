"""Machines on which the pace is tried: what checks and draft steps cost there, and guesses that are right by chance.

A table and an acceptance come in; tokens per second come out, of a pace and of the best fixed length. Random numbers
are seeded and nothing is timed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gemma4gguf.runtime.pace import LONGEST, Pace


class Costs(NamedTuple):
    """Milliseconds of a check by its rows, in between in proportion, and of a draft step."""

    checks: Mapping[int, float]
    draft: float


FLAT = {0: 1.0, 3: 1.25, 7: 1.9}  # Q4_0 on two cores
STEEP = {0: 1.0, 1: 2.3, 3: 1.8, 7: 2.8}  # Q4_K_M: two rows cost more than four
# Measured (docs/drafting.md), unless the name begins with "made up".
COSTS = {
    "6 layers, Q4_0": Costs({1: 50, 2: 82, 3: 115, 4: 124, 5: 162, 6: 195, 8: 345}, 16),
    "6 layers, Q4_K_M": Costs({1: 43, 2: 81, 3: 117, 4: 139, 5: 182, 6: 206, 8: 384}, 15),
    "24 layers, Q4_0": Costs({1: 110, 2: 213, 3: 308, 4: 317, 5: 410, 6: 504, 8: 688}, 15),
    "24 layers, Q4_K_M": Costs({1: 127, 2: 206, 3: 285, 4: 331, 5: 427, 6: 524, 8: 786}, 16),
    "6 layers, a slower day": Costs({1: 67, 2: 104, 3: 125, 4: 130, 5: 172, 6: 197, 8: 358}, 17),
    "6 layers, AVX2": Costs({1: 78, 2: 138, 3: 185, 4: 204, 5: 265, 6: 337, 8: 661}, 23),
    "48 layers, Q4_0, NVIDIA H200": Costs({1: 5.6, 2: 5.9, 3: 6.6, 4: 7.7, 5: 8.3, 6: 8.9, 8: 10.6, 12: 11.5}, 1.3),
    "made up: flat to eight": Costs({1: 20, 2: 20.6, 3: 21.2, 4: 21.8, 5: 22.5, 6: 23, 8: 24.5, 9: 30}, 1.6),
    "made up: steps of four": Costs({1: 12, 2: 13, 3: 13.2, 4: 13.5, 5: 15.5, 6: 15.8, 8: 16.5, 9: 20}, 1.5),
    "made up: fours and nines": Costs({1: 100, 2: 190, 3: 200, 4: 130, 5: 220, 6: 230, 8: 160}, 5),
    "made up: a step at five": Costs({1: 100, 4: 102, 5: 190, 8: 200, 9: 200}, 3),
}


@dataclass
class Machine:
    """What the pace decides over: costs in seconds, and guesses that are right with one probability."""

    checks: dict[int, float]  # by guesses; in between, in proportion
    draft: float
    right: float
    seed: int = 0
    noise: float = 0.0  # of the clock: how much longer a measurement says, as a share
    lengths: list[int] = field(default_factory=list)
    worth: float = 0.0  # of the last run: `best` of the lengths that were chosen, whatever the luck

    def check(self, guesses: int) -> float:
        return float(np.interp(guesses, list(self.checks), list(self.checks.values())))

    def tokens(self, guesses: int) -> float:
        """Expected of a step."""
        return sum(self.right**i for i in range(guesses + 1))

    def run(self, pace: Pace, tokens: int) -> float:
        """Tokens per second, in those of plain decoding."""
        chance, seconds, made, self.lengths = random.Random(self.seed), 0.0, 0, []
        clock = random.Random(self.seed + 1)

        def told(spent: float) -> float:
            return spent * (1 + abs(clock.gauss(0, self.noise))) if self.noise else spent

        while made < tokens:
            aim, right = pace.begin(tokens), list[bool]()
            confidences: list[float] = []
            while len(confidences) < aim:
                seconds += self.draft
                pace.drafted(told(self.draft))
                right.append(chance.random() < self.right)
                confidences.append(0.8)
                aim = pace.go_on(aim, confidences, tokens)
            accepted = next((i for i, ok in enumerate(right[:aim]) if not ok), aim)
            pace.checked(confidences, aim, accepted, told(self.check(aim)))
            seconds += self.check(aim)
            made += accepted + 1
            self.lengths.append(aim)
        self.worth = sum(map(self.tokens, self.lengths)) * self.check(0) / seconds
        return made * self.check(0) / seconds

    def best(self) -> float:
        """The same, of the best fixed length."""
        return max(self.tokens(m) * self.check(0) / (self.check(m) + m * self.draft) for m in range(LONGEST + 1))


def machine(costs: Costs, right: float = 0.0, seed: int = 0, noise: float = 0.0) -> Machine:
    """A machine with the costs of a table, in those of a check of one row."""
    one = costs.checks[1]
    checks = {rows - 1: cost / one for rows, cost in costs.checks.items()}
    return Machine(checks, costs.draft / one, right, seed, noise)
