"""Score a prompt: the logits of every position, not only of the last.

A context and a prompt's spans come in; rows of logits go out, one per position. This module does not keep what the
cache holds: it empties it first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..native.context import Context
from .session import Span, evaluate_rows


def position_logits(context: Context, spans: Sequence[Span], *, first: int = 0) -> Iterator[NDArray[np.float32]]:
    """Evaluate `spans` in an emptied cache and yield float32 [vocabulary] for each position from `first` on, in order.

    A row is a view of llama.cpp's buffer: it is valid until the next one is asked for. The context's `outputs` bounds
    the rows computed at a time. A picture is computed whole, so its positions can be scored only if `outputs` covers
    it. Raises NativeError.
    """
    context.clear()
    start = 0
    for span, part in pieces(spans, min(context.options.batch, context.options.outputs)):
        stop = start + part.stop - part.start
        wanted = max(0, stop - max(start, first))
        evaluate_rows(context, span, part, start=start, outputs=wanted)
        for position in range(stop - wanted, stop):
            yield context.logits(position - start)
        start = stop


def pieces(spans: Sequence[Span], size: int) -> Iterator[tuple[Span, slice]]:
    """Cut `spans` into parts for one call each: at most `size` rows, but a span that is not causal stays whole."""
    for span in spans:
        step = size if span.causal else len(span)
        for start in range(0, len(span), step):
            yield span, slice(start, min(start + step, len(span)))
