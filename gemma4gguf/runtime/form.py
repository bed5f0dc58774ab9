"""Follow an answer through its grammar: which token fits next, in thoughts and behind them.

In: what an answer must look like, and the answer's tokens one by one. Out: whether a token fits, and all that do. A
thought is no part of the answer: it has a beginning, an end, and anything between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..chat.choice import Choice
from ..chat.reply import THOUGHT
from ..errors import InputError
from ..forms.automaton import Automaton
from ..forms.gbnf import any_of, parsed
from ..forms.tokens import Tokens
from ..forms.tools import tools_grammar
from .thought import ThoughtTracker

_THOUGHT_HEAD = (f'root ::= "{THOUGHT}\\n"',)


@dataclass(frozen=True)
class Wanted:
    """What an answer must look like: as one of these `grammars`, of which `words` were written before."""

    grammars: tuple[str, ...]
    words: str = ""


def wanted(answer: str | None, choice: Choice, words: str = "") -> Wanted | None:
    """What an answer must look like; None where it is free. `answer`: the grammar of its text, if that has a form.

    Raises InputError where that and `choice` do not go together, or `words` are no beginning of it.
    """
    found = _grammars(answer, choice)
    if words and found:
        automaton = Automaton(any_of([*map(parsed, found)]))
        if automaton.move(automaton.start, words.encode()) is None:
            raise InputError("messages: the answer to be continued does not begin as response_format or grammar asks")
    return Wanted(found, words) if found else None


def _grammars(answer: str | None, choice: Choice) -> tuple[str, ...]:
    if choice.calls == "required":
        if answer:
            raise InputError("tool_choice asks for a call, and response_format or grammar for a text; use one of them")
        return (tools_grammar(choice.tools, several=choice.several),)
    if answer is None:
        return ()
    return (answer, tools_grammar(choice.tools)) if choice.calls == "auto" and choice.tools else (answer,)


class Form:
    """One answer's way through its grammar.

    `tracker` says where the answer has got to, before each token. `may_think`: the answer may begin with a thought.
    `thought_begin`: the id of `<|channel>`.
    """

    def __init__(
        self, tokens: Tokens, wanted: Wanted, thought_begin: int, may_think: bool, tracker: ThoughtTracker
    ) -> None:
        self._tokens, self._tracker, self._may_think = tokens, tracker, may_think
        self._thought_begin = thought_begin
        self._automaton = tokens.automaton(wanted.grammars)
        self._state = self._automaton.move(self._automaton.start, wanted.words.encode()) or self._automaton.start
        self._head = tokens.automaton(_THOUGHT_HEAD)
        self._head_state = self._head.start

    def fits(self, token: int) -> bool:
        """Whether a token may come next. Raises InputError for a grammar that is too ambiguous to follow."""
        place = self._tracker.place
        if place == "thought":
            return token not in self._tokens.end and token != self._thought_begin
        if place == "name":
            return self._tokens.behind(self._head, self._head_state, token) is not None
        return (self._may_think and token == self._thought_begin) or self._tokens.behind(
            self._automaton, self._state, token
        ) is not None

    def fitting(self) -> NDArray[np.bool_]:
        """All tokens that may come next: bool [vocabulary]."""
        place = self._tracker.place
        if place == "thought":
            found = np.ones(len(self._tokens), bool)
            found[[*self._tokens.end, self._thought_begin]] = False
        elif place == "name":
            found = self._tokens.fitting(self._head, self._head_state)
        else:
            found = self._tokens.fitting(self._automaton, self._state)
            found[self._thought_begin] = self._may_think
        if not found.any():
            raise InputError("grammar: no token of this model's vocabulary goes on from here")
        return found

    def accept(self, token: int) -> None:
        """Take the answer's next token, one that fits. Before the tracker takes it."""
        place = self._tracker.place
        if place == "name":
            self._head_state = self._tokens.behind(self._head, self._head_state, token) or self._head.start
        elif place != "thought" and not (self._may_think and token == self._thought_begin):
            self._state = self._tokens.behind(self._automaton, self._state, token) or self._state
        self._may_think = False
