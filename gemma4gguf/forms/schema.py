"""A JSON schema -> GBNF that writes only what the schema allows.

In: a schema, untrusted. Out: the text of a grammar. Every answer of the grammar is valid; not every valid answer is one
of the grammar: properties come in the schema's order, none is added where a schema names some and does not say that
there may be more, and blanks, digits and exponents are limited. What a grammar cannot hold is an InputError that names
the keyword and its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..arguments import shown
from ..chat.messages import plain
from ..errors import InputError
from ..limits import current
from .automaton import checked_grammar
from .formats import FORMATS
from .gbnf import MAX_REPETITIONS
from .keywords import ASSERTIONS, BESIDE, KNOWN, LIMITS, NEVER, NEVER_AT_ALL, NO_EFFECT, WHOLE, kinds_of, limit
from .notation import Json, Notation, literal
from .overlap import KINDS, disjoint, is_of, resolved
from .ranges import integers
from .rules import ROOT

MAX_NAME = 128  # characters of a property's name

_EMPTY = '""'


def schema_grammar(schema: object, where: str = "schema") -> str:
    """GBNF of the JSON that a schema allows. `where` names it in errors."""
    text = Writer(checked(schema, where), where, Json()).grammar()
    try:
        checked_grammar(text)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('grammar: ')}") from error
    return text


def checked(schema: object, where: str) -> Any:
    """A copy in plain types, bounded."""
    copy = plain(schema, where)
    if not isinstance(copy, (dict, bool)):
        raise InputError(f"{where}: expected a JSON schema, found {type(copy).__name__}")
    if len(json.dumps(copy)) > (most := current().schema_bytes):
        raise InputError(f"{where}: longer than {most:,} bytes as JSON")
    return copy


class _TooLongError(InputError):
    """Of a whole grammar: no part of it may be any value instead."""


class Writer:
    """Writes the rules of one schema. `lenient`: what a grammar cannot hold may be any value."""

    def __init__(self, root: Any, where: str, notation: Notation, *, lenient: bool = False, prefix: str = "r") -> None:
        self._root, self._where, self._notation, self._lenient = root, where, notation, lenient
        self._prefix = prefix
        self._rules: dict[str, str] = {}  # a rule's body -> its name
        self._referred: dict[str, str] = {}  # the pointer of a $ref -> its rule's name
        self._bodies: dict[str, str] = {}  # the rules of $refs, by name
        self._keys: dict[tuple[tuple[str, ...], bool], str] = {}  # names -> the rule of a key that is none of them
        self._most = self._left = current().grammar_bytes

    def grammar(self) -> str:
        """The whole text."""
        return f"{ROOT} ::= {self.write()}\n{self.rules()}{self._notation.rules}"

    def write(self) -> str:
        """The name of the root schema's rule; `rules` are those that it needs."""
        name = self._any(self._root, self._where)
        while todo := [pointer for pointer, rule in self._referred.items() if rule not in self._bodies]:
            for pointer in todo:
                self._bodies[self._referred[pointer]] = self._any(*self._found(pointer, self._where))
        return name

    def rules(self) -> str:
        named = {**self._bodies, **{name: body for body, name in self._rules.items()}}
        return "".join(f"{name} ::= {body}\n" for name, body in named.items())

    def _rule(self, body: str) -> str:
        if body not in self._rules:
            self._left -= len(body)
            if self._left < 0:  # now, not when all is written: a small schema can ask for a hundred megabytes
                raise _TooLongError(f"{self._where}: its grammar is longer than {self._most:,} bytes")
            self._rules[body] = f"{self._prefix}{len(self._rules)}"
        return self._rules[body]

    def _either(self, bodies: Sequence[str]) -> str:
        return bodies[0] if len(bodies) == 1 else self._rule(" | ".join(bodies))

    # ── one schema ───────────────────────────────────────────────────────────────────────────────────────────────

    def _any(self, node: Any, where: str) -> str:
        """The rule of one schema."""
        try:
            return self._schema(node, where)
        except InputError as error:
            if not self._lenient or isinstance(error, _TooLongError):
                raise
            return "value"

    def _schema(self, node: Any, where: str) -> str:
        if node is True:
            return "value"
        if node is False:
            raise InputError(f"{where}: false allows no value at all")
        if not isinstance(node, dict):
            raise InputError(f"{where}: expected a JSON schema, found {shown(node)}")
        if never := sorted(NEVER_AT_ALL & node.keys()):
            raise self._cannot(never[0], where)
        whole = [keyword for keyword in WHOLE if keyword in node]
        if whole:
            keyword = whole[0]
            beside = sorted((node.keys() & ASSERTIONS) - {keyword} - BESIDE.get(keyword, frozenset()))
            if beside:
                raise InputError(f"{where}: {beside[0]} beside {keyword} cannot be held by a grammar; use one of them")
            return _WRITERS_OF_ALL[keyword](self, node, where)
        kinds = kinds_of(node, where)
        return self._either([self._typed(kind, node, where) for kind in kinds]) if kinds else "value"

    def _typed(self, kind: str, node: dict[str, Any], where: str) -> str:
        for keyword in sorted(NEVER[kind] & node.keys()):
            if (kind, keyword) not in NO_EFFECT or node[keyword] != NO_EFFECT[kind, keyword]:
                raise self._cannot(keyword, where, f" of type {kind}" if keyword in LIMITS else "")
        return _TYPES[kind](self, node, where) if KNOWN[kind] & node.keys() else kind

    def _cannot(self, keyword: str, where: str, of: str = "") -> InputError:
        return InputError(f"{where}: {keyword}{of} cannot be held by a grammar; leave it out and check the answer")

    # ── what says all ────────────────────────────────────────────────────────────────────────────────────────────

    def _reference(self, node: dict[str, Any], where: str) -> str:
        pointer = node["$ref"]
        self._found(pointer, where)
        return self._referred.setdefault(pointer, f"{self._prefix}-ref{len(self._referred)}")

    def _found(self, pointer: Any, where: str) -> tuple[Any, str]:
        return resolved(self._root, pointer, f"{where}.$ref"), f"{self._where}{str(pointer)[1:].replace('/', '.')}"

    def _values(self, node: dict[str, Any], where: str) -> str:
        values = node["enum"] if "enum" in node else [node["const"]]
        if not isinstance(values, list):
            raise InputError(f"{where}.enum: expected a list of values, found {shown(values)}")
        kinds = kinds_of(node, where) if "type" in node else KINDS
        fitting = [value for value in values if any(is_of(kind, value) for kind in kinds)]
        if not fitting:
            raise InputError(f"{where}: {'enum' if 'enum' in node else 'const'} has no value of its type")
        return self._rule(" | ".join(dict.fromkeys(map(self._notation.literal, fitting))))

    def _any_of(self, node: dict[str, Any], where: str) -> str:
        return self._branches(node, "anyOf", where)

    def _one_of(self, node: dict[str, Any], where: str) -> str:
        branches = node["oneOf"]
        if isinstance(branches, list) and not disjoint(self._root, branches):
            raise InputError(
                f"{where}: oneOf cannot be held by a grammar where two of its schemas may allow the same value; "
                "use anyOf, or a required property with a const of its own in each"
            )
        return self._branches(node, "oneOf", where)

    def _all_of(self, node: dict[str, Any], where: str) -> str:
        if isinstance(node["allOf"], list) and len(node["allOf"]) != 1:
            raise InputError(f"{where}: allOf of several schemas cannot be held by a grammar; make them one")
        return self._branches(node, "allOf", where)

    def _branches(self, node: dict[str, Any], keyword: str, where: str) -> str:
        branches = node[keyword]
        if not isinstance(branches, list) or not branches:
            raise InputError(f"{where}.{keyword}: expected a list of JSON schemas, found {shown(branches)}")
        possible = [i for i, branch in enumerate(branches) if branch is not False] or [0]
        return self._either([self._any(branches[i], f"{where}.{keyword}[{i}]") for i in possible])

    # ── types ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _string(self, node: dict[str, Any], where: str) -> str:
        quote = self._notation.quote
        low, high = self._counts(node, "minLength", "maxLength", where)
        if "format" in node:
            name = node["format"]
            if not isinstance(name, str) or name not in FORMATS:
                raise InputError(
                    f"{where}: format {shown(name)} cannot be held by a grammar; known: {', '.join(FORMATS)}"
                )
            shortest, longest, body = FORMATS[name]
            if low > shortest or (high is not None and high < longest):
                raise InputError(f"{where}: a {name} of {shortest} to {longest} characters does not fit its lengths")
            return self._rule(f"{quote} {body} {quote}")
        if (low, high) == (0, None):
            return "string"
        return self._rule(f"{quote} {self._notation.character}{_times(low, high)} {quote}")

    def _integer(self, node: dict[str, Any], where: str) -> str:
        lowest = [limit(node, "minimum", where, math.ceil), limit(node, "exclusiveMinimum", where, _above)]
        highest = [limit(node, "maximum", where, math.floor), limit(node, "exclusiveMaximum", where, _below)]
        low, high = max(_given(lowest), default=None), min(_given(highest), default=None)
        found = [" ".join([literal(sign), *(f"[{a}-{b}]" for a, b in ranges)]) for sign, ranges in integers(low, high)]
        if not found:
            raise InputError(f"{where}: no whole number lies between its limits")
        return self._rule(" | ".join(found))

    def _array(self, node: dict[str, Any], where: str) -> str:
        low, high = self._counts(node, "minItems", "maxItems", where)
        first, items = node.get("prefixItems", []), node.get("items", True)
        if not isinstance(first, list):
            raise InputError(f"{where}.prefixItems: expected a list of JSON schemas, found {shown(first)}")
        if items is False:
            high = len(first) if high is None else min(high, len(first))
        if high is not None and high < low:
            raise InputError(f"{where}: no array has as many items as it must")
        first = first[:high]
        wanted = [self._any(schema, f"{where}.prefixItems[{i}]") for i, schema in enumerate(first)]
        tail, count = "", len(wanted)
        if high is None or high > count:
            item = self._any(items, f"{where}.items")
            if not wanted:
                wanted, count = [item], 1
            least, most = max(low - count, 0), None if high is None else high - count
            tail = self._rule(f'("," space {item}){_times(least, most)}')
        for place in range(count - 1, -1, -1):
            body = f"{wanted[place]} {tail}" if place == 0 else f'"," space {wanted[place]} {tail}'
            tail = self._rule(body if place < low else f"({body})?")
        if not tail:
            return self._rule('"[" space "]"')
        return self._rule(f'"[" space {tail} space "]"')

    def _object(self, node: dict[str, Any], where: str) -> str:
        properties, required = node.get("properties", {}), node.get("required", [])
        if not isinstance(properties, dict):
            raise InputError(f"{where}.properties: expected JSON schemas by name, found {shown(properties)}")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise InputError(f"{where}.required: expected a list of names, found {shown(required)}")
        more = node.get("additionalProperties", "properties" not in node)
        unnamed = {name: more for name in required if name not in properties}
        if more is False and unnamed:
            raise InputError(f"{where}.required: {shown(min(unnamed))} is not among the properties")
        wanted = {n: s for n, s in {**properties, **unnamed}.items() if s is not False or n in required}
        least, most = self._counts(node, "minProperties", "maxProperties", where)
        if least > max(len({*required}), int(not wanted and more is not False)):
            raise self._cannot("minProperties", where, " above the number of required properties")
        if most is not None and most < len(wanted):
            raise self._cannot("maxProperties", where, " below the number of properties")
        if long := [name for name in wanted if len(name) > MAX_NAME]:
            raise InputError(f"{where}.properties: {shown(long[0])} has more than {MAX_NAME} characters")
        if self._notation.by_name:
            wanted = dict(sorted(wanted.items(), key=lambda pair: pair[0].lower()))
        head = tail = _EMPTY  # what may follow where no pair was written before, and after one
        if more is not False:
            head, tail = self._others(more, [*wanted], least, most, where)
        for name, schema in reversed(wanted.items()):
            pair = f"{self._notation.key(name)} colon {self._any(schema, f'{where}.properties.{name}')}"
            with_it = self._rule(f"{pair} {tail}")
            head, tail = (
                (with_it, self._rule(f'"," space {with_it}'))
                if name in required
                else (self._either([with_it, head]), self._rule(f'"," space {with_it} | {tail}'))
            )
        return self._rule(f'"{{" space {head} space "}}"')

    def _others(self, schema: Any, names: Sequence[str], least: int, most: int | None, where: str) -> tuple[str, str]:
        """Pairs whose keys are none of `names`: as the first ones of an object, and after others."""
        quote = self._notation.key_quote
        value = self._any(schema, f"{where}.additionalProperties")
        possible = tuple(sorted(name for name in names if all(map(self._notation.in_key, name))))
        pair = self._rule(f"{quote} {self._other_key(possible)} {quote} colon {value}")
        left = None if most is None else most - len(names)
        after = self._rule(f'("," space {pair}){_times(0, left)}')
        if left == 0:
            return _EMPTY, after
        first = f'{pair} ("," space {pair}){_times(0, None if left is None else left - 1)}'
        return self._rule(first if least and not names else f"({first})?"), after

    def _other_key(self, names: tuple[str, ...], start: bool = True) -> str:
        """The rest of a key that is none of `names`, which are in order."""
        if (names, start) not in self._keys:  # many names may end alike
            by_first: dict[str, list[str]] = {}
            for name in filter(None, names):
                by_first.setdefault(name[0], []).append(name[1:])
            bodies = [f"{literal(first)} {self._other_key((*ends,), False)}" for first, ends in by_first.items()]
            rest = self._rule(f"{self._notation.key_character}{{0,{MAX_NAME}}}")  # a model must not stay in it for ever
            bodies.append(f"{self._notation.key_character_but(by_first)} {rest}")
            if "" not in names and (self._notation.empty_key or not start):
                bodies.append(_EMPTY)
            self._keys[names, start] = self._rule(" | ".join(bodies))
        return self._keys[names, start]

    def _counts(self, node: dict[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
        for keyword in (least, most):
            count = node.get(keyword, 0)
            if isinstance(count, float) and count.is_integer():
                count = int(count)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise InputError(f"{where}.{keyword}: expected a whole number, at least 0, found {shown(count)}")
            if count > MAX_REPETITIONS:
                raise InputError(
                    f"{where}: {keyword} of {count:,} cannot be held by a grammar; at most {MAX_REPETITIONS:,}"
                )
        low, high = int(node.get(least, 0)), node.get(most)
        if high is not None and high < low:
            raise InputError(f"{where}: {most} is below {least}")
        return low, None if high is None else int(high)


_WRITERS_OF_ALL: Mapping[str, Callable[[Writer, dict[str, Any], str], str]] = {
    "$ref": Writer._reference,
    "enum": Writer._values,
    "const": Writer._values,
    "anyOf": Writer._any_of,
    "oneOf": Writer._one_of,
    "allOf": Writer._all_of,
}
_TYPES: Mapping[str, Callable[[Writer, dict[str, Any], str], str]] = {
    "object": Writer._object,
    "array": Writer._array,
    "string": Writer._string,
    "integer": Writer._integer,
}


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def _above(value: float) -> int:
    return math.floor(value) + 1


def _below(value: float) -> int:
    return math.ceil(value) - 1


def _given(limits: Sequence[int | None]) -> list[int]:
    return [limit for limit in limits if limit is not None]
