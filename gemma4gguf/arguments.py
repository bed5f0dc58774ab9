"""What callers give, checked by one rule: numbers of any library count, texts and fractions do not become numbers.

In: an option's name and value. Out: a plain int, float or list. Raises InputError.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from .errors import InputError


def whole(name: str, value: Any, allowed: Callable[[int], bool], expected: str) -> int:
    """A whole number, Python's or numpy's. `expected` says what `allowed` allows."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not allowed(int(value)):
        raise InputError(f"{name} is {value!r}, expected {expected}")
    return int(value)


def real(name: str, value: Any, allowed: Callable[[float], bool], expected: str) -> float:
    """A number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not allowed(float(value)):
        raise InputError(f"{name} is {value!r}, expected {expected}")
    return float(value)


def listed(name: str, value: Any) -> list[Any]:
    """A list of pictures or clips; None is an empty one. One alone is an error: an array is also a row of arrays."""
    if value is None:
        return []
    alone = not isinstance(value, (list, tuple))
    if alone or (len(value) == 2 and isinstance(value[1], Real)):  # (samples, rate)
        raise InputError(f"{name}: expected a list, found {type(value).__name__}; put even a single one into a list")
    return list(value)
