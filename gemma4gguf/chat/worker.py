"""Runs in a process of its own: takes templates and names from standard input, and renders them in the sandbox.

A request and a reply are each one JSON value behind its length in bytes: `[template, names, limits]`, and
`["text", …]`, `[name of an error's class, message]` or `["failed", message]`. Nothing is loaded here but jinja2 and the
sandbox. `child` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from contextlib import suppress
from typing import Any

from ..errors import FormatError, InputError
from ..limits import current, limited
from .sandbox import compiled, render

try:
    import resource
except ImportError:  # Windows: the deadline is the only limit there
    resource = None  # type: ignore[assignment]

TEXT = "text"
FAILED = "failed"  # the template ran, and something of it may have stayed in this process
MAX_BYTES = 1 << 27  # of one request or reply
_LENGTH = struct.Struct(">Q")
_PIECE = 1 << 20


def packed(value: Any) -> bytes:
    """A JSON value as it goes through a pipe. Half a surrogate pair, which a template can print, goes through too."""
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes; at most {MAX_BYTES:,} are accepted")
    return _LENGTH.pack(len(data)) + data


def send(pipe: int, data: bytes) -> None:
    """Write all of it. Raises OSError where nobody reads any more."""
    left = memoryview(data)
    while left:
        left = left[os.write(pipe, left[:_PIECE]) :]


def receive(pipe: int) -> Any:
    """The next JSON value. Raises EOFError where the other side has ended, ValueError where it is none."""
    (size,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes; at most {MAX_BYTES:,} are accepted")
    return json.loads(_exactly(pipe, size).decode("utf-8", "surrogatepass"))


def _exactly(pipe: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(pipe, min(size, _PIECE))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def serve() -> None:
    """Answer requests until the other side ends, each within its own limits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process decides
    _limit("RLIMIT_CORE", 0)
    send(1, packed([TEXT, "ready"]))
    with suppress(EOFError):
        while True:
            source, names, limits = receive(0)
            with limited(**limits):
                _limit("RLIMIT_AS", current().template_memory)
                _expire(current().template_seconds)
                reply = _reply(source, names)
                _expire(0)
            send(1, reply)


def _limit(name: str, value: int) -> None:
    """Lower a limit of this process where the system has it, or raise it to the hard limit at most."""
    if resource is not None:
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        with suppress(ValueError, OSError):
            resource.setrlimit(number, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _expire(seconds: float) -> None:
    """End this process by SIGPROF after so many more seconds of processor, whatever runs then; 0: not at all."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _reply(source: str, names: dict[str, Any]) -> bytes:
    try:
        compiled(source)
    except FormatError as error:
        return packed([FormatError.__name__, str(error)])
    try:
        return packed([TEXT, render(source, names)])
    except InputError as error:
        return packed([InputError.__name__, str(error)])
    except FormatError as error:
        return packed([FAILED, str(error)])
    except (MemoryError, ValueError):
        return packed([FAILED, "the chat template made a text that is too large to be sent"])
