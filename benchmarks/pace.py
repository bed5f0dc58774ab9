#!/usr/bin/env python3
"""What each constant of `gemma4gguf/runtime/pace.py` is worth, on the simulated machines of its tests.

Prints one line for the constants as they are, and one for each with another value. The random numbers are seeded and
nothing is timed, so every machine prints the same. Columns, each a share of what would be best, the worst of several
unless told otherwise:
  useless  a drafter that is never right, against plain decoding, after 1,000 tokens
  finds    guesses right in 50 to 100 %: the lengths chosen, against the best fixed one
  change   a useless drafter becomes a good one
  dear     the same, with draft steps that cost half a pass
  starts   the first 64 tokens of a new pace against the best fixed length: the mean of all machines and acceptances
"""

from __future__ import annotations

import argparse

from gemma4gguf.runtime import pace
from gemma4gguf.runtime.pace import Pace
from tests.support.pacing import COSTS, FLAT, STEEP, Machine, machine

MEASURED = {0: 1.0, 1: 1.94, 2: 2.8, 3: 2.88, 4: 3.73, 5: 4.58, 7: 6.25}  # 24 layers, Q4_0: docs/drafting.md
OTHERS = {
    "SLOPE": (0.05, 0.5, 1.0),
    "HOPE": (0.3, 0.9),
    "WEIGHT": (1.0, 8.0),
    "MEMORY": (0.9, 0.95, 0.995),
    "FADING": (0.98, 1.0),
    "FIRST": (0.0, 0.2, 2.0),
    "INCOME": (0.0002, 0.003),
    "SAVED": (0.5, 1.0, 10.0),
    "LEAST": (0.01, 0.3),
}


def useless() -> float:
    cases = [(c, d, seed) for c in (FLAT, STEEP, MEASURED) for d in (0.07, 0.5) for seed in range(3)]
    return min(Machine(checks, draft, 0.0, seed).run(Pace(ratio=draft), 1000) for checks, draft, seed in cases)


def finds() -> float:
    """The mean of five seeds, of the worst machine and acceptance."""
    cases = [(checks, right) for checks in (FLAT, STEEP) for right in (0.5, 0.7, 0.9, 1.0)]
    return min(sum(_share(Machine(c, 0.07, r, seed), 256, 1000) for seed in range(5)) / 5 for c, r in cases)


def becomes(draft: float, right: float, before: int, between: int) -> float:
    machine, chosen = Machine(FLAT, draft, 0.0), Pace(ratio=draft)
    machine.run(chosen, before)
    machine.right = right
    machine.run(chosen, between)
    return machine.run(chosen, 500) / machine.best()


def starts() -> float:
    cases = [machine(c, r, seed) for c in COSTS.values() for r in (0.0, 0.5, 0.7, 0.9, 1.0) for seed in range(6)]
    return sum(_share(case, 0, 64) for case in cases) / len(cases)


def _share(machine: Machine, before: int, tokens: int) -> float:
    chosen = Pace(ratio=machine.draft)
    if before:
        machine.run(chosen, before)
    machine.run(chosen, tokens)
    return machine.worth / machine.best()


def show(name: str) -> None:
    found = useless(), finds(), becomes(0.07, 0.9, 500, 1000), becomes(0.5, 1.0, 3000, 3000), starts()
    print(f"{name:16}" + "".join(f"{value:8.3f}" for value in found), flush=True)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'':16}{'useless':>8}{'finds':>8}{'change':>8}{'dear':>8}{'starts':>8}")
    show("as they are")
    for name, values in OTHERS.items():
        kept = getattr(pace, name)
        for value in values:
            setattr(pace, name, value)
            show(f"{name} {value}")
        setattr(pace, name, kept)


if __name__ == "__main__":
    main()
