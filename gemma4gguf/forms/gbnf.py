"""GBNF, llama.cpp's notation of grammars -> rules over bytes and marks, checked.

A text comes in, untrusted. Out: rules that an automaton can run: every name is defined, every rule can come to an
end, none begins with itself, and all of it is bounded. Raises InputError with the line otherwise.

One thing is read otherwise than by llama.cpp: of its tokens (`<…>`) there are only the marks of Gemma 4's calls.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ..chat.calls import QUOTE
from ..chat.reply import CALL, CALL_END
from ..errors import InputError
from ..limits import current
from .ranges import utf8
from .rules import ROOT, Alternative, Element, Rules, check

MAX_REPETITIONS = 2_000
MAX_DEPTH = 64  # of parentheses
MARKS = (CALL, CALL_END, QUOTE)  # the symbols behind the 256 bytes

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_COUNTS = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(?:(,)[ \t]*([0-9]{1,9})?[ \t]*)?\}")
_CHARACTER = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([trn\\\"\[\]-]))|([^\\])", re.DOTALL
)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_TIMES = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_LAST = 0x10FFFF
_BYTES = [1 << byte for byte in range(256)]


def parse(text: str) -> Rules:
    """The grammar that `text` writes. Raises InputError: what is wrong, and in which line."""
    if len(text.encode("utf-8", "surrogatepass")) > (most := current().grammar_bytes):
        raise InputError(f"grammar: longer than {most:,} bytes")
    return parsed(text)


@lru_cache(maxsize=8)
def parsed(text: str) -> Rules:
    """The same for a text that went through `parse` before, perhaps in another thread and under its limits."""
    rules = _Parser(text).rules()
    check(rules)
    return rules


def any_of(grammars: Sequence[Rules]) -> Rules:
    """The grammar of all that one of these writes."""
    if len(grammars) == 1:
        return grammars[0]
    rules: dict[str, list[Alternative]] = {ROOT: []}
    for index, grammar in enumerate(grammars):
        rules[ROOT].append((f"{index} {ROOT}",))
        for name, sequences in grammar.items():
            renamed = [tuple(f"{index} {e}" if isinstance(e, str) else e for e in sequence) for sequence in sequences]
            rules[f"{index} {name}"] = renamed
    return rules


class _Parser:
    """Reads one text from front to back."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._rules: dict[str, list[Alternative]] = {}
        self._elements, self._most = 0, current().grammar_parts
        self._depth = 0
        self._classes: dict[tuple[tuple[int, int], ...], str] = {}

    def rules(self) -> Rules:
        self._skip(lines=True)
        while self._at < len(self._text):
            name = self._name("a rule's name")
            if name in self._rules:
                raise self._wrong(f"rule {name} is defined twice")
            self._skip(lines=False)
            if not self._text.startswith("::=", self._at):
                raise self._wrong(f"expected ::= behind {name}")
            self._at += 3
            self._rules[name] = []
            self._rules[name] = self._alternatives(lines=False)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong("expected the end of the line")
            self._skip(lines=True)
        return self._rules

    def _alternatives(self, *, lines: bool) -> list[Alternative]:
        found = []
        while True:
            self._skip(lines=True)
            found.append(self._sequence(lines=lines))
            if not self._text.startswith("|", self._at):
                return found
            self._at += 1

    def _sequence(self, *, lines: bool) -> Alternative:
        done: list[Element] = []
        last: Alternative | None = None
        while self._at < len(self._text):
            character = self._text[self._at]
            if character in "*+?{":
                if last is None:
                    raise self._wrong(f"expected something before {character}")
                last = self._repeated(last)
            elif (item := self._item(character)) is not None:
                done += last or ()
                last = item
            else:
                break
            self._skip(lines=lines)
        return self._counted((*done, *(last or ())))

    def _item(self, character: str) -> Alternative | None:
        """A literal, a class, a mark, a name or a group; None where none of them begins."""
        if character == '"':
            return self._literal()
        if character == "[":
            return self._class()
        if character == ".":
            self._at += 1
            return self._characters([(0, _LAST)])
        if character == "(":
            return self._group()
        if character == "<":
            mark = next((i for i, mark in enumerate(MARKS) if self._text.startswith(mark, self._at)), None)
            if mark is None:
                raise self._wrong(f"expected one of the marks {' '.join(MARKS)}")
            self._at += len(MARKS[mark])
            return (1 << (256 + mark),)
        return (self._name("a name"),) if _NAME.match(character) else None

    def _group(self) -> Alternative:
        self._at += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} parentheses inside each other")
        found = self._alternatives(lines=True)
        if not self._text.startswith(")", self._at):
            raise self._wrong("expected )")
        self._at += 1
        self._depth -= 1
        return found[0] if len(found) == 1 else (self._rule(found),)

    def _literal(self) -> Alternative:
        self._at += 1
        points = []
        while not self._text.startswith('"', self._at):
            points.append(self._character())
        self._at += 1
        return tuple(_BYTES[byte] for byte in "".join(map(chr, points)).encode())

    def _class(self) -> Alternative:
        inverse = self._text.startswith("[^", self._at)
        self._at += 2 if inverse else 1
        ranges = []
        while not self._text.startswith("]", self._at):
            first = last = self._character()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                last = self._character()
                if last < first:
                    raise self._wrong("a range whose end comes before its beginning")
            ranges.append((first, last))
        self._at += 1
        if not ranges:
            raise self._wrong("an empty [ ]")
        return self._characters(_others(ranges) if inverse else ranges)

    def _characters(self, ranges: Sequence[tuple[int, int]]) -> Alternative:
        """One character out of ranges of code points, as the bytes of its UTF-8."""
        tails: dict[tuple[int, ...], int] = defaultdict(int)
        for first, last in ranges:
            for digits in utf8(first, last):
                head, *tail = [(1 << (high + 1)) - (1 << low) for low, high in digits]
                tails[tuple(tail)] |= head
        if not tails:
            raise self._wrong("a [ ] that no character fits")
        if [*tails] == [()]:
            return (tails[()],)
        key = tuple(ranges)
        if key not in self._classes:
            self._classes[key] = self._rule([(head, *tail) for tail, head in tails.items()])
        return (self._classes[key],)

    def _character(self) -> int:
        """The code point here, written as it is or as an escape."""
        found = _CHARACTER.match(self._text, self._at)
        if found is None:
            raise self._wrong("expected a character or an escape" if self._at < len(self._text) else "unexpected end")
        self._at = found.end()
        *codes, escaped, plain = found.groups()
        digits = next(filter(None, codes), None)
        point = int(digits, 16) if digits else ord(_ESCAPES.get(escaped, escaped) if escaped else plain)
        if point > _LAST or 0xD800 <= point <= 0xDFFF:
            raise self._wrong("expected a character of Unicode")
        return point

    def _repeated(self, item: Alternative) -> Alternative:
        """`item` as often as what stands here says."""
        character = self._text[self._at]
        if character == "{":
            found = _COUNTS.match(self._text, self._at)
            if found is None:
                raise self._wrong("expected {N}, {N,} or {N,M}")
            low = int(found[1])
            high = (int(found[3]) if found[3] else None) if found[2] else low
            self._at = found.end()
        else:
            low, high = _TIMES[character]
            self._at += 1
        if max(low, high or 0) > MAX_REPETITIONS or (high is not None and high < low):
            raise self._wrong(f"expected at most {MAX_REPETITIONS:,} repetitions, the lower number first")
        if not item:
            return ()
        if len(item) > 1:
            item = (self._rule([item]),)
        more: Alternative = ()
        if high is None:
            name = self._rule([])
            self._rules[name] = [self._counted((*item, name)), ()]
            more = (name,)
        for _ in range(0 if high is None else high - low):
            more = (self._rule([(*item, *more), ()]),)
        return (*item * low, *more)

    def _rule(self, alternatives: list[Alternative]) -> str:
        """A rule that the text has no name for."""
        name = f" {len(self._rules)}"
        self._rules[name] = [self._counted(sequence) for sequence in alternatives]
        return name

    def _counted(self, sequence: Alternative) -> Alternative:
        self._elements += len(sequence) + 1
        if self._elements > self._most:
            raise self._wrong(f"the grammar is too large: more than {self._most:,} parts, repetitions written out")
        return sequence

    def _name(self, expected: str) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._wrong(f"expected {expected}")
        self._at = found.end()
        return found[0]

    def _skip(self, *, lines: bool) -> None:
        found = (_SPACE_AND_LINES if lines else _SPACE).match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _wrong(self, what: str) -> InputError:
        line = self._text.count("\n", 0, self._at) + 1
        return InputError(f"grammar: line {line}: {what}, found {self._text[self._at : self._at + 20]!a}")


def _others(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """All code points that are in none of these ranges."""
    found, next_ = [], 0
    for first, last in sorted(ranges):
        if first > next_:
            found.append((next_, first - 1))
        next_ = max(next_, last + 1)
    return [*found, (next_, _LAST)] if next_ <= _LAST else found
