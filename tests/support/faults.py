"""Faults of files, injected: the n-th operation on a file fails, as a bad disk, a full one or a lost mount make it.

In: which operation fails and how. Counts every open, read, write, seek, truncation, sync and rename that Python code
makes while the context is open: those of the main thread, and those of all others, each in their order. With one worker
that order is the same each time.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, current_thread, main_thread
from types import TracebackType
from typing import Any
from unittest import mock

from gemma4gguf.errors import Gemma4Error

FAILURES: dict[str, OSError | None] = {
    "error": OSError(errno.EIO, os.strerror(errno.EIO)),
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "short": None,  # reads return nothing, as of a file that was cut off meanwhile
}
READS, OTHERS = ("read", "readinto", "readline", "readlines"), ("write", "seek", "truncate", "flush")


@dataclass(frozen=True)
class Place:
    """An operation: the `number`-th of the main thread or of the others, from 0."""

    main: bool
    number: int
    what: str


class Faults:
    """A context in which the operation `at` fails; None: none does. `seen` are the operations so far."""

    def __init__(self, at: Place | None = None, kind: str = "error") -> None:
        self.at, self.kind = at, kind
        self.seen: list[Place] = []
        self._lock = Lock()
        self._undo = ExitStack()

    def __enter__(self) -> Faults:
        for owner, name in ((builtins, "open"), (io, "open")):
            self._undo.enter_context(mock.patch.object(owner, name, self._opening(getattr(owner, name), name)))
        fdopen = os.fdopen  # touches no file by itself
        self._undo.enter_context(mock.patch.object(os, "fdopen", lambda *a, **o: File(fdopen(*a, **o), self)))
        for name in ("open", "fsync", "replace"):
            self._undo.enter_context(mock.patch.object(os, name, self._counted(getattr(os, name), f"os.{name}")))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._undo.close()

    def fails(self, what: str) -> bool:
        """Count an operation; whether it returns nothing. Raises its failure."""
        main = current_thread() is main_thread()
        with self._lock:
            place = Place(main, sum(seen.main is main for seen in self.seen), what)
            self.seen.append(place)
        if place != self.at:
            return False
        failure = FAILURES[self.kind]
        if failure is not None:
            raise OSError(failure.errno, failure.strerror)
        return what in READS

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.fails(name)
            return call(*args, **options)

        return counted

    def _opening(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def opened(*args: Any, **options: Any) -> Any:
            if isinstance(args[0], int):  # opened already: from within `os.fdopen`
                return call(*args, **options)
            self.fails(name)
            return File(call(*args, **options), self)

        return opened


class File:
    """An open file whose operations are counted."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file, self._faults = file, faults

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._file, name)
        if name not in (*READS, *OTHERS):
            return value

        def counted(*args: Any, **options: Any) -> Any:
            if self._faults.fails(name):
                return 0 if name == "readinto" else value(0)
            return value(*args, **options)

        return counted

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def outcome(work: Callable[[], object], out: Path, at: Place, kind: str, whole: bytes) -> str:
    """Run a conversion with one fault: "refused", "whole", or what went wrong.

    `out` may hold an older file, which must then survive. `whole` is what a conversion without a fault writes.
    """
    before = {p.name: p.read_bytes() for p in out.parent.iterdir()}
    error: Exception | None = None
    with Faults(at, kind) as faults:
        try:
            work()
        except Exception as raised:
            error = raised
    if at not in faults.seen:
        return f"{at}: not there this time"
    after = {p.name: p.read_bytes() for p in out.parent.iterdir()}
    if error is None:
        return "whole" if after == before | {out.name: whole} else f"{at}: success, but not the whole file"
    if not isinstance(error, Gemma4Error) or not str(error).isprintable():
        return f"{at}: {error!r}"
    left = sorted(name for name in after if after[name] != before.get(name))
    return f"{at}: {error}; left {left}" if left or before.keys() - after.keys() else "refused"
