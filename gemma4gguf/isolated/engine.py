"""The near side of an engine in a process of its own: starts it, asks it, and starts it again where it has ended.

In: prompts and options, as for `runtime.engine`. Out: the same items. Pictures and sound are read here.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..bundle.reading import Bundle
from ..chat.rendering import Prompt, Segment
from ..errors import CLOSED, InputError, NativeError
from ..records import Evaluation
from ..runtime.asking import Progress
from ..runtime.delivery import Put, Start, delivered
from ..runtime.engine import EngineOptions
from ..runtime.hearing import Hearing
from ..runtime.options import Options
from ..runtime.prompt import prepared
from ..runtime.request import Request
from .wire import Wire

# The signals are ignored from the first line on: who asks for answers decides when they end.
_CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:0] = sys.argv[1:]; from gemma4gguf.isolated.worker import serve; serve()"
)


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
        readied = replace(prompt, segments=prepared(prompt.segments, self.options.image_tokens))
        process, first = self._running(), options.numbered(0)

        def start(number: int) -> Start:
            return partial(process.ask, "ask", readied, first.numbered(number))

        return Request(start, options.wait, on_progress, self.options.context.sequences)

    def hear(self, prompt: Prompt, dropped: int = 0) -> NoReturn:
        """Raises InputError: frames go to an engine in this process."""
        raise InputError("isolate: a model in a process of its own does not listen; open it without")

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
        *sent, put = content
        number = next(self._numbers)
        with self._changing:
            if self._reason:
                put(self._reason)
            else:
                self._open[number] = put
        self._wire.send(kind, number, *sent)
        return partial(self._leave, number)

    def _leave(self, number: int) -> None:
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
        """End its questions with an error, and the process."""
        with self._changing:
            left, self._open, self._reason = self._open, {}, reason
        for put in left.values():
            put(reason)
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
