"""Schemas and grammars that try to take for ever, to fill the memory, or to end the process.

Each is refused with an InputError of one line, or does no harm: then the text beside it is read.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from gemma4gguf.errors import InputError
from gemma4gguf.forms.automaton import Automaton, checked_grammar
from gemma4gguf.forms.gbnf import parse
from gemma4gguf.forms.notation import Json
from gemma4gguf.forms.schema import Writer, schema_grammar
from gemma4gguf.limits import current


def circle() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def doubled(depth: int) -> dict[str, Any]:
    """Two ways at each level: an automaton that follows them one by one has 2 ** depth."""
    arrays = {
        f"d{i}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}, "maxItems": n} for n in (1, 2)]}
        for i in range(depth)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**arrays, f"d{depth}": {"type": "null"}}}


def pairs(depth: int) -> dict[str, Any]:
    """Objects of two properties, each of which leads to the next object: 2 ** depth ways to the last."""
    both = {
        f"d{i}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "ab"},
            "required": ["a", "b"],
        }
        for i in range(depth)
    }
    return {"oneOf": [{"$ref": "#/$defs/d0"}] * 2, "$defs": {**both, f"d{depth}": {"type": "null"}}}


def manifold(count: int) -> dict[str, Any]:
    """Names that part early, and what is none of them: each character of each asks for a rule of its own."""
    chance = Random(0)
    names = ("".join(chance.choices("abcdefghijkl", k=120)) for _ in range(count))
    return {"properties": {name: {} for name in names}, "additionalProperties": True}


def alike(count: int) -> dict[str, Any]:
    return {"properties": {f"{i:04}{'a' * 120}": {} for i in range(count)}, "additionalProperties": True}


REFUSED_SCHEMAS: dict[str, Any] = {
    "holds itself: no end": circle(),
    "10,000 levels: the recursion of whoever walks it": nested(10_000),
    "a megabyte": {"enum": ["x" * 1_000_000]},
    "a number of 5,000 digits: Python writes none": {"minimum": 10**5000},
    "a number beyond all floats, as a float": {"const": float("inf")},
    "half a surrogate pair: no UTF-8": {"const": "\ud800"},
    "half a surrogate pair as a name": {"properties": {"\ud800": {}}},
    "names that are no texts": {"properties": {1: {}}},
    "a limit of 300 digits": {"type": "integer", "maximum": 1e300},
    "an array of 10 ** 12": {"type": "array", "minItems": 10**12},
    "repetitions inside each other, all of which may be empty": {
        "type": "array",
        "prefixItems": [{"type": "string", "maxLength": n} for n in range(1, 2000)],
    },
    "a reference to itself": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a value without end": {
        "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}, "required": ["b"]}},
        "$ref": "#/$defs/a",
    },
    "10,000 schemas of which one may fit: each is compared with each": {"oneOf": [{"const": n} for n in range(10_000)]},
    "one of two that are alike, found by 2 ** 60 ways": pairs(60),
    "one of two that are alike, 1,500 levels deep": pairs(1_500),
    "one of two that hold themselves": {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {
            name: {"type": "object", "properties": {"x": {"$ref": f"#/$defs/{name}"}}, "required": ["x"]}
            for name in "ab"
        },
    },
    "one of two of which one has a number for a type": {"oneOf": [{"type": 5}, {"type": "null"}]},
    "a name of 100,000 characters beside any others": {
        "properties": {"a" * 100_000: {}},
        "additionalProperties": True,
    },
    "1,900 long names beside any others: 100 MB of grammar, if it were written": manifold(1_900),
    "1,900 long names that end alike: 200,000 ends, all the same": alike(1_900),
    "a type that is a mapping": {"type": {}},
    "required that is a text": {"type": "object", "required": "name"},
    "a reference that is no text": {"$ref": 1},
    "a reference with broken escapes": {"$ref": "#/%ff%00"},
    "a reference to a text": {"$ref": "#/title", "title": "x"},
    "an enum that is none": {"enum": "abc"},
    "an object of an object's class": object(),
}


@pytest.mark.parametrize("name", REFUSED_SCHEMAS)
def test_a_hostile_schema_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as error:
        schema_grammar(REFUSED_SCHEMAS[name])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("lenient", [False, True])
def test_writing_stops_at_the_bound(lenient: bool) -> None:
    writer = Writer(manifold(1_900), "schema", Json(), lenient=lenient)
    with pytest.raises(InputError, match="its grammar is longer than"):
        writer.write()
    assert len(writer.rules()) < 1.2 * current().grammar_bytes


def test_rules_of_names_that_end_alike_are_written_once() -> None:
    writer = Writer(alike(100), "schema", Json())
    writer.write()
    assert writer.rules().count("\n") < 1_000


HARMLESS_SCHEMAS: dict[str, tuple[Any, str]] = {
    "two ways at each of 60 levels": (doubled(60), "[" * 60 + "null" + "]" * 60),
    "3,000 references in a row": (
        {
            "$ref": "#/$defs/0",
            "$defs": {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(3_000)} | {"3000": {"type": "null"}},
        },
        "null",
    ),
    "2,000 properties that need not be there": (
        {"properties": {f"p{i}": {"type": "null"} for i in range(2_000)}},
        '{"p7":null,"p1999":null}',
    ),
    "an integer beyond all floats": ({"type": "integer", "enum": [10**500]}, str(10**500)),
    "3,000 values": ({"enum": list(range(3_000))}, "2999"),
    "names that are GBNF": (
        {"properties": {'"] | root ::= "': {"const": '"\n\\'}}},
        '{"\\"] | root ::= \\"":"\\"\\n\\\\"}',
    ),
}


@pytest.mark.parametrize("name", HARMLESS_SCHEMAS)
def test_a_hostile_schema_does_no_harm(name: str) -> None:
    schema, text = HARMLESS_SCHEMAS[name]
    automaton = Automaton(parse(schema_grammar(schema)))
    state = automaton.move(automaton.start, text.encode())
    assert state
    assert state.accepting


REFUSED_GRAMMARS = {
    "10,000 parentheses: a parser's recursion": "root ::= " + "(" * 10_000,
    "two megabytes": 'root ::= "' + "x" * 2_000_000 + '"',
    "repetitions of what may be empty, inside each other": 'root ::= ((("a"?){2000}){2000}){2000}',
    "too many repetitions": 'root ::= "a"{999999999}',
    "a number of 100 digits": 'root ::= "a"{' + "9" * 100 + "}",
    "200 long repetitions": "root ::= " + " ".join('("ab" | "cd"){0,2000}' for _ in range(200)),
    "begins with itself, twice for each of 40 rules: 2 ** 40 ways to find out": "root ::= r0\n"
    + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(40))
    + 'r40 ::= r0 "x"',
    "a token by its number": "root ::= <[1]>",
    "a token that is not this one": "root ::= !<turn|>",
    "nothing": "",
    "the character 0 in a name": "ro\0ot ::= [a]",
    "half a surrogate pair": 'root ::= "\ud800"',
    "5,000 sets of characters at once": "root ::= "
    + " | ".join(f"[\\U{i:08X}-\\U{i + 90:08X}]" for i in range(256, 25_256)),
}


@pytest.mark.parametrize("name", REFUSED_GRAMMARS)
def test_a_hostile_grammar_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as error:
        checked_grammar(REFUSED_GRAMMARS[name])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


HARMLESS_GRAMMARS = {
    "two ways at each step": ('root ::= "a" root | "a" root | "b"', "a" * 5_000 + "b"),
    "ways that part again and again": (
        'root ::= d\nd ::= "[" d "]" | "[" d "]" | "1"',
        "[" * 3_000 + "1" + "]" * 3_000,
    ),
    "two ways to name the same rule, 40 times": (
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(40)) + 'r40 ::= "x"',
        "x",
    ),
    "what may be empty, repeated": ('root ::= ("a"* "b"*)* "c"', "ab" * 2_000 + "c"),
}


@pytest.mark.parametrize("name", HARMLESS_GRAMMARS)
def test_a_hostile_grammar_does_no_harm(name: str) -> None:
    grammar, text = HARMLESS_GRAMMARS[name]
    automaton = Automaton(parse(grammar))
    state = automaton.move(automaton.start, text.encode())
    assert state
    assert state.accepting


def test_more_ways_to_read_a_text_than_can_be_followed_are_told_while_it_is_read() -> None:
    automaton = Automaton(parse("root ::= ((([a-z]{1,2000}){1,2000}){1,2000})"))
    with pytest.raises(InputError, match="too many ways to read"):
        automaton.move(automaton.start, b"x" * 5_000)
