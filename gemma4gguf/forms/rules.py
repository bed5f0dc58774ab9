"""A grammar as rules over bytes and marks, and whether an automaton comes to an end with it.

Rules come in; nothing goes out, or an InputError: each name must be defined, each rule must be able to end, and none
may begin with itself. Does not know how rules are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TypeAlias

from ..errors import InputError

ROOT = "root"
Element: TypeAlias = "int | str"
"""A set of symbols as the bits of a number, or a rule's name."""
Alternative: TypeAlias = "tuple[Element, ...]"
Rules: TypeAlias = "Mapping[str, Sequence[Alternative]]"
"""Rules by name, each with its alternatives. An answer is what ROOT writes."""


def check(rules: Rules) -> None:
    """Raise InputError where a grammar has no end."""
    if ROOT not in rules:
        raise InputError(f"grammar: there is no rule {ROOT}, where an answer begins")
    used = {element for sequences in rules.values() for sequence in sequences for element in sequence}
    for name in sorted(element for element in used if isinstance(element, str)):
        if name not in rules:
            raise InputError(f"grammar: rule {name} is used and not defined")
    endless = sorted(rules.keys() - _closed(rules, terminals=True))
    if endless:
        raise InputError(f"grammar: rule {endless[0].strip()} has no end: each of its alternatives leads back to it")
    empty = _closed(rules, terminals=False)
    first: dict[str, set[str]] = {name: set() for name in rules}
    for name, sequences in rules.items():
        for sequence in sequences:
            for index, element in enumerate(sequence):
                if isinstance(element, int):
                    break
                if element != name or index + 1 < len(sequence):  # a repetition ends with itself, which does no harm
                    first[name].add(element)
                if element not in empty:
                    break
    try:
        TopologicalSorter(first).prepare()
    except CycleError as error:
        names = [name for name in error.args[1] if not name.startswith(" ")]
        raise InputError(f"grammar: rule {names[0] if names else ROOT} begins with itself (left recursion)") from error


def _closed(rules: Rules, *, terminals: bool) -> set[str]:
    """Rules with an alternative of which every element is one of them; or a terminal, if these count.

    So rules that can end, with terminals; rules that can be empty, without.
    """
    users: dict[str, list[list[int | str]]] = defaultdict(list)
    ready: list[str] = []
    for name, sequences in rules.items():
        for sequence in sequences:
            names = [element for element in sequence if isinstance(element, str)]
            if len(names) < len(sequence) and not terminals:
                continue
            waiting: list[int | str] = [len(names), name]
            for used in names:
                users[used].append(waiting)
            if not names:
                ready.append(name)
    found: set[str] = set()
    while ready:
        name = ready.pop()
        if name in found:
            continue
        found.add(name)
        for waiting in users[name]:
            waiting[0] = int(waiting[0]) - 1
            if waiting[0] == 0:
                ready.append(str(waiting[1]))
    return found
