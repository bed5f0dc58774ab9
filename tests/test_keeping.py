"""States within a budget: the least recently used goes first, and what nobody refers to does not count."""

from __future__ import annotations

from gemma4gguf.runtime.keeping import Keeper


def test_the_least_recently_used_goes_first() -> None:
    keeper = Keeper(30)
    first, second, third = (keeper.keep(bytes([n]) * 10) for n in range(3))
    assert keeper.use(first) == bytes(10)
    fourth = keeper.keep(b"d" * 10)
    assert (first.data, second.data, third.data, fourth.data) == (bytes(10), None, bytes([2]) * 10, b"d" * 10)
    assert keeper.used == 30
    large = keeper.keep(b"e" * 30)
    assert [kept.data for kept in (first, third, fourth)] == [None] * 3
    assert keeper.use(large) == b"e" * 30
    assert keeper.use(first) is None
    assert not keeper.fits(31)


def test_some_go_last() -> None:
    keeper = Keeper(30)
    first, second, third = (keeper.keep(bytes(10)) for _ in range(3))
    fourth = keeper.keep(bytes(10), last=[first, third])
    assert [bool(kept.data) for kept in (first, second, third, fourth)] == [True, False, True, True]
    fifth = keeper.keep(bytes(20), last=[first, third])
    assert [bool(kept.data) for kept in (first, third, fourth, fifth)] == [False, True, False, True]


def test_what_is_dropped_or_forgotten_does_not_count() -> None:
    keeper = Keeper(30)
    dropped, forgotten, kept = (keeper.keep(bytes(10)) for _ in range(3))
    keeper.drop(dropped)
    keeper.drop(dropped)
    assert keeper.used == 20
    del forgotten
    assert keeper.used == 10
    more = [keeper.keep(bytes(10)) for _ in range(2)]
    assert all(one.data for one in (kept, *more)), "there was room for all"
