"""The process in which a stranger's chat templates are rendered: started, asked, held to its limits, ended.

In: a template and plain data. Out: the text. What happens inside the process is `worker`'s business.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from ..errors import FormatError, Gemma4Error, InputError
from ..limits import current
from . import worker

START_SECONDS = 60.0
_CODE = (
    "import sys; sys.path += sys.argv[1:]; "  # behind the standard library: nothing of theirs can hide it
    f"from {worker.__name__} import serve; serve()"
)
_CLOCK = 5  # a process may wait for the processor: its deadline on the clock is so many times the limit
_REFUSED: Mapping[str, type[Gemma4Error]] = {kind.__name__: kind for kind in (InputError, FormatError)}


class Child:
    """One process. It starts at the first rendering, again after it has ended, and never outlives this one.

    Threads wait for each other. A rendering that fails or is interrupted ends the process, so that nothing of it stays.
    Windows holds it to the clock alone, macOS not to memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while the process is asked
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def render(self, source: str, names: Mapping[str, Any]) -> str:
        """As `sandbox.render`. Raises FormatError also where a limit is reached, or the process ends."""
        limits = current()
        try:
            request = worker.packed([source, names, vars(limits)])
        except ValueError as error:
            raise InputError(f"messages: the chat template cannot be given them: {error}") from error
        with self._lock:
            try:
                kind, said = _asked(self._running(), request, limits.template_seconds)
                if kind != worker.TEXT and kind not in _REFUSED:
                    raise FormatError(said)
            except BaseException:
                self._end()
                raise
        if kind in _REFUSED:
            raise _REFUSED[kind](said)
        return said

    def close(self) -> None:
        """End the process at once, also in the middle of a rendering, and start no other."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # whoever waits for its reply gets an error, and lets go of the lock
        with self._lock:
            self._end()

    def forget(self) -> None:
        """For a fork of this process: leave the child to the parent."""
        process, self._process, self._lock = self._process, None, threading.Lock()
        if process is not None:
            process.returncode = 0  # not this process's to wait for
            _close_pipes(process)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._process = _start()
            _asked(self._process, b"", START_SECONDS / _CLOCK)
        if self._closed:  # perhaps since the line above
            raise FormatError("the chat template cannot be rendered any more: this program is ending")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)


def _start() -> subprocess.Popen[bytes]:
    """A process that sees its standard library, jinja2 and this package. It says that it is ready."""
    roots = dict.fromkeys(
        str(Path(file).resolve().parents[up])
        for file, up in ((__file__, 2), (jinja2.__file__, 1), (markupsafe.__file__, 1))
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _CODE, *roots],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
    except OSError as error:
        raise FormatError(f"the chat template needs a process of its own, which cannot be started: {error}") from error


def _asked(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> tuple[str, str]:
    """A kind and a text. Raises FormatError where they do not come in so many seconds of processor, or not at all."""
    assert process.stdin is not None
    assert process.stdout is not None
    with _deadline(process, _CLOCK * seconds) as late:
        try:
            worker.send(process.stdin.fileno(), request)
            reply = worker.receive(process.stdout.fileno())
        except (EOFError, OSError, ValueError, RecursionError):
            reply = None
    match reply:
        case [str(kind), str(said)] if not late.is_set():
            return kind, said
    process.kill()  # it may have ended by itself: then this changes nothing
    how = _how_it_ended(process.wait())
    if late.is_set() or how == "SIGPROF":
        raise FormatError(f"the chat template was still at work after {seconds:g} s")
    raise FormatError(f"the chat template ended the process that renders it ({how})")


def _how_it_ended(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


@contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kills a process after some seconds, and sets the event. Afterwards that can no longer happen."""
    late = threading.Event()

    def expire() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
        timer.join()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
