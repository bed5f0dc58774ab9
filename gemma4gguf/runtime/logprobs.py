"""Log-probabilities of an answer's tokens, from rows of logits, and which chunk tells them.

Logits and chosen ids come in; records go out. Which logits, the model's own or those that a token was drawn from, is
the chooser's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..records import Chunk, Logprob


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities [n] of logits [n], at least one of them finite."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum(dtype=np.float64)), np.float32)


class LogprobNotes:
    """Log-probabilities of the tokens chosen so far, in the answer's order.

    `sampled`: of the distribution that a token was drawn from; else of the model's own.
    """

    def __init__(self, top: int, piece: Callable[[int], bytes], *, sampled: bool) -> None:
        """`top`: how many of the likeliest tokens are told at each place. `piece`: a token's bytes."""
        self._top, self._piece, self.sampled = top, piece, sampled
        self._notes: list[Logprob] = []
        self._told = 0

    def add(self, token: int, ids: NDArray[np.int_], logits: NDArray[np.float32]) -> None:
        """Note a token that was chosen among `ids` [n] with `logits` [n]."""
        logprobs = log_softmax(logits)
        count = min(self._top, len(ids))
        best = np.argpartition(-logprobs, count - 1)[:count] if count else np.empty(0, np.intp)
        order = best[np.lexsort((ids[best], -logprobs[best]))]
        top = tuple(self._note(int(ids[i]), logprobs[i]) for i in order if np.isfinite(logprobs[i]))
        self._notes.append(replace(self._note(token, logprobs[ids == token][0]), top=top))

    def _note(self, token: int, logprob: np.float32) -> Logprob:
        return Logprob(token, self._piece(token), float(logprob))

    def first(self, count: int) -> tuple[Logprob, ...]:
        """The notes of the answer's first tokens."""
        return tuple(self._notes[:count])

    def told(self, chunks: Sequence[Chunk], count: int) -> list[Chunk]:
        """New chunks; the first takes along the notes, up to the answer's first `count` tokens, not told before."""
        if not chunks:
            return []
        new, self._told = tuple(self._notes[self._told : count]), count
        return [replace(chunks[0], logprobs=new), *chunks[1:]]
