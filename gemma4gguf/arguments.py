"""What callers give, checked by one rule: numbers of any library count, texts and fractions do not become numbers.

In: an argument's name and value. Out: a plain int, float, text, list or path. Raises InputError.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError

Function = TypeVar("Function", bound=Callable[..., object])

MOST_THREADS = 512  # ggml's own limit


def whole(name: str, value: object, allowed: Callable[[int], bool], expected: str) -> int:
    """A whole number, Python's or numpy's. `expected` says in words what `allowed` allows."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not allowed(int(value)):
        raise InputError(f"{name} is {value!r}, expected {expected}")
    return int(value)


def real(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> float:
    """A number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not allowed(float(value)):
        raise InputError(f"{name} is {value!r}, expected {expected}")
    return float(value)


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    return value


def local_path(given: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~name` at its beginning replaced; as it is where there is no such home."""
    return Path(os.path.expanduser(given))  # noqa: PTH111 (raises nothing)


def several(value: object) -> list[object]:
    """Pictures or clips as a list: None is an empty one, a single one is a list of one.

    A tuple of samples and their rate is one clip.
    """
    if value is None:
        return []
    if isinstance(value, list) or (isinstance(value, tuple) and not (len(value) == 2 and isinstance(value[1], Real))):
        return list(value)
    return [value]


def showing(source: Callable[..., object], rest: str = "") -> Callable[[Function], Function]:
    """Show the keywords of `source` in the signature of a function that takes them as `**options`.

    For help() and the reference pages; type checkers read the function's own TypedDict. `rest`: the annotation of the
    keywords that are not among them, where there are further ones.
    """

    def shown(function: Function) -> Function:
        own = inspect.signature(function)
        *first, options = own.parameters.values()
        given = [p for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]
        last = [options.replace(annotation=rest)] if rest else []
        more: Any = function
        more.__signature__ = own.replace(parameters=[*first, *given, *last])
        return function

    return shown
