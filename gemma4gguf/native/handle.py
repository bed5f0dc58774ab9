"""What every object of llama.cpp's has in common: it is freed once, and not used afterwards.

A C pointer and the function that frees it come in; the pointer goes out while the object is open. This module does not
know what the objects are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from ..errors import NativeError

Self = TypeVar("Self", bound="Closing")


class Closing(ABC):
    """Is closed at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Free it. Closing it again does nothing."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Handle(Closing):
    """Owns one C pointer. `what` names it in errors, `free` frees it."""

    def __init__(self, what: str, pointer: Any, free: Callable[[Any], object]) -> None:
        self._what, self._pointer, self._free = what, pointer, free

    @property
    def handle(self) -> Any:
        """The C pointer. Raises NativeError after `close`."""
        if not self._pointer:
            raise NativeError(f"the {self._what} is closed")
        return self._pointer

    def close(self) -> None:
        pointer, self._pointer = self._pointer, None
        if pointer:
            self._free(pointer)
