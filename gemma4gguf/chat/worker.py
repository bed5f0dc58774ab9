"""Runs in a process of its own: takes templates and names from standard input, and renders them in the sandbox.

A request and a reply are each one JSON value behind its length in bytes: `[template, names]`, and `["text", …]` or
`[name of an error's class, message]`. Nothing is loaded here but jinja2 and the sandbox. `child` is the other side.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import time
from contextlib import suppress
from typing import Any

from ..errors import FormatError, Gemma4Error
from .sandbox import render

try:
    import resource
except ImportError:  # Windows: the deadline is the only limit there
    resource = None  # type: ignore[assignment]

TEXT = "text"
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


def serve(seconds: float, memory: int) -> None:
    """Answer requests until the other side ends. `seconds` of processor for each, `memory` in bytes for all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process decides
    _limit("RLIMIT_AS", memory)
    _limit("RLIMIT_CORE", 0)
    send(1, packed([TEXT, "ready"]))
    with suppress(EOFError):
        while True:
            request = receive(0)
            _limit("RLIMIT_CPU", math.ceil(time.process_time() + seconds) + 1)
            send(1, _reply(*request))


def _limit(name: str, value: int) -> None:
    """Lower a limit of this process where the system has it, or raise it to the hard limit at most."""
    if resource is not None:
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        with suppress(ValueError, OSError):
            resource.setrlimit(number, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _reply(source: str, names: dict[str, Any]) -> bytes:
    try:
        return packed([TEXT, render(source, names)])
    except Gemma4Error as error:
        return packed([type(error).__name__, str(error)])
    except (MemoryError, ValueError):
        return packed([FormatError.__name__, "the chat template made a text that is too large to be sent"])
