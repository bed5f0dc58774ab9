"""What goes through the pipes between a process and its engine: one pickled message after another, each behind its
length.

The engine's side believes what it is sent. This side does not: it reads plain data, our records and our errors, and
nothing else, so that a damaged engine can break an answer and no more.
"""

from __future__ import annotations

import io
import os
import pickle
import queue
import struct
import threading
from contextlib import suppress
from typing import Any

_LENGTH = struct.Struct(">Q")
_PIECE = 1 << 20
_END = b""  # behind the last message that is sent
_KNOWN = ("gemma4gguf.records", "gemma4gguf.errors", "gemma4gguf.runtime.answer", "gemma4gguf.runtime.delivery")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module not in _KNOWN or "." in name:
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that an engine sends")
        return super().find_class(module, name)


class Wire:
    """Two pipes to a process. Any thread may send, which never waits; one thread receives. `trusting`: see above."""

    def __init__(self, reading: int, writing: int, *, trusting: bool) -> None:
        self._reading, self._trusting = os.fdopen(reading, "rb"), trusting
        self._leaving = queue.SimpleQueue[bytes]()
        threading.Thread(target=_write, args=[self._leaving, writing], daemon=True).start()

    def send(self, *message: Any) -> None:
        """Send a message. It is lost where the other side has ended, of which `receive` tells."""
        data = io.BytesIO(bytes(_LENGTH.size))
        data.seek(_LENGTH.size)
        pickle.dump(message, data, protocol=5)
        _LENGTH.pack_into(data.getbuffer(), 0, data.tell() - _LENGTH.size)
        self._leaving.put(data.getvalue())

    def receive(self) -> tuple[Any, ...]:
        """The next message. Raises EOFError where the other side has ended, UnpicklingError for what is none."""
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        data = self._exactly(size)
        message = pickle.loads(data) if self._trusting else _Unpickler(io.BytesIO(data)).load()
        if not isinstance(message, tuple) or len(message) < 2:
            raise pickle.UnpicklingError("expected a message")
        return message

    def close(self) -> None:
        """Close the pipes. Only for the thread that receives, which is then not at it."""
        self._reading.close()
        self._leaving.put(_END)

    def _exactly(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            piece = self._reading.read(min(size - len(data), _PIECE))
            if not piece:
                raise EOFError
            data += piece
        return data


def _write(leaving: queue.SimpleQueue[bytes], pipe: int) -> None:
    """Write what is sent, with one call what is ready together, until it ends or nobody reads."""
    ready: list[bytes] = []
    with suppress(OSError):
        while _END not in ready:
            ready = [leaving.get()]
            while not leaving.empty():
                ready.append(leaving.get())
            left = memoryview(b"".join(ready))
            while left:
                left = left[os.write(pipe, left[:_PIECE]) :]
    os.close(pipe)
