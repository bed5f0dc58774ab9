"""What goes through the pipes between a process and its engine: one pickled message after another, each behind its
length.

The engine's side believes what it is sent. This side does not: it reads plain data, our records and our errors, and
nothing else, so that a damaged engine can break an answer and no more.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
from typing import Any

_LENGTH = struct.Struct(">Q")
_PIECE = 1 << 20
_KNOWN = ("gemma4gguf.records", "gemma4gguf.errors", "gemma4gguf.runtime.answer", "gemma4gguf.runtime.delivery")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module not in _KNOWN or "." in name:
            raise pickle.UnpicklingError(f"{module}.{name} is nothing that an engine sends")
        return super().find_class(module, name)


class Wire:
    """Two pipes to a process. Any thread may send; one thread receives. `trusting`: see the module's text."""

    def __init__(self, reading: int, writing: int, *, trusting: bool) -> None:
        self._reading, self._writing, self._trusting = reading, writing, trusting
        self._sending = threading.Lock()
        self._closed = False

    def send(self, *message: Any) -> None:
        """Send a message. Raises OSError where the other side has ended."""
        data = pickle.dumps(message, protocol=5)
        with self._sending:
            if self._closed:
                raise BrokenPipeError
            for part in (_LENGTH.pack(len(data)), data):
                left = memoryview(part)
                while left:
                    left = left[os.write(self._writing, left[:_PIECE]) :]

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
        with self._sending:
            self._closed = True
            os.close(self._reading)
            os.close(self._writing)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = os.read(self._reading, min(size - len(data), _PIECE))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)
