"""An iterator that runs in a thread, so that Ctrl-C is heard at once while C code computes.

In: a generator. Out: its items, in the thread that asks. Knows no model.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.1  # Windows hears Ctrl-C only between two waits


class _StoppedError(Exception):
    """Raised in the thread, in place of the next item."""


class AbandonedError(Exception):
    """Ctrl-C came again while the thread was still at work."""


class Background(Generic[T]):
    """Items of the generator that `make` gives. `make` gets a function that hands over further items meanwhile.

    It runs until it ends or is stopped.
    """

    def __init__(self, make: Callable[[Callable[[T], None]], Generator[T, None, None]]) -> None:
        self._items: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True)

    def __iter__(self) -> Iterator[T]:
        """Raises what the generator raised."""
        self._thread.start()
        while True:
            try:
                item = self._items.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """Wait until the thread has ended, after its next item at the latest. Raises AbandonedError at Ctrl-C."""
        self._stopped.set()
        try:
            while self._thread.is_alive():
                self._thread.join(POLL_S)
        except KeyboardInterrupt:
            raise AbandonedError from None

    def _put(self, item: T) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        self._items.put(item)

    def _work(self, make: Callable[[Callable[[T], None]], Generator[T, None, None]]) -> None:
        end: BaseException | None = None
        try:
            with closing(make(self._put)) as items:
                for item in items:
                    self._put(item)
        except _StoppedError:
            pass
        except BaseException as error:  # whatever it is, the thread that asks must not wait for ever
            end = error
        self._items.put(end)
