"""JSON schemas: what their grammars write is valid, and what no grammar can hold is refused by name."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

import jsonschema
import pytest

from gemma4gguf.chat.calls import read_calls
from gemma4gguf.chat.reply import parse_reply
from gemma4gguf.errors import InputError
from gemma4gguf.forms.gbnf import MARKS
from gemma4gguf.forms.schema import schema_grammar
from gemma4gguf.forms.tools import tools_grammar
from tests.support.schemas import accepts, rooted, written

Validator = jsonschema.Draft202012Validator


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_grammar_writes_is_valid(seed: int) -> None:
    random = Random(seed)
    for _ in range(8):
        schema = rooted(random)
        Validator.check_schema(schema)
        text = written(schema_grammar(schema), random)
        jsonschema.validate(json.loads(text), schema, cls=Validator, format_checker=Validator.FORMAT_CHECKER)


# What people write, and what must be possible: (schema, answers of the grammar, texts that are none).
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
    "required": ["name"],
}
CASES: dict[str, tuple[Any, list[str], list[str]]] = {
    "an object": (
        PERSON,
        ['{"name":"Zoë","age":7}', '{"name": "\\u00e9\\n"}', '{\n  "name": "x",\n  "age": 130\n}'],
        [
            '{"age":7}',
            '{"name":"x","age":131}',
            '{"name":"x","age":-1}',
            '{"name":"x","age":07}',
            '{"name":"x"',
            "{}",
            '{"name":"x","more":1}',
            '{"name":"\n"}',
            '{"name":"x"} ',
            '{"name":"x","name":"y"}',
            '{"name":"\\ud83d"}',
        ],
    ),
    "one of a few": ({"enum": ["a", 1, None, {"k": [True]}]}, ['"a"', "1", "null", '{"k":[true]}'], ['"b"', "1.0"]),
    "values of a type": ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
    "anything": (True, ["1", '{"a":[{}]}', "-0.5e+10", '""'], ["01", "nul", "[1,]", '{"a"}']),
    "an array": (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        ["[true]", "[true,false, true]"],
        ["[]", "[true,true,true,true]", "[1]"],
    ),
    "no array": ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
    "a pair and more": (
        {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "minItems": 1},
        ["[1]", "[1,2]", "[1,2,3,3]"],
        ["[]", "[1,3]", "[2]"],
    ),
    "a pair and no more": (
        {"prefixItems": [{"const": 1}, {"const": 2}], "items": False},
        ["[]", "[1]", "[1,2]"],
        ["[1,2,3]", "[1,1]"],
    ),
    "a tree": (
        {
            "type": "object",
            "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "leaf": {"type": "integer"}},
            "additionalProperties": False,
        },
        ["{}", '{"left":{"right":{"leaf":-3}},"right":{}}'],
        ['{"right":{},"left":{}}', '{"leaf":1.5}'],
    ),
    "more properties": (
        {"type": "object", "properties": {"ab": {"const": 1}}, "additionalProperties": {"const": 2}},
        ["{}", '{"ab":1}', '{"a":2}', '{"ab":1,"abc":2,"":2}', '{"é":2}'],
        ['{"ab":2}', '{"a":2,"ab":2}', '{"a":2,"\\u0061b":2}', '{"a":1}'],
    ),
    "a required property that is not described": (
        {"type": "object", "required": ["x"], "additionalProperties": {"const": 1}},
        ['{"x":1}', '{"x":1,"y":1}'],
        ["{}", '{"y":1}', '{"x":1,"x":1}'],
    ),
    "limits of fractions": ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3}, ["1", "2"], ["0", "3", "1.0"]),
    "a large limit": (
        {"type": "integer", "minimum": 10**30},
        [str(10**30), "9" * 31],
        [str(10**30 - 1), "-" + str(10**30)],
    ),
    "negative limits": (
        {"type": "integer", "minimum": -120, "maximum": -7},
        ["-7", "-9", "-10", "-99", "-120"],
        ["-6", "-121", "-0", "7", "-07"],
    ),
    "characters are counted, not bytes": (
        {"type": "string", "minLength": 2, "maxLength": 2},
        ['"東京"', '"\\n\\n"', '"🙂é"'],
        ['"a"', '"abc"', '"🙂"'],
    ),
    "a date": ({"format": "date"}, ['"2024-12-31"'], ['"2024-13-01"', '"2024-02-30"', '"2024-04-31"', '"24-1-1"']),
    "or null": (
        {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}], "title": "Age", "default": None},
        ["1", "null", "99"],
        ["0", '"1"'],
    ),
    "one all": ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}, ["null"], ["1"]),
    "one of two": (
        {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}, {"const": None}]},
        ["1", '"a"', "null"],
        ['"ab"', "true"],
    ),
    "what has no effect": ({"type": ["integer", "array"], "multipleOf": 1, "uniqueItems": False}, ["1", "[]"], ["1.5"]),
    "a limit without a type": ({"minimum": 5}, ["5"], ["4"]),
    "unknown keywords say nothing": ({"type": "null", "x-order": 1, "examples": [2], "minLength": 3}, ["null"], ["1"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_people_write(name: str) -> None:
    schema, right, wrong = CASES[name]
    grammar = schema_grammar(schema)
    assert [text for text in right if not accepts(grammar, text)] == []
    assert [text for text in wrong if accepts(grammar, text)] == []
    for text in right:
        jsonschema.validate(json.loads(text), schema, cls=Validator)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (-3, 12), (7, 1234), (98, 102), (-1001, -99), (None, -5), (995, None)]
)
def test_whole_numbers_between_limits_are_exact(low: int | None, high: int | None) -> None:
    limits = {k: v for k, v in (("minimum", low), ("maximum", high)) if v is not None}
    grammar = schema_grammar({"type": "integer", **limits})
    for number in range(-1100, 1300):
        inside = (low is None or number >= low) and (high is None or number <= high)
        assert accepts(grammar, str(number)) == inside, number


# What a grammar cannot hold: (schema, what the error says).
REFUSED: dict[str, tuple[Any, str]] = {
    "a float limit": (
        {"properties": {"a": {"type": "number", "minimum": 0}}},
        "schema.properties.a: minimum of type number",
    ),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "schema: uniqueItems cannot"),
    "many items": ({"type": "array", "maxItems": 2001}, "schema: maxItems of 2,001"),
    "many characters": ({"items": {"type": "string", "minLength": 9999}}, "schema.items: minLength of 9,999"),
    "not": ({"not": {}}, "schema: not cannot"),
    "if": ({"if": {}, "then": {}}, "schema: if cannot"),
    "patternProperties": ({"type": "object", "patternProperties": {}}, "schema: patternProperties cannot"),
    "pattern": ({"anyOf": [{"type": "null"}, {"pattern": "a+"}]}, r"schema.anyOf[1]: pattern cannot"),
    "multipleOf": ({"type": "integer", "multipleOf": 5}, "schema: multipleOf of type integer"),
    "multipleOf without a type": ({"multipleOf": 5}, "schema: multipleOf of type integer"),
    "multipleOf that is no effect of an integer": (
        {"type": "number", "multipleOf": 1},
        "schema: multipleOf of type number",
    ),
    "another document": ({"$ref": "https://example.org/x.json"}, "schema.$ref: expected a place in this schema"),
    "a place that is not there": ({"$ref": "#/$defs/a"}, "schema.$ref: there is no '#/$defs/a'"),
    "oneOf that overlaps": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "schema: oneOf cannot"),
    "allOf of several": ({"allOf": [{}, {}]}, "schema: allOf of several"),
    "two at once": ({"enum": [1], "minimum": 0}, "schema: minimum beside enum"),
    "a format": ({"type": "string", "format": "regex"}, "schema: format 'regex'"),
    "a format and lengths": ({"type": "string", "format": "date", "maxLength": 5}, "schema: a date of 10 to 10"),
    "minProperties": ({"type": "object", "properties": {"a": {}}, "minProperties": 1}, "schema: minProperties"),
    "no number": ({"type": "integer", "minimum": 5, "maximum": 4}, "schema: no whole number"),
    "no value": ({"type": "string", "enum": [1]}, "schema: enum has no value"),
    "no type": ({"type": "text"}, "schema.type: expected object, array"),
    "false": ({"properties": {"a": False}, "required": ["a"]}, "schema.properties.a: false allows no value"),
    "no schema": ({"items": 5}, "schema.items: expected a JSON schema, found 5"),
    "endless": ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "schema: rule "),
    "a circle": ({"$ref": "#"}, "schema: rule "),
    "a required name that may not be": (
        {"properties": {"a": {}}, "required": ["b"]},
        "schema.required: 'b' is not among the properties",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_grammar_cannot_hold_is_named(name: str) -> None:
    schema, told = REFUSED[name]
    with pytest.raises(InputError, match=f"^{re.escape(told)}"):
        schema_grammar(schema)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


def function(parameters: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


# (parameters, arguments of the grammar, texts that are none)
CALLS: dict[str, tuple[Any, list[str], list[str]]] = {
    "none": (None, ["{}"], ["", "{a:1}"]),
    "sorted by name": (
        {"type": "object", "properties": {"b": {"type": "string"}, "A": {"type": "integer"}}, "required": ["b"]},
        ['{b:<|"|>x<|"|>}', '{A:-7,b:<|"|>a < b, <<|"|>}'],
        ['{b:<|"|>x<|"|>,A:1}', "{A:1}", '{b:"x"}', '{b:<|"|>x}', "{b:x}"],
    ),
    "what a grammar cannot hold is any value": (
        {"type": "object", "properties": {"x": {"type": "number", "minimum": 0}}, "required": ["x"]},
        ["{x:1.5}", "{x:-1e5}", "{x:[true,null,{y:{}}]}", '{x:<|"|><|"|>}'],
        ["{}", "{y:1}", "{x:01}"],
    ),
    "nothing of it can be held": ({"type": "object", "not": {}}, ["{}", "{a:1,b:{}}"], ["[]", "1"]),
    "names that are no words": (
        {"type": "object", "properties": {"a b": {"const": 1}}, "required": ["a b"]},
        ['{<|"|>a b<|"|>:1}'],
        ["{a b:1}"],
    ),
    "other names": (
        {"type": "object", "properties": {"ab": {"const": 1}}, "additionalProperties": {"const": 2}},
        ["{}", "{ab:1,a:2,abc:2}", "{_:2}"],
        ["{ab:2}", "{:2}", "{a b:2}"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_of_a_call(name: str) -> None:
    parameters, right, wrong = CALLS[name]
    grammar = tools_grammar([function(parameters)])
    assert [text for text in right if not accepts(grammar, f"<|tool_call>call:f{text}<tool_call|>")] == []
    assert [text for text in wrong if accepts(grammar, f"<|tool_call>call:f{text}<tool_call|>")] == []
    for text in right:
        assert read_calls(f"call:f{text}")


@pytest.mark.parametrize("seed", range(10))
def test_calls_by_chance_are_read_as_they_were_meant(seed: int) -> None:
    random = Random(seed)
    tools = {name: function(rooted(random), name) for name in ("f", "other-1")}
    text = written(tools_grammar([*tools.values()]), random, lambda index: MARKS[index].encode())
    found = parse_reply(text)
    assert (found.text, found.unreadable_calls) == ("", ())
    for call in found.tool_calls:
        schema = tools[call.name]["function"]["parameters"]
        jsonschema.validate(call.arguments, schema, cls=Validator, format_checker=Validator.FORMAT_CHECKER)


def test_how_many_calls() -> None:
    call = "<|tool_call>call:f{}<tool_call|>"
    for several, most in ((False, 1), (True, 16)):
        grammar = tools_grammar([function(None)], several=several)
        assert accepts(grammar, call * most)
        assert not accepts(grammar, call * (most + 1))
        assert not accepts(grammar, "")
