"""The owner of what is loaded of a bundle: nothing at first, then its vocabulary, or all of it as an engine.

In: a bundle and how its engine is to be made. Out: its parts, when somebody needs them, until it is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..bundle.reading import Bundle
from ..errors import InputError
from ..media.embedder import Embedder
from ..native.vocabulary import Vocabulary
from ..native.weights import Weights
from .engine import Engine, EngineOptions
from .loading import load


class Parts:
    """One bundle's parts. Any thread may ask."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.bundle, self.options = bundle, options
        self._engine: Engine | None = None
        self._words: Weights | None = None  # a vocabulary without weights, where tokens are counted before loading
        self._opening = threading.Lock()  # held while something is made or freed
        self._closed = False

    @property
    def engine(self) -> Engine:
        """All of it. Loads it where need be; raises InputError once it is closed."""
        with self._opening:
            self._check_open()
            if self._engine is None:
                self._engine = Engine(self.bundle, self.options)
            return self._engine

    @property
    def loaded(self) -> bool:
        """Whether there is an engine."""
        return self._engine is not None

    def reading(self) -> tuple[Vocabulary, Callable[[], Embedder]]:
        """What it takes to read a prompt: the vocabulary, of the engine or without weights, and the embedder."""
        with self._opening:
            self._check_open()
            engine = self._engine
            if engine is not None:
                return engine.weights.vocab, lambda: engine.embedder
            if self._words is None:
                self._words = load(self.bundle.text, vocab_only=True)
            return self._words.vocab, lambda: Embedder(self.bundle)

    def close(self) -> None:
        """Free everything, once whoever is at work has done a step."""
        with self._opening:
            self._closed = True
            if self._engine is not None:
                self._engine.close()
            self._engine = None
            if self._words is not None:
                self._words.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this model is closed; open it again")
