"""The near side of an engine in a process of its own: asks it, and starts it again where it has ended.

In: prompts and options, as for `runtime.engine`. Out: the same items. Pictures and sound are read here.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from ..bundle.reading import Bundle
from ..chat.rendering import Prompt, Segment
from ..errors import CLOSED, InputError
from ..records import Evaluation
from ..runtime.asking import Progress
from ..runtime.delivery import Start, delivered
from ..runtime.engine import EngineOptions
from ..runtime.hearing import Hearing
from ..runtime.options import Options
from ..runtime.prompt import prepared
from ..runtime.request import Request
from .hearing import IsolatedHearing
from .process import Process


class IsolatedEngine:
    """An engine behind two pipes. It starts at once, and again at the first question after its process has ended."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.bundle, self.options = bundle, options
        self._process: Process | None = None
        self._starting = threading.Lock()  # held while a process is started or ended
        self._opened_in = os.getpid()
        self._closed = False
        self._running()

    @property
    def pid(self) -> int | None:
        """The process's number, while it is there."""
        process = self._process
        return process.pid if process and process.alive else None

    def request(
        self, prompt: Prompt, options: Options, on_progress: Progress | None = None, place: Hearing | None = None
    ) -> Request:
        """As `Engine.request`. What the engine finds wrong with a prompt is raised before the first chunk."""
        assert place is None or isinstance(place, IsolatedHearing)
        process, heard = (place.process, place.number) if place else (self._running(), None)
        readied, first = self._readied(prompt), options.numbered(0)

        def start(number: int) -> Start:
            return partial(process.ask, "ask", readied, first.numbered(number), heard)

        return Request(start, options.wait, on_progress, self.options.context.sequences)

    def hear(self, prompt: Prompt, dropped: int = 0) -> IsolatedHearing | None:
        """As `Engine.hear`."""
        hearing = IsolatedHearing(self._running(), self._readied(prompt), dropped)
        return hearing if hearing.most else None

    def evaluate(self, segments: Sequence[Segment]) -> Evaluation:
        """As `Engine.evaluate`."""
        start = partial(self._running().ask, "evaluate", prepared(segments, self.options.image_tokens))
        with closing(delivered(start)) as items:
            ids, logits, width = next(items)
        return Evaluation(np.frombuffer(ids, np.int32), np.frombuffer(logits, np.float32).reshape(-1, width))

    def close(self) -> None:
        """End the process. Open streams raise InputError."""
        with self._starting:
            self._closed = True
            if self._process:
                self._process.close(InputError(CLOSED))

    def _readied(self, prompt: Prompt) -> Prompt:
        return replace(prompt, segments=prepared(prompt.segments, self.options.image_tokens))

    def _running(self) -> Process:
        if os.getpid() != self._opened_in:
            raise InputError("this model was opened before the process forked; open it again in the child")
        with self._starting:
            if self._closed:
                raise InputError(CLOSED)
            if self._process is None or not self._process.alive:
                self._restart()
            assert self._process
            return self._process

    def _restart(self) -> None:
        before, self._process = self._process, None
        if before is not None and before.drafted:
            self.options = replace(self.options, draft=0)
            warnings.warn("the engine ended while it drafted: it goes on without drafts", stacklevel=5)
        self._process = Process(self.bundle, self.options)
