"""A checkpoint as the reference that bundles are measured against: its predictions in float32, no model loaded.

A checkpoint's folder and passages come in; rows of logits go out. One matrix is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.reading import Bundle
from ..errors import InputError
from ..media.image import Patches
from ..reference.embedder import audio_tokens, image_tokens
from ..reference.model import Model, Passage, Soft
from ..reference.weights import Checkpoint
from ..runtime.session import Span

ROWS = 256  # rows of logits in memory at a time: 0.3 GB for 262,144 tokens
FloatArray = NDArray[np.float32]


def is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file()


class Truth:
    """A checkpoint that is run by the reference. It embeds patches and frames too, in a bundle's embedder's place."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._model = folder, Model(Checkpoint(folder))

    def check(self, other: Bundle) -> None:
        """Raise InputError unless the bundle has this checkpoint's shapes."""
        own = (len(self._model.layers), self._model.hidden)
        found = tuple(other.text.metadata[f"gemma4.{key}"] for key in ("block_count", "embedding_length"))
        if own != found:
            raise InputError(
                f"{other.path} has {found[0]} layers of width {found[1]:,} and {self._folder} {own[0]} of {own[1]:,}: "
                "they are different models; compare one with itself"
            )

    def image(self, patches: Patches) -> FloatArray:
        return image_tokens(self._model.weights, patches.pixels, patches.positions.astype(np.int64))

    def audio(self, frames: FloatArray) -> FloatArray:
        return audio_tokens(self._model.weights, frames)

    def logits(self, prompts: Sequence[tuple[Sequence[Span], int]]) -> Iterator[FloatArray]:
        """Logits [vocabulary] of every position of each prompt from its second member on."""
        passages = [_passage(spans) for spans, _ in prompts]
        states: list[FloatArray] = []
        for after, _ in self._model.run(passages):
            states = after
        for state, (_, first) in zip(states, prompts, strict=True):
            for start in range(first, len(state), ROWS):
                yield from self._model.logits(self._model.final(state[start : start + ROWS]))


def _passage(spans: Sequence[Span]) -> Passage:
    soft, at = [], 0
    for span in spans:
        if span.rows is not None:
            soft.append(Soft(at, span.rows(), picture=not span.causal))
        at += len(span)
    return Passage(np.array([i for span in spans for i in span.ids], np.int64), soft)
