"""The near side of a sound that is heard in another process: frames go there as they come.

In: a prompt, then frames. Out: how many there is room for, and what has ended the listening. Its answer is asked for
like any other, with its number.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chat.rendering import Prompt
from ..errors import InputError
from ..runtime.delivery import delivered
from .process import Process


class IsolatedHearing:
    """As `HearingPlace`. `number`: of the question that it is to the process."""

    def __init__(self, process: Process, prompt: Prompt, dropped: int) -> None:
        """Raises what is wrong with the prompt."""
        self.process, self.dropped = process, dropped
        self._over: BaseException | None = None
        self._room = Future[int]()
        self.number = process.begin("hear", prompt, self._take)
        self.most = self._room.result()

    @property
    def behind(self) -> float:
        """Seconds of sound that were fed and are not read yet."""
        with closing(delivered(partial(self.process.ask, "behind", self.number))) as items:
            seconds: float = next(items)
        return seconds

    def feed(self, frames: NDArray[np.float32]) -> None:
        """Have frames float32 [n, 640] read soon. Raises what has ended the listening."""
        if self._over:
            raise self._over
        self.process.tell("frames", self.number, frames)

    def pause(self) -> None:
        """Have what ends the turn read, too, unless more is fed first. Raises what has ended the listening."""
        if self._over:
            raise self._over
        self.process.tell("pause", self.number)

    def close(self) -> None:
        """Listen or answer no more."""
        self._over = self._over or InputError("this turn is over; listen anew")
        self.process.leave(self.number)

    def _take(self, item: Any) -> None:
        if isinstance(item, BaseException):
            self._over = item
        if self._room.done():
            return
        if isinstance(item, BaseException):
            self._room.set_exception(item)
        elif isinstance(item, int):
            self._room.set_result(item)
