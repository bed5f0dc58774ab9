"""Runs a grammar: which symbols may follow what was written, and whether it may end here.

A grammar comes in, then symbols (bytes and marks), one by one; states go out. The automaton is made as it is used: a
state's moves are computed once. It follows all the ways to read a text at once, and ways that meet again are one way
from there on, so that no grammar takes time by the power of a text's length. This module does not know tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .gbnf import MARKS, parse
from .rules import ROOT, Element, Rules

SYMBOLS = 256 + len(MARKS)
MAX_STEPS = 20_000  # to compute one state's moves
MAX_SETS = 1_000  # of symbols that one state tells apart
MAX_REMEMBERED = 50_000  # states
MAX_RETURNS = 2_000_000
NOWHERE: Final = -1
_END: Final = -1
_BOTTOM: Final = 0  # where the root rule returns to

_Place = tuple[int, frozenset[int]]  # an index in the code, and where the rule that holds it may return to


class State:
    """Where a text stands in the grammar. `accepting`: it may end here. Made by an Automaton."""

    __slots__ = ("_moves", "accepting", "places")

    def __init__(self, places: frozenset[_Place], accepting: bool) -> None:
        self.places, self.accepting = places, accepting
        self._moves: tuple[NDArray[np.int16], list[State]] | None = None


class Automaton:
    """One grammar at work. Not for several threads at once. Raises InputError for a grammar that is too ambiguous."""

    def __init__(self, rules: Rules) -> None:
        self._code: list[Element] = []  # each alternative, and _END behind it
        self._starts: dict[str, list[int]] = {}
        for name, sequences in rules.items():
            self._starts[name] = []
            for sequence in sequences:
                self._starts[name].append(len(self._code))
                self._code += [*sequence, _END]
        self._returns: list[_Place] = [(_END, frozenset())]
        self._return_ids: dict[_Place, int] = {}
        self._states: dict[tuple[frozenset[_Place], bool], State] = {}
        self._steps = 0
        self.start = self._state((place, frozenset({_BOTTOM})) for place in self._starts[ROOT])

    def moves(self, state: State) -> tuple[NDArray[np.int16], list[State]]:
        """For each symbol the index of the next state, or NOWHERE, int16 [SYMBOLS]; and those states."""
        if state._moves is None:
            self._steps = 0
            takers: dict[int, list[_Place]] = {}  # by the set of symbols that they take
            for place, returns in state.places:
                taken = self._code[place]
                assert isinstance(taken, int)
                takers.setdefault(taken, []).append((place + 1, returns))
            if len(takers) > MAX_SETS:
                raise _too_many()
            groups: list[tuple[int, list[_Place]]] = [((1 << SYMBOLS) - 1, [])]  # symbols, and what takes them
            for taken, behind in takers.items():
                groups = [
                    (part, [*places, *behind] if part & taken else places)
                    for symbols, places in groups
                    for part in (symbols & taken, symbols & ~taken)
                    if part
                ]
            targets: list[State] = []
            table = np.full(SYMBOLS, NOWHERE, np.int16)
            for symbols, places in groups:
                if places:
                    table[_bits(symbols)] = len(targets)
                    targets.append(self._state(places))
            state._moves = table, targets
        return state._moves

    def move(self, state: State, symbols: Iterable[int]) -> State | None:
        """The state behind some symbols; None where they do not fit."""
        for symbol in symbols:
            table, targets = self.moves(state)
            index = int(table[symbol])
            if index == NOWHERE:
                return None
            state = targets[index]
        return state

    def _state(self, places: Iterable[_Place]) -> State:
        """The state of everything that can be reached from some places without a symbol."""
        todo = list(places)
        seen: dict[int, frozenset[int]] = {}
        accepting = False
        while todo:
            place, returns = todo.pop()
            known = seen.get(place, frozenset())
            new = returns - known
            if not new:
                continue
            seen[place] = known | new
            self._steps += len(new)
            if self._steps > MAX_STEPS or len(self._returns) > MAX_RETURNS:
                raise _too_many()
            element = self._code[place]
            if isinstance(element, str):
                behind = new if self._code[place + 1] == _END else frozenset({self._return(place + 1, new)})
                todo += [(start, behind) for start in self._starts[element]]
            elif element == _END:
                accepting = accepting or _BOTTOM in new
                todo += [self._returns[index] for index in new if index != _BOTTOM]
        code = self._code
        key = frozenset((p, r) for p, r in seen.items() if isinstance(code[p], int) and code[p] != _END), accepting
        if len(self._states) > MAX_REMEMBERED:
            self._states.clear()
        return self._states.setdefault(key, State(*key))

    def _return(self, place: int, returns: frozenset[int]) -> int:
        wanted = (place, returns)
        if wanted not in self._return_ids:
            self._return_ids[wanted] = len(self._returns)
            self._returns.append(wanted)
        return self._return_ids[wanted]


def checked_grammar(text: str) -> str:
    """The text, if an automaton can begin with it. Raises InputError."""
    Automaton(parse(text))
    return text


def _too_many() -> InputError:
    return InputError("grammar: there are too many ways to read what the model has written; make it simpler")


def _bits(symbols: int) -> list[int]:
    return [bit for bit in range(SYMBOLS) if symbols >> bit & 1]
