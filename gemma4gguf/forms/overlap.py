"""Types and references of schemas, and whether two schemas can allow the same value, which `oneOf` forbids.

Schemas come in; what can be told of them without a value goes out. Does not know grammars.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from ..arguments import shown
from ..errors import InputError

KINDS = ("object", "array", "string", "integer", "number", "boolean", "null")
_MOST_SCHEMAS = 256  # to be compared, each with each
_MOST_COMPARED = 1_000_000  # schemas, names and values
_MOST_REFERENCES = 16  # that lead to each other


def is_of(kind: str, value: Any) -> bool:
    """Whether a value of JSON is of a type."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, (int, float)):
        return kind == "number" or (kind == "integer" and value == value // 1)
    return kind == ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object")


def resolved(root: Any, pointer: Any, where: str) -> Any:
    """The schema that a `$ref` names. Raises InputError: only places of the schema itself can be named."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise InputError(f"{where}: expected a place in this schema, such as #/$defs/NAME, found {shown(pointer)}")
    node = root
    for part in unquote(pointer).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise InputError(f"{where}: there is no {shown(pointer)} in this schema")
    return node


def disjoint(root: Any, schemas: Sequence[Any]) -> bool:
    """Whether no value is allowed by two of these schemas, for certain. False also where telling takes too long."""
    if len(schemas) > _MOST_SCHEMAS:
        return False
    comparison = _Comparison(root)
    return all(comparison.apart(a, b) for a, b in combinations(schemas, 2))


class _Facts:
    """What can be told of one schema without a value. `values`: None where a schema does not list them."""

    def __init__(self, schema: dict[str, Any]) -> None:
        values = _values(schema)
        self.values = None if values is None else frozenset(map(_key, values))
        self.kinds = _kinds(schema)
        self.required = frozenset(_required(schema))


class _Comparison:
    """Compares schemas of one `root`, two at a time, within a bound on the work for all of them together."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._facts: dict[int, _Facts] = {}  # by the id of a schema, which `root` keeps
        self._left = _MOST_COMPARED

    def apart(self, a: Any, b: Any) -> bool:
        """Whether two schemas, or those of a property that both require, allow nothing in common.

        References may lead to the same two schemas in many ways, or in a circle: they are compared once.
        """
        todo = [(a, b)]
        seen: set[tuple[int, int]] = set()
        while todo and self._left > 0:
            a, b = (_followed(self._root, schema) for schema in todo.pop())
            if a is False or b is False:
                return True
            if not isinstance(a, dict) or not isinstance(b, dict) or (id(a), id(b)) in seen:
                continue
            seen.add((id(a), id(b)))
            one, two = self._told(a), self._told(b)
            self._left -= 1 + min(len(one.required), len(two.required))
            if one.values is not None and two.values is not None:
                self._left -= min(len(one.values), len(two.values))
                if one.values.isdisjoint(two.values):
                    return True
            elif one.kinds.isdisjoint(two.kinds):
                return True
            elif one.kinds & two.kinds == {"object"}:
                names = sorted(one.required & two.required)
                todo += [(_property(a, name), _property(b, name)) for name in names]
        return False

    def _told(self, schema: dict[str, Any]) -> _Facts:
        if id(schema) not in self._facts:
            self._facts[id(schema)] = _Facts(schema)
        return self._facts[id(schema)]


def _followed(root: Any, schema: Any) -> Any:
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            return schema
        schema = resolved(root, schema["$ref"], "$ref")
    return True


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The only values that a schema can allow; None where there is no such list."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _key(value: Any) -> str:
    """The same for equal values: 1 and 1.0 are."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True)


def _kinds(schema: dict[str, Any]) -> set[str]:
    """Types that a schema may allow; an integer is a number, too."""
    values, kind = _values(schema), schema.get("type")
    if values is not None:
        found = {name for name in KINDS for value in values if is_of(name, value)}
    else:
        found = {*KINDS} if kind is None else {*filter(_is_text, kind if isinstance(kind, list) else [kind])}
    return found | {"integer"} if "number" in found else found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _required(schema: dict[str, Any]) -> list[str]:
    names = schema.get("required")
    return [*filter(_is_text, names)] if isinstance(names, list) else []


def _property(schema: dict[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name, True) if isinstance(properties, dict) else True
