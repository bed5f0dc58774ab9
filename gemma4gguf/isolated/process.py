"""The near side of one process with an engine: starts it, sends questions, hands on what comes, and ends it.

In: questions, each with its `Put`. Out: items. Knows neither prompts nor options.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ..bundle.reading import Bundle
from ..errors import NativeError
from ..runtime.delivery import Put, delivered
from ..runtime.engine import EngineOptions
from .wire import Wire

GRACE_S = 10  # for a process that was told to end: for the call under way, and what is being written to a disk
# The signals are ignored from the first line on: who asks for answers decides when they end.
_CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:0] = sys.argv[1:]; from gemma4gguf.isolated.worker import serve; serve()"
)


class Process:
    """One process with an engine, and the questions that it is at work on. Raises what loading the engine raises."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        self.drafted = False  # it ended by itself while it made an answer with a drafter
        self._drafts = False
        self._open: dict[int, Put] = {}
        self._reason: Exception | None = None  # why it answers no more
        self._numbers = count(1)
        self._changing = threading.RLock()  # held while questions come and go; the garbage collector may end one here
        self._popen = _started()
        self._end = weakref.finalize(self, _ended, self._popen)  # also where nobody closes the model
        assert self._popen.stdin
        assert self._popen.stdout
        self._wire = Wire(os.dup(self._popen.stdout.fileno()), os.dup(self._popen.stdin.fileno()), trusting=False)
        self._popen.stdout.close()
        self._popen.stdin.close()
        threading.Thread(target=_listen, args=[weakref.ref(self), self._wire], daemon=True).start()
        try:
            start = partial(self.ask, "open", bundle.path, bundle.text.identity, options)
            with closing(delivered(start)) as items:
                self._drafts = next(items)
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, kind: str, *content: Any) -> Callable[[], None]:
        """Send a question, of which the last part is its `Put`. Returns how to leave it."""
        return partial(self.leave, self.begin(kind, *content))

    def begin(self, kind: str, *content: Any) -> int:
        """The same. Returns the question's number, for `tell` and `leave`."""
        *sent, put = content
        number = next(self._numbers)
        with self._changing:
            if self._reason:
                put(self._reason)
            else:
                self._open[number] = put
        self._wire.send(kind, number, *sent)
        return number

    def tell(self, kind: str, number: int, *content: Any) -> None:
        """Send something more of a question."""
        self._wire.send(kind, number, *content)

    def leave(self, number: int) -> None:
        """Have a question worked on no more; nothing comes of it from here on. May be called at any time."""
        with self._changing:
            put = self._open.pop(number, None)
        if put:
            self._wire.send("cancel", number)

    def heard(self, number: int, item: Any) -> None:
        """Hand on what the engine says; None or an error ends a question."""
        with self._changing:
            over = item is None or isinstance(item, BaseException)
            put = self._open.pop(number, None) if over else self._open.get(number)
        if put:
            put(item)

    def lost(self) -> None:
        """The process has ended by itself, and its questions with it."""
        status = self._popen.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self.drafted = self.drafted or (self._drafts and bool(self._open))
        self.close(NativeError(f"the engine's process has ended ({how}); ask again, and it starts anew"))

    def close(self, reason: Exception) -> None:
        """End its questions with an error, and the process: by itself, or where that takes too long, by force."""
        with self._changing:
            left, self._open, self._reason = self._open, {}, reason
        for put in left.values():
            put(reason)
        self._wire.send("close", 0)
        try:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_S)
        finally:
            self._end()


def _started() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _CODE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        raise NativeError(f"the engine needs a process of its own, which cannot be started: {error}") from error


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _listen(owner: weakref.ref[Process], wire: Wire) -> None:
    """Hand on what comes, until the process has ended, which it also does when nobody has the model any more."""
    with suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
        while True:
            number, item = wire.receive()
            process = owner()
            if process:
                process.heard(number, item)
            del process
    wire.close()
    process = owner()
    if process:
        process.lost()
