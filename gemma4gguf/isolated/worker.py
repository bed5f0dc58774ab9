"""Runs in a process of its own: one engine, and what it is asked through a pipe. `engine` is the other side.

It is sent `open` once, then `ask`, `evaluate`, `hear` and `cancel`, and `frames`, `pause` and `behind` of what it
hears, then `close`. It sends items, and None or an error behind the last, each with the number of the question.
Standard output belongs to the other side; nothing else may write there. It also ends when the other side does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.reading import Bundle, FileIdentity
from ..chat.rendering import Prompt, Segment
from ..errors import FormatError, Gemma4Error, InputError, NativeError
from ..runtime.delivery import Put, Warned
from ..runtime.engine import Engine, EngineOptions
from ..runtime.hearing import HearingPlace
from ..runtime.options import Options
from .wire import Wire


def serve() -> None:
    """Be the engine until the other side says so, or ends."""
    wire = Wire(os.dup(0), os.dup(1), trusting=True)
    os.dup2(2, 1)  # a library that prints must not disturb the messages
    with suppress(EOFError, OSError):
        _Worker(wire).run()
    os._exit(0)  # at once, also where llama.cpp is computing: nobody is there for the answer


class _Worker:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._engine: Engine | None = None
        self._leave: dict[int, Callable[[], None]] = {}  # how to end each answer that is being made
        self._heard: dict[int, HearingPlace] = {}

    def run(self) -> None:
        works: Mapping[str, Callable[..., None]] = {
            "open": self._open,
            "ask": self._ask,
            "evaluate": self._evaluate,
            "hear": self._hear,
            "frames": self._frames,
            "pause": self._pause,
            "behind": self._behind,
        }
        while True:
            kind, number, *content = self._wire.receive()
            if kind == "close":
                return self._close()
            if kind == "cancel":
                self._heard.pop(number, None)
                self._leave.pop(number, _nothing)()
                continue
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    works[kind](partial(self._put, number), number, *content)
            except Exception as error:
                self._put(number, error)
            for one in told:
                self._put(number, Warned(str(one.message), one.category.__name__))

    def _close(self) -> None:
        """Leave every answer, wait for what is being written to a disk, and free everything."""
        for leave in [*self._leave.values()]:
            leave()
        if self._engine:
            self._engine.scheduler.close()
            self._engine.scheduler.places.forget()  # conversations stay off the disk: `serve` promises that
            self._engine.close()

    def _put(self, number: int, item: Any) -> None:
        """Send an item of a question; None or an error ends it."""
        if isinstance(item, BaseException) and not isinstance(item, Gemma4Error):
            item = NativeError(f"{type(item).__name__}: {item}")
        if item is None or isinstance(item, BaseException):
            self._leave.pop(number, None)
            self._heard.pop(number, None)
        self._wire.send(number, item)

    def _open(self, put: Put, number: int, path: Path, identity: FileIdentity | None, options: EngineOptions) -> None:
        bundle = Bundle.open(path)
        if bundle.text.identity != identity:
            raise FormatError(f"{path}: was changed or replaced after it was opened; open it again")
        self._engine = Engine(bundle, options)
        put(self._engine.drafter is not None)
        put(None)

    def _ask(self, put: Put, number: int, prompt: Prompt, options: Options, heard: int | None) -> None:
        """`heard`: the number of what was heard, where it is answered in its place."""
        assert self._engine
        place = None if heard is None else self._hearing(heard)
        self._leave[number] = self._engine.request(prompt, options, place=place).start(0)(put)

    def _hear(self, put: Put, number: int, prompt: Prompt) -> None:
        assert self._engine
        place = self._engine.hear(prompt)
        if place:
            self._heard[number], self._leave[number] = place, place.close
        put(place.most if place else 0)

    def _frames(self, put: Put, number: int, frames: NDArray[np.float32]) -> None:
        self._hearing(number).feed(frames)

    def _pause(self, put: Put, number: int) -> None:
        self._hearing(number).pause()

    def _behind(self, put: Put, number: int, heard: int) -> None:
        put(self._hearing(heard).behind)
        put(None)

    def _hearing(self, number: int) -> HearingPlace:
        if number not in self._heard:
            raise InputError("this turn is over; listen anew")
        return self._heard[number]

    def _evaluate(self, put: Put, number: int, segments: Sequence[Segment]) -> None:
        assert self._engine
        found = self._engine.evaluate(segments)
        put((found.ids.tobytes(), found.logits.tobytes(), found.logits.shape[1]))
        put(None)


def _nothing() -> None: ...
