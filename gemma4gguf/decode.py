"""From a fed session to token ids, one step at a time.

In: a session whose last position has logits, and a sampler. Out: ids, the end token included, until an end token,
the limit, or the context's end. Knows nothing of text.
"""

from __future__ import annotations

from collections.abc import Iterator

from .native.runtime import Sampler
from .session import Session


def decode(session: Session, sampler: Sampler, end: frozenset[int], limit: int) -> Iterator[int]:
    """Yield up to `limit` ids. The session holds every yielded id but the last."""
    for count in range(1, limit + 1):
        token = sampler.sample(session.context)
        yield token
        if token in end or count == limit or session.room == 0:
            return
        session.step([token])
