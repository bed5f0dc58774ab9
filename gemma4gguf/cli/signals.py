"""SIGTERM and SIGHUP end a command as Ctrl-C does: every `finally` runs, so that no half file stays."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Ended(SystemExit):
    """A signal ended the program. `code`: 128 and the signal's number, as shells have it."""


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """In this block, a signal to end raises Ended. One that is ignored, as under nohup, stays ignored."""
    ours = _heard(NAMES)

    def end(number: int, frame: FrameType | None) -> NoReturn:
        for other in ours:
            signal.signal(other, signal.SIG_IGN)  # a second one must not disturb the cleaning up
        raise Ended(128 + number)

    with _handled(dict.fromkeys(ours, end)):
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """In this block, a signal ends the process as it is, even while C computes: for work that leaves nothing behind."""
    with _handled(dict.fromkeys(_heard(("SIGINT", *NAMES)), signal.SIG_DFL)):
        yield


def _heard(names: Sequence[str]) -> list[int]:
    """Those signals that this system has and that are not ignored; none outside the main thread, which owns them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _handled(handlers: Mapping[int, Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
