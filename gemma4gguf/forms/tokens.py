"""Which tokens of a vocabulary fit where a text stands in a grammar.

Every token's bytes come in, once for each model. Out: whether one token fits, or all of them at once. Does not know
logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .automaton import Automaton, State
from .gbnf import MARKS, any_of, parsed

MOST_AUTOMATA = 8  # grammars whose automata are kept


class Tokens:
    """A vocabulary as symbols. Not for several threads at once, as its automata are not.

    `pieces`: each token's bytes; a token without any never fits. `marks`: ids of tokens that are marks, by their text.
    `end`: ids that end an answer.
    """

    def __init__(self, pieces: Sequence[bytes], marks: Mapping[str, int], end: Iterable[int]) -> None:
        self.end = frozenset(end)
        ids = [marks[mark] for mark in MARKS]
        symbols = [b"" if i in self.end else b"-" if i in ids else piece for i, piece in enumerate(pieces)]
        self._lengths = np.fromiter(map(len, symbols), np.int32, len(symbols))
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        self._symbols = np.frombuffer(b"".join(symbols), np.uint8).astype(np.int16)
        self._symbols[self._starts[ids]] = np.arange(256, 256 + len(ids))
        self._automata: OrderedDict[tuple[str, ...], Automaton] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lengths)

    def automaton(self, grammars: tuple[str, ...]) -> Automaton:
        """Of what any of these grammars writes. Raises InputError for a bad one."""
        if grammars not in self._automata:
            self._automata[grammars] = Automaton(any_of([parsed(text) for text in grammars]))
        self._automata.move_to_end(grammars)
        if len(self._automata) > MOST_AUTOMATA:
            self._automata.popitem(last=False)
        return self._automata[grammars]

    def behind(self, automaton: Automaton, state: State, token: int) -> State | None:
        """The state behind a token; None where it does not fit. An end token leaves an accepting state as it is."""
        if token in self.end:
            return state if state.accepting else None
        symbols = self._symbols[self._starts[token] : self._starts[token + 1]].tolist()
        return automaton.move(state, symbols) if symbols else None

    def fitting(self, automaton: Automaton, state: State) -> NDArray[np.bool_]:
        """All tokens at once: bool [vocabulary]. Tokens that are in one state after as many symbols stay together."""
        fits = np.zeros(len(self), bool)
        fits[list(self.end)] = state.accepting
        groups = {state: np.flatnonzero(self._lengths)}
        depth = 0
        while groups:
            coming: dict[State, list[NDArray[np.int64]]] = {}
            for here, tokens in groups.items():
                table, targets = automaton.moves(here)
                taken = table[self._symbols[self._starts[tokens] + depth]]
                for index, target in enumerate(targets):
                    coming.setdefault(target, []).append(tokens[taken == index])
            depth += 1
            groups = {}
            for there, parts in coming.items():
                tokens = np.concatenate(parts)
                whole = self._lengths[tokens] == depth
                fits[tokens[whole]] = True
                if not whole.all():
                    groups[there] = tokens[~whole]
        return fits
