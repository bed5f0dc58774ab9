"""The MTP drafter: guesses at the next tokens, from the target's own cache and hidden rows.

In: a bundle's drafter section and the target's context; then a token, the hidden row it was sampled from, its position.
Out: guesses, each with the drafter's confidence, as many as are asked for. Knows nothing of checking or sampling.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..bundle.reading import Section
from ..bundle.validation import check_drafter
from ..errors import NativeError
from ..native.context import Context, ContextOptions
from ..native.extensions import missing_for_drafts
from ..native.weights import Weights


class Drafter:
    """The drafter's weights, loaded where they lie in the bundle, and a context bound to the target's."""

    def __init__(self, section: Section, text: Section, target: Context, *, gpu_layers: int | None = None) -> None:
        """Load it. `target` must keep hidden rows, and loses what its cache holds.

        Raises NativeError where this llama.cpp cannot draft, FormatError where the drafter does not fit the model.
        """
        missing = missing_for_drafts()
        if missing:
            raise NativeError(f"this llama.cpp cannot draft: it lacks {', '.join(missing)}")
        check_drafter(text, section)  # one made for another model would end the process in llama.cpp
        options = target.options
        with in_place(section) as (path, offset):
            self._model = Weights(path, offset=offset, gpu_layers=gpu_layers)
        try:
            one = ContextOptions(
                context=options.context,
                batch=1,
                micro_batch=1,
                outputs=1,
                threads=options.threads,
                kv_type=options.kv_type,
                flash_attention=options.flash_attention,
            )
            self._context = Context(self._model, one, hidden=True, target=target)
        except BaseException:
            self._model.close()
            raise

    def guesses(self, token: int, hidden: NDArray[np.float32], position: int) -> Iterator[tuple[int, float]]:
        """Likeliest ids one after another, each with its probability, without end.

        `token`: the last one, not yet evaluated by the target; `hidden`: float32 [width], the target's row it was
        sampled from; `position`: its own, so the number of positions that the target's cache holds. All steps share it.
        """
        while True:
            self._context.decode([token], hidden[None].copy(), start=position)
            logits = self._context.logits()
            token = int(logits.argmax())
            yield token, float(1 / np.exp(logits - logits[token]).sum())
            hidden = self._context.hidden()

    def close(self) -> None:
        """Free it; before the target's context."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> Drafter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class in_place:  # noqa: N801 - reads as a function
    """A path and byte offset that llama.cpp can load a section from: the bundle itself, or a copy where it must be."""

    def __init__(self, section: Section, *, copy: bool = os.name != "posix") -> None:
        self._section, self._copied = section, copy  # a C FILE of another runtime library cannot be handed over

    def __enter__(self) -> tuple[Path, int]:
        if not self._copied:
            return self._section.path, self._section.offset
        with tempfile.NamedTemporaryFile(suffix=".gguf", delete=False) as file:
            self._path = Path(file.name)
            for piece in self._section.copy():
                file.write(piece)
        return self._path, 0

    def __exit__(self, *_: object) -> None:
        if self._copied:
            with suppress(OSError):  # Windows keeps a mapped file: it goes with the folder of temporary files
                self._path.unlink()
