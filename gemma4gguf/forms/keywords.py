"""Keywords of JSON schemas: what each says something about, which a grammar can hold, and what their values may be.

Schemas come in; types and limits go out, or an InputError that names the keyword and its place. The tables are the
owners of what is known. Does not know grammars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..arguments import shown
from ..errors import InputError
from .overlap import KINDS

MAX_DIGITS = 40  # of a limit

# Keywords that are in none of these tables say nothing about validity, as in the standard.
WHOLE = ("$ref", "enum", "const", "anyOf", "oneOf", "allOf")  # each says all; beside it only these count:
BESIDE: Mapping[str, frozenset[str]] = {"enum": frozenset({"type"}), "const": frozenset({"type"})}
KNOWN: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
LIMITS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
NEVER: Mapping[str, frozenset[str]] = {
    "object": frozenset({"patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies"})
    | {"unevaluatedProperties"},
    "array": frozenset({"uniqueItems", "contains", "minContains", "maxContains", "additionalItems"})
    | {"unevaluatedItems"},
    "string": frozenset({"pattern"}),
    "integer": frozenset({"multipleOf"}),
    "number": LIMITS,
    "boolean": frozenset(),
    "null": frozenset(),
}
NEVER_AT_ALL = frozenset({"not", "if", "then", "else", "$dynamicRef", "$recursiveRef"})
ASSERTIONS = frozenset().union(*KNOWN.values(), *NEVER.values(), WHOLE, {"type"})
NO_EFFECT: Mapping[tuple[str, str], object] = {("array", "uniqueItems"): False, ("integer", "multipleOf"): 1}


def kinds_of(node: Mapping[str, Any], where: str) -> Sequence[str]:
    """The types that a schema names; else those that its keywords speak of; none where any will do."""
    if "type" not in node:
        return [kind for kind in KINDS if (KNOWN[kind] | NEVER[kind]) & node.keys() and kind != "number"]  # integers do
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    if not kinds or not all(isinstance(kind, str) and kind in KINDS for kind in kinds):
        raise InputError(f"{where}.type: expected {', '.join(KINDS)}, found {shown(node['type'])}")
    return list(dict.fromkeys(kinds))


def limit(node: Mapping[str, Any], keyword: str, where: str, rounded: Callable[[float], int]) -> int | None:
    """A limit as the outermost whole number that keeps it."""
    if keyword not in node:
        return None
    value = node[keyword]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where}.{keyword}: expected a number, found {shown(value)}")
    if abs(value) >= 10**MAX_DIGITS:
        raise InputError(f"{where}: {keyword} of more than {MAX_DIGITS} digits cannot be held by a grammar")
    return rounded(value)
