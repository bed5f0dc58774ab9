"""Drafters of known quality, and the ways to tell whether drafting changed an answer. For tests and scripts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.runtime.decode import Drafts, decode
from gemma4gguf.runtime.pace import Pace
from gemma4gguf.runtime.session import Session, Span

NEVER: frozenset[int] = frozenset()
TIE = 0.05  # logits closer than this may swap places when a batch has another size


class Scripted:
    """Guesses along a known answer; wrong where `right` says so. It remembers what it was given."""

    def __init__(self, prompt: int, answer: Sequence[int], right: Callable[[int], bool] = lambda i: True) -> None:
        """`prompt`: its number of positions."""
        self.prompt, self.answer, self.right = prompt, answer, right
        self.given: list[tuple[int, int, npt.NDArray[np.float32]]] = []

    def guesses(self, token: int, hidden: npt.NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]:
        self.given.append((token, position, hidden.copy()))
        for i in itertools.count(position - self.prompt + 1):
            known = self.answer[i] if i < len(self.answer) else 0
            yield (known if self.right(i) else known ^ 1), 0.9


def gap(session: Session, spans: Sequence[Span], head: Sequence[int], never: Sequence[int] = ()) -> float:
    """How far the two best logits are apart after a prompt and the beginning of an answer."""
    session.clear()
    session.feed(spans)
    for token in head:
        session.step([token])
    logits = session.context.logits(0 if head else -1).copy()
    logits[list(never)] = -np.inf
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)


def chi_square(
    session: Session, prompt: Span, *, samples: int, top_k: int, length: int
) -> tuple[float, int, dict[tuple[int, ...], float], Drafts]:
    """Drafted answers of `length` tokens at temperature 1 against the model's own odds.

    The statistic, its degrees of freedom, every possible answer with its probability, and the drafts, whose guesses
    were right and wrong by turns.
    """
    odds = _odds(session, prompt, top_k, length)

    class InTurn:
        """Guesses what follows the token in one of the possible answers, another each time."""

        def __init__(self) -> None:
            self.turns: dict[tuple[int, int], Iterator[tuple[int, ...]]] = {}

        def guesses(self, token: int, hidden: Any, position: int) -> Iterator[tuple[int, float]]:
            at = position - len(prompt)
            if (at, token) not in self.turns:
                self.turns[at, token] = itertools.cycle(sorted(a for a in odds if a[at] == token))
            yield from ((i, 0.5) for i in (*next(self.turns[at, token])[at + 1 :], 0, 0))

    drafts = Drafts(InTurn(), Pace(2))
    counts = dict.fromkeys(odds, 0)
    with Sampler(SamplingOptions(temperature=1, top_k=top_k, top_p=1, min_p=0, seed=20_261_125), []) as sampler:
        for _ in range(samples):
            session.feed([prompt])
            counts[tuple(decode(session, sampler, NEVER, length, drafts))] += 1
    common = [answer for answer, p in odds.items() if p * samples >= 5]
    pairs = [(counts[answer], odds[answer] * samples) for answer in common]
    rest = samples - sum(count for count, _ in pairs), samples - sum(mean for _, mean in pairs)
    pairs += [rest] if rest[1] >= 5 else []
    return sum((count - mean) ** 2 / mean for count, mean in pairs), len(pairs) - 1, odds, drafts


def chi_square_bound(degrees: int) -> float:
    """What the statistic exceeds with a probability of 0.01 (Wilson and Hilferty)."""
    return float(degrees * (1 - 2 / (9 * degrees) + 2.326 * (2 / (9 * degrees)) ** 0.5) ** 3)


def _odds(session: Session, prompt: Span, top_k: int, length: int) -> dict[tuple[int, ...], float]:
    odds: dict[tuple[int, ...], float] = {}
    frontier: dict[tuple[int, ...], float] = {(): 1.0}
    while frontier:
        head, reach = frontier.popitem()
        session.feed([prompt])
        for token in head:
            session.step([token])
        logits = session.context.logits().copy()
        best = np.argsort(logits)[-top_k:]
        shares = np.exp(logits[best].astype(np.float64) - logits[best].max())
        for token, share in zip(best, shares / shares.sum(), strict=True):
            longer = (*head, int(token))
            (frontier if len(longer) < length else odds)[longer] = reach * float(share)
    return odds
