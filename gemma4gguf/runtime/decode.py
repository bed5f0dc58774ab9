"""Decode: sample token ids, and with a drafter draft, check and accept.

A session whose last position has logits and a sampler come in, and maybe drafts. Token ids go out, up to an end token
(included), the limit, or the end of the context. They are the same with and without drafts. This module does not know
text.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..native.context import Context
from ..records import DraftCounts
from .pace import Pace
from .session import Session, Step, evaluate


class Samples(Protocol):
    """Chooses a token from a row of logits. Called once per token of the answer, in order."""

    def sample(self, context: Context, row: int = -1) -> int: ...


class Guessing(Protocol):
    """Proposes tokens: see `drafter.Drafter.guesses`."""

    def guesses(self, token: int, hidden: NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]: ...


class Drafts:
    """Makes the drafts of one answer and counts them. `pace` chooses how many tokens to draft."""

    def __init__(self, drafter: Guessing, pace: Pace, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` returns seconds; a benchmark on a busy machine passes another one."""
        self._drafter, self._pace, self.clock = drafter, pace, clock
        self.steps = self.proposed = self.accepted = 0
        self._proposed_at: Counter[int] = Counter()
        self._accepted_at: Counter[int] = Counter()
        self._lengths: list[list[int]] = []  # runs of [guesses checked, steps]
        self._confidences: list[float] = []

    def make(self, session: Session, token: int, row: int, most: int, end: frozenset[int]) -> list[int]:
        """Guess up to `most` tokens after `token`, which was sampled from batch row `row`. May return none."""
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
        """Count a step: the first `accepted` of `checked` guesses were right, and the check took `seconds`."""
        self._pace.checked(self._confidences, checked, accepted, seconds)
        self.steps += 1
        self.proposed += checked
        self.accepted += accepted
        self._proposed_at.update(range(min(checked, accepted + 1)))
        self._accepted_at.update(range(accepted))
        if not self._lengths or self._lengths[-1][0] != checked:
            self._lengths.append([checked, 0])
        self._lengths[-1][1] += 1

    def counts(self) -> DraftCounts:
        """What was drafted so far, and what it cost."""
        return DraftCounts(
            steps=self.steps,
            proposed=self.proposed,
            accepted=self.accepted,
            acceptance=tuple(self._accepted_at[i] / n for i, n in sorted(self._proposed_at.items())),
            lengths=tuple((checked, steps) for checked, steps in self._lengths),
            draft_ms=self._pace.draft_ms(),
            check_ms=self._pace.check_ms(),
        )


def decode(
    session: Session, sampler: Samples, end: frozenset[int], limit: int, drafts: Drafts | None = None
) -> Iterator[int]:
    """Yield up to `limit` ids, evaluating at once. Between them, the session holds the prompt and ids of the answer.

    It never holds a guess. Raises InputError if another prompt was fed, or the session was closed, before the answer
    ended.
    """
    turn = session.turn
    making = decoding(session, sampler, end, limit, drafts)
    while True:
        with session.alone(turn):
            try:
                item = next(making)
                while not isinstance(item, list):
                    evaluate(session.context, [item])
                    item = next(making)
            except StopIteration:
                return
            except BaseException:
                session.clear()
                raise
        yield from item


def decoding(
    session: Session, sampler: Samples, end: frozenset[int], limit: int, drafts: Drafts | None = None
) -> Iterator[Step | list[int]]:
    """The work of decode(): yields steps, each to be evaluated before the next item, and lists of new ids."""
    row = session.base
    token = sampler.sample(session.context, row)
    left = limit - 1
    yield [token]
    while token not in end and left > 0 and session.room > 0:
        alone = None if session.shared else drafts  # with company, a row of another answer is worth more than a guess
        new = yield from _advance(session, sampler, end, token, row, min(left, session.room), alone)
        token, row, left = new[-1], session.base + len(new) - 1, left - len(new)
        yield new


def _advance(
    session: Session, sampler: Samples, end: frozenset[int], token: int, row: int, most: int, drafts: Drafts | None
) -> Generator[Step, None, list[int]]:
    """Evaluate `token` and the guesses that follow it; return the ids sampled after them, from one to `most`.

    Every id is sampled from the target's own logits, so guesses change only the speed. The id after a position is
    sampled only if every guess before it equals what the sampler chose.
    """
    guesses = drafts.make(session, token, row, most - 1, end) if drafts else []
    begun = drafts.clock() if drafts else 0.0
    yield from session.stepping([token, *guesses])
    context, base = session.context, session.base
    new, accepted = [sampler.sample(context, base)], 0
    for guess in guesses:
        if new[-1] != guess:
            break
        accepted += 1
        if guess in end:
            break
        new.append(sampler.sample(context, base + accepted))
    session.rewind(session.length - (len(guesses) - accepted))
    if drafts:
        drafts.settle(len(guesses), accepted, drafts.clock() - begun)
    return new
