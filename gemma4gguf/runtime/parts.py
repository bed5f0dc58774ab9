"""The owner of what is loaded of a bundle: nothing at first, then its vocabulary, or all of it as an engine.

In: a bundle and how its engine is to be made. Out: its parts, when somebody needs them, until it is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from ..bundle.reading import Bundle
from ..chat.rendering import Prompt, Segment
from ..errors import CLOSED, InputError
from ..media.embedder import Embedder
from ..native.vocabulary import Vocabulary
from ..native.weights import Weights
from ..records import Evaluation
from .asking import Progress
from .engine import Engine, EngineOptions
from .hearing import Hearing
from .loading import load
from .options import Options
from .request import Request


class Answering(Protocol):
    """What questions need of an engine, in whichever process it is."""

    def request(
        self, prompt: Prompt, options: Options, on_progress: Progress | None = None, place: Hearing | None = None
    ) -> Request: ...

    def hear(self, prompt: Prompt, dropped: int = 0) -> Hearing | None: ...

    def evaluate(self, segments: Sequence[Segment]) -> Evaluation: ...

    def close(self) -> None: ...


Make: TypeAlias = Callable[[Bundle, EngineOptions], Answering]


class Parts:
    """One bundle's parts. Any thread may ask."""

    def __init__(self, bundle: Bundle, options: EngineOptions, make: Make) -> None:
        """`make`: makes the engine."""
        self.bundle, self.options, self._make = bundle, options, make
        self._engine: Answering | None = None
        self._words: Weights | None = None  # a vocabulary without weights, while there is no engine in this process
        self._opening = threading.Lock()  # held while something is made or freed
        self._closed = False

    @property
    def engine(self) -> Answering:
        """All of it. Loads it where need be; raises InputError once it is closed."""
        with self._opening:
            self._check_open()
            if self._engine is None:
                self._engine = self._make(self.bundle, self.options)
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
            if isinstance(engine, Engine):
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
            raise InputError(CLOSED)
