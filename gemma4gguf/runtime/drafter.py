"""The MTP drafter: guesses the next tokens from the target's cache and hidden rows.

A bundle's drafter section and the target's context come in; then a token, the hidden row it was sampled from, and its
position. Guesses go out, each with the drafter's probability. This module does not check guesses and does not sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.reading import Section
from ..errors import NativeError
from ..native.context import Context, ContextOptions
from ..native.extensions import missing_for_drafts
from ..native.handle import Closing
from ..native.weights import Weights
from .loading import load


def drafter_weights(section: Section, text: Section, *, gpu_layers: int | None = None, repack: bool = True) -> Weights:
    """Load a drafter from inside the bundle; its target need not be there yet.

    Raises NativeError if this llama.cpp cannot draft, FormatError if the drafter does not fit the model.
    """
    missing = missing_for_drafts()
    if missing:
        raise NativeError(f"this llama.cpp cannot draft: it lacks {', '.join(missing)}")
    return load(section, text, gpu_layers=gpu_layers, repack=repack)


class Drafter(Closing):
    """The drafter's weights, and a context that reads the target's cache."""

    def __init__(self, weights: Weights, target: Context) -> None:
        """Make the context, and own `weights` from now on. `target` must keep hidden rows; its cache is emptied."""
        options = target.options
        self._model = weights
        try:
            one = ContextOptions(
                context=options.context,
                sequences=options.sequences,
                batch=options.sequences,
                micro_batch=options.sequences,
                outputs=options.sequences,  # llama.cpp ends the process with fewer
                threads=options.threads,
                kv_type=options.kv_type,
                flash_attention=options.flash_attention,
            )
            self._context = Context(self._model, one, hidden=True, target=target)
        except BaseException:
            self._model.close()
            raise

    def of(self, sequence: int) -> SequenceDrafter:
        """Its guesses for one of the target's sequences."""
        return SequenceDrafter(self._context, sequence)

    def guesses(self, token: int, hidden: NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]:
        """The guesses for the first sequence."""
        return self.of(0).guesses(token, hidden, position)

    def close(self) -> None:
        """Free the drafter. Must be called before the target's context is closed."""
        self._context.close()
        self._model.close()


@dataclass(frozen=True)
class SequenceDrafter:
    """A drafter at work for one sequence."""

    context: Context
    sequence: int

    def guesses(self, token: int, hidden: NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]:
        """Yield the likeliest next ids one after another, each with its probability, without end.

        `token`: the last sampled token, which the target has not evaluated yet. `hidden`: float32 [width], the target's
        row that it was sampled from. `position`: where the token will be, which is the number of positions in the
        target's cache. All draft steps use this position.
        """
        while True:
            self.context.decode([token], hidden[None].copy(), start=position, sequence=self.sequence)
            logits = self.context.logits()
            token = int(logits.argmax())
            yield token, float(1 / np.exp(logits - logits[token]).sum())
            hidden = self.context.hidden()
