"""From a fed session to token ids: sample, and where a drafter helps, draft, check and accept.

In: a session whose last position has logits, a sampler, perhaps drafts. Out: ids, the end token included, until an end
token, the limit, or the context's end. The same ids with and without drafts. Knows nothing of text.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..native.context import Context
from .pace import Pace
from .session import Session


class Samples(Protocol):
    """What chooses a token from a row of logits, once per token of the answer and in its order."""

    def sample(self, context: Context, row: int = -1) -> int: ...


class Guessing(Protocol):
    """What proposes tokens: see `drafter.Drafter.guesses`."""

    def guesses(self, token: int, hidden: NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]: ...


class Drafts:
    """The drafts of one answer: makes them at the pace that pays, and owns the counts."""

    def __init__(self, drafter: Guessing, pace: Pace, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock`: the seconds that count; a benchmark on a busy machine has others."""
        self._drafter, self._pace, self.clock = drafter, pace, clock
        self.steps = self.proposed = self.accepted = 0
        self._proposed_at: Counter[int] = Counter()
        self._accepted_at: Counter[int] = Counter()
        self._lengths: list[list[int]] = []  # runs of [guesses checked, steps]
        self._confidences: list[float] = []

    def make(self, session: Session, token: int, row: int, most: int, end: frozenset[int]) -> list[int]:
        """Guesses at what follows `token`, which was sampled from batch row `row`: at most `most`, maybe none."""
        tokens: list[int] = []
        self._confidences = confidences = []
        aim = self._pace.begin(most)
        guesses = self._drafter.guesses(token, session.context.hidden(row), session.length) if aim else iter(())
        while len(tokens) < aim:
            begun = self.clock()
            guess, confidence = next(guesses)
            self._pace.drafted(self.clock() - begun)
            tokens.append(guess)
            confidences.append(confidence)
            aim = len(tokens) if guess in end else self._pace.go_on(aim, confidences, most)
        return tokens[:aim]

    def settle(self, checked: int, accepted: int, seconds: float) -> None:
        """The first `accepted` of `checked` guesses were right; the check took so long."""
        self._pace.checked(self._confidences, checked, accepted, seconds)
        self.steps += 1
        self.proposed += checked
        self.accepted += accepted
        self._proposed_at.update(range(min(checked, accepted + 1)))
        self._accepted_at.update(range(accepted))
        if not self._lengths or self._lengths[-1][0] != checked:
            self._lengths.append([checked, 0])
        self._lengths[-1][1] += 1

    def report(self) -> dict[str, Any]:
        """Counts; of the guesses at each position whose forerunners were right, the share accepted; runs of
        [guesses, steps] over time; measured costs in ms.
        """
        return {
            "steps": self.steps,
            "proposed": self.proposed,
            "accepted": self.accepted,
            "acceptance": [self._accepted_at[i] / n for i, n in sorted(self._proposed_at.items())],
            "lengths": self._lengths,
            "ms": self._pace.costs_ms(),
        }


def decode(
    session: Session, sampler: Samples, end: frozenset[int], limit: int, drafts: Drafts | None = None
) -> Iterator[int]:
    """Yield up to `limit` ids. The session then holds the prompt and ids of the answer, never a guess."""
    turn = session.turn
    with session.alone(turn):
        token, row = sampler.sample(session.context), -1
    left = limit - 1
    yield token
    while token not in end and left > 0 and session.room > 0:
        with session.alone(turn):
            new = _advance(session, sampler, end, token, row, min(left, session.room), drafts)
        token, row, left = new[-1], len(new) - 1, left - len(new)
        yield from new


def _advance(
    session: Session, sampler: Samples, end: frozenset[int], token: int, row: int, most: int, drafts: Drafts | None
) -> list[int]:
    """Evaluate `token` and the guesses that follow it; return the one to `most` ids sampled after them.

    Every id comes from the target's own logits by the one sampler, so guesses change nothing but the speed: the id
    after a position is sampled only when all guesses before it were what the sampler chose.
    """
    guesses = drafts.make(session, token, row, most - 1, end) if drafts else []
    begun = drafts.clock() if drafts else 0.0
    session.step([token, *guesses])
    new, accepted = [sampler.sample(session.context, 0)], 0
    for guess in guesses:
        if new[-1] != guess:
            break
        accepted += 1
        if guess in end:
            break
        new.append(sampler.sample(session.context, accepted))
    session.rewind(session.length - (len(guesses) - accepted))
    if drafts:
        drafts.settle(len(guesses), accepted, drafts.clock() - begun)
    return new
