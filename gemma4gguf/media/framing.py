"""Sound that is still being made, as frames of 40 ms: the same ones into which `frame` cuts the whole of it.

Samples come in as they are recorded, in pieces of any length; frames go out, each as soon as it is certain. Does not
know the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.projector import FRAME_SAMPLES
from ..errors import InputError
from .audio import ModelRate, columns, mono_blocks

NAME = "the sound"


class Framer:
    """Cuts one sound into frames, float32 [n, 640]. It keeps what is left over for the next piece."""

    def __init__(self) -> None:
        self._rate: float | None = None
        self._resampler: ModelRate | None = None
        self._rest = np.zeros(0, np.float32)

    def feed(self, samples: ArrayLike, rate: float) -> NDArray[np.float32]:
        """The frames that are complete with these samples: [n] or [n, channels] at `rate` Hz, types as for `frame`.

        Raises InputError for what is no sound, and where the rate changes.
        """
        if self._resampler is None:
            self._resampler, self._rate = ModelRate(rate, NAME), rate
        if rate != self._rate:
            raise InputError(f"rate is {rate} Hz, and {NAME} began at {self._rate} Hz; begin a new one")
        return self._whole([self._resampler.feed(block) for block in mono_blocks(columns(samples))])

    def end(self) -> NDArray[np.float32]:
        """The frames that are left, the last one filled with zeros. Raises InputError where there was no sound."""
        if self._resampler is None:
            raise InputError(f"{NAME}: nothing was heard; feed it first")
        frames = self._whole([self._resampler.end()])
        missing = -len(self._rest) % FRAME_SAMPLES
        last = np.pad(self._rest, (0, missing)).reshape(-1, FRAME_SAMPLES)  # [0 or 1, 640]
        return np.concatenate([frames, last])

    def _whole(self, new: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        waiting = np.concatenate([self._rest, *new])
        end = len(waiting) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = waiting[end:]
        return waiting[:end].reshape(-1, FRAME_SAMPLES)
