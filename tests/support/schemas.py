"""JSON schemas made by chance, all bounded, and texts that a grammar writes by chance."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

from gemma4gguf.forms.automaton import NOWHERE, Automaton
from gemma4gguf.forms.gbnf import MARKS, parse

NAMES = ("name", "age", "größe", "名前", "a b", 'say "hi"', "back\\slash", "x", "xy", "id", "list", "🙂", "a/b", "")
WORDS = ("red", "grün", "blue and green", "", 'a "quoted" one', "tab\there", "東京", "🙂", "</s>", "null")


def schema(random: Random, depth: int = 3) -> dict[str, Any]:
    """A schema whose answers are of bounded length."""
    kinds = [_integer, _string, _enum, _const, _simple, _optional]
    return random.choice([*kinds, *([_object, _object, _array, _array, _union, _reference] if depth else [])])(
        random, depth - 1
    )


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(NAMES, random.randint(0, 4))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: schema(random, depth) for name in names},
        "required": [name for name in names if random.random() < 0.6],
    }
    if random.random() < 0.3:
        made["additionalProperties"] = schema(random, 0)
        made["maxProperties"] = len(names) + random.randint(0, 2)
    elif random.random() < 0.5:
        made["additionalProperties"] = False
    if random.random() < 0.2:
        made["minProperties"] = len(made["required"])
    return made if names or "additionalProperties" in made else made | {"additionalProperties": False}


def _array(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(0, 2)
    made = {"type": "array", "items": schema(random, depth), "minItems": low, "maxItems": low + random.randint(0, 2)}
    if random.random() < 0.3:
        made["prefixItems"] = [schema(random, depth) for _ in range(random.randint(1, 2))]
    return made


def _union(random: Random, depth: int) -> dict[str, Any]:
    if random.random() < 0.5:
        return {"anyOf": [schema(random, depth) for _ in range(random.randint(1, 3))]}
    tags = random.sample(WORDS, 2)
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": tag}, "value": schema(random, depth)},
                "required": ["kind"],
                "additionalProperties": False,
            }
            for tag in tags
        ]
    }


def _reference(random: Random, depth: int) -> dict[str, Any]:
    """Used where it stands, and only good at a root: see `rooted`."""
    return {"$ref": random.choice(["#/$defs/tree", "#/$defs/a~1b"]), "description": "somewhere else"}


def _integer(random: Random, depth: int) -> dict[str, Any]:
    low = random.choice([-1, 1]) * random.randrange(10 ** random.randint(0, 6))
    high = low + random.randrange(10 ** random.randint(0, 6))
    lower = {"minimum": low} if random.random() < 0.7 else {"exclusiveMinimum": low - 0.5}
    return {
        "type": "integer",
        **lower,
        **({"maximum": high} if random.random() < 0.7 else {"exclusiveMaximum": high + 1}),
    }


def _string(random: Random, depth: int) -> dict[str, Any]:
    if random.random() < 0.2:
        return {"type": "string", "format": random.choice(["date", "time", "date-time", "uuid", "ipv4", "duration"])}
    low = random.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + random.randint(0, 6)}


def _enum(random: Random, depth: int) -> dict[str, Any]:
    values: list[Any] = [*random.sample(WORDS, 3), 7, 2.5, True, None, {"a": [1, "x"]}, [], -3]
    return {"enum": random.sample(values, random.randint(1, 5)), "title": "one of a few"}


def _const(random: Random, depth: int) -> dict[str, Any]:
    return {"const": random.choice([*WORDS, 0, False, {"k": "v"}])}


def _simple(random: Random, depth: int) -> dict[str, Any]:
    return {"type": random.choice(["boolean", "null", "integer", "number", ["integer", "null"], ["boolean", "number"]])}


def _optional(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_integer(random, 0), {"type": "null"}], "default": None}


def rooted(random: Random, depth: int = 3) -> dict[str, Any]:
    """A whole schema, with what its references name."""
    made = _object(random, depth)
    made["$defs"] = {
        "tree": {
            "type": "object",
            "properties": {
                "leaf": schema(random, 0),
                "twigs": {"type": "array", "items": {"$ref": "#/$defs/a~1b"}, "maxItems": 2},
            },
            "required": ["leaf"],
            "additionalProperties": False,
        },
        "a/b": schema(random, 0),
    }
    return made


def json_schema(schema: Any) -> dict[str, Any]:
    """A schema as a `response_format`."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def declared(name: str, random: Random) -> dict[str, Any]:
    """A tool whose parameters are made by chance."""
    return {"type": "function", "function": {"name": name, "parameters": rooted(random, 2)}}


def written(grammar: str, random: Random, mark: Callable[[int], bytes] = lambda index: b"", most: int = 20_000) -> str:
    """A text that a grammar writes by chance, byte for byte. `mark`: how a mark is written."""
    automaton = Automaton(parse(grammar))
    state, done = automaton.start, bytearray()
    for _ in range(most):
        table, targets = automaton.moves(state)
        if state.accepting and (not targets or random.random() < 0.5):
            return done.decode()
        symbol = random.choice([i for i, target in enumerate(table) if target != NOWHERE])
        done += bytes([symbol]) if symbol < 256 else mark(symbol - 256)
        state = targets[table[symbol]]
    raise AssertionError(f"no end after {most:,} symbols")


def accepts(grammar: str, text: str) -> bool:
    """Whether a grammar writes a text, to its end."""
    automaton = Automaton(parse(grammar))
    pieces = re.split(f"({'|'.join(map(re.escape, MARKS))})", text)
    symbols = [s for p in pieces for s in ([256 + MARKS.index(p)] if p in MARKS else p.encode())]
    state = automaton.move(automaton.start, symbols)
    return state is not None and state.accepting
