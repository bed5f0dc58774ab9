"""Ranges of equally long strings as sequences of ranges of their digits: for whole numbers, and for UTF-8.

Two strings come in; what lies between them in their order goes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

Digits: TypeAlias = tuple[tuple[int, int], ...]
"""For each place, the lowest and the highest digit."""


def between(first: Sequence[int], last: Sequence[int], lowest: int, highest: int) -> Iterator[Digits]:
    """Sequences of ranges that hold `first` to `last` and nothing else, none of them twice.

    `lowest` and `highest`: the digits behind the first place.
    """
    rest = len(first) - 1
    low, high = [lowest] * rest, [highest] * rest
    if rest <= 0:
        yield ((first[0], last[0]),)
    elif first[0] == last[0]:
        yield from _under(first[0], first[1:], last[1:], lowest, highest)
    else:
        begin, end = first[0] + (list(first[1:]) != low), last[0] - (list(last[1:]) != high)
        if begin > first[0]:
            yield from _under(first[0], first[1:], high, lowest, highest)
        if begin <= end:
            yield ((begin, end), *[(lowest, highest)] * rest)
        if end < last[0]:
            yield from _under(last[0], low, last[1:], lowest, highest)


def _under(digit: int, first: Sequence[int], last: Sequence[int], lowest: int, highest: int) -> Iterator[Digits]:
    for more in between(first, last, lowest, highest):
        yield ((digit, digit), *more)


_LENGTHS = ((0x0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF))


def utf8(first: int, last: int) -> Iterator[Digits]:
    """Ranges of bytes: the UTF-8 of the code points from `first` to `last`, without half surrogate pairs."""
    for lowest, highest in _LENGTHS:
        low, high = max(first, lowest), min(last, highest)
        if low <= high:
            yield from between(chr(low).encode(), chr(high).encode(), 0x80, 0xBF)


_USUAL_DIGITS = 16  # of a number without a limit: a double holds them


def integers(low: int | None, high: int | None) -> Iterator[tuple[str, Digits]]:
    """Whole numbers from `low` to `high` as they are written: a sign, and ranges of digits. None: no limit."""
    digits = max(_USUAL_DIGITS, *(len(str(abs(limit))) for limit in (low, high) if limit is not None), 0)
    most = 10**digits - 1
    low, high = -most if low is None else low, most if high is None else high
    for sign, first, last in (("", max(low, 0), high), ("-", max(-high, 1), -low)):
        for length in range(len(str(first)), len(str(max(last, 0))) + 1):
            shortest = max(first, 10 ** (length - 1) if length > 1 else 0)
            longest = min(last, 10**length - 1)
            if shortest <= longest:
                yield from ((sign, ranges) for ranges in between(_places(shortest), _places(longest), 0, 9))


def _places(number: int) -> list[int]:
    return list(map(int, str(number)))
