"""What callers give, checked by one rule: numbers of any library count, texts and fractions do not become numbers.

In: an argument's name and value. Out: a plain int, float, text, list or path. Raises InputError.
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError

Function = TypeVar("Function", bound=Callable[..., object])

LONGEST = "max"  # a context: as long as fits, or as the model was made for
MOST_THREADS = 512  # ggml's own limit
_BRIEF = reprlib.Repr()  # looks at a few items of what it shows: the whole may be huge
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80


def whole(name: str, value: object, allowed: Callable[[int], bool], expected: str) -> int:
    """A whole number, Python's or numpy's. `expected` says in words what `allowed` allows."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not allowed(int(value)):
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    return int(value)


def real(name: str, value: object, allowed: Callable[[float], bool], expected: str) -> float:
    """A number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not allowed(float(value)):
        raise InputError(f"{name} is {shown(value)}, expected {expected}")
    return float(value)


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} is {shown(value)}, expected one of {', '.join(known)}")
    return value


def shown(value: object) -> str:
    """A value in an error message: short, printable, in one line."""
    try:
        text = repr(value[:60]) if isinstance(value, (str, bytes)) else _BRIEF.repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        text = f"of type {type(value).__name__}"
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."


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
