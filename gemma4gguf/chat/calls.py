"""Parse tool calls as Gemma 4 writes them: `call:NAME{key:value,…}`, with `<|"|>` around strings.

The text between a call's marks comes in; names and arguments go out, or None for any other text. This module does not
know marks or streams.

The model also writes calls in forms that it has seen elsewhere, Python's and JSON's above all. They are read where they
can mean one thing only:

- a call: without `call:`, with parentheses, several behind each other, as JSON (`{"name": …, "arguments": …}`), and
  `call:NAME` alone;
- a pair: `=` for `:`, and no comma where white space, a bracket or a closing quote parts it from the next;
- a value: strings in single or double quotes, one bare word, `None`, `True`, `+5`, `.5`, `5.`, and a comma behind the
  last. Digits that begin with 0 are a string, because a number would lose the 0.

A value that names no JSON value (`NaN`), several bare words, or an argument without a name is not read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..limits import current

QUOTE = '<|"|>'

Call: TypeAlias = tuple[str, dict[str, Any]]

# Names are of bounded length: many heads behind each other, each searched to the end, would take quadratic time.
_HEAD = re.compile(r"call:\s{0,9}([^\s{}<>()]{1,256})\s{0,9}(?=[{(])|([^\W\d][\w.-]{0,255})\s{0,9}(?=[{(])")
_NAME = re.compile(r"call:([^\W\d][\w.-]{0,255})(?=\s*(?:$|[,;]|call:))")
_KEY = re.compile(r"[^\s:={}\[\],<>\"'][^:={}\[\],<>\"]*")
_NEXT_KEY = re.compile(r"[\w.-]+\s*[:=]|[\"']|" + re.escape(QUOTE))  # where a comma is missing: one word, or quoted
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(\.\d*)?|(\.\d+))([eE][+-]?\d+)?(?![\w.])", re.ASCII)
_DIGITS = re.compile(r"-?0\d+(?:\.\d+)?(?![\w.])", re.ASCII)
_BARE = re.compile(r"[^\W\d][\w-]*(?=\s*[,})\]])")
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_WORD = re.compile(r"(?:true|false|null|none)(?![\w-])", re.IGNORECASE)
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_NO_VALUES = frozenset({"nan", "inf", "infinity", "undefined", "nil"})
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"\s*[,;]?\s*")  # two calls
_JSON = json.JSONDecoder(strict=False)
_ARGUMENTS = ("arguments", "parameters")  # what other models' call syntax names them


def read_calls(text: str, closed: bool = True) -> list[Call] | None:
    """Names and arguments of the calls in `text`; None for any other text, and for what could mean two things.

    `closed`: the mark of a call's end followed. Without it `call:NAME` alone may be the beginning of a longer one.
    """
    calls: list[Call] = []
    at = _skip(text, 0)
    try:
        while at < len(text):
            found, at = _call(text, at, closed)
            calls += found
            between = _BETWEEN.match(text, at)
            at = between.end() if between else at
    except ValueError:
        return None
    return calls or None


def _call(text: str, at: int, closed: bool) -> tuple[list[Call], int]:
    """The call at `text[at]`; several where it is a JSON list."""
    if head := _HEAD.match(text, at):
        arguments, at = _arguments(text, head.end())
        return [(head[1] or head[2], arguments)], at
    if closed and (name := _NAME.match(text, at)):
        return [(name[1], {})], name.end()
    if text.startswith("call:", at):
        at = _skip(text, at + len("call:"))
    if not text.startswith(("{", "["), at):
        raise ValueError("no call")
    found, at = _value(text, at, 0)
    return [_json_call(item) for item in (found if isinstance(found, list) else [found])], at


def _arguments(text: str, at: int) -> tuple[dict[str, Any], int]:
    """In braces, in parentheses, or as a mapping in parentheses."""
    if text.startswith("{", at):
        return _mapping(text, at, 0)
    inner = _skip(text, at + 1)
    if not text.startswith("{", inner):
        return _mapping(text, at, 0, ")")
    arguments, at = _mapping(text, inner, 0)
    at = _skip(text, at)
    if not text.startswith(")", at):
        raise ValueError("no parenthesis")
    return arguments, at + 1


def _json_call(item: Any) -> Call:
    """`{"name": …, "arguments": …}`, the arguments as an object or as its text."""
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str) or not item["name"]:
        raise ValueError("no name")
    given = [key for key in item if key != "name"]
    if len(given) > 1 or not {*given} <= {*_ARGUMENTS}:
        raise ValueError("another key")
    arguments = item[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments, end = _mapping(arguments, 0, 0) if arguments.startswith("{") else (None, 0)
        if end != len(item[given[0]]):
            raise ValueError("text behind the arguments")
    if not isinstance(arguments, dict):
        raise ValueError("no arguments")
    return item["name"], arguments


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > current().depth:
        raise ValueError("nested too deeply")
    if text.startswith("{", at):
        return _mapping(text, at, depth)
    if text.startswith("[", at):
        return _items(text, at, "]", _value, depth)
    if (string := _quoted(text, at)) is not None:
        return string
    if word := _WORD.match(text, at):
        return _WORDS[word[0].lower()], word.end()
    if (digits := _DIGITS.match(text, at) or _BARE.match(text, at)) and digits[0].lower() not in _NO_VALUES:
        return digits[0], digits.end()
    number = _NUMBER.match(text, at)
    if number is None:
        raise ValueError("no value")
    value = float(number[0]) if any(number.groups()) else int(number[0])
    if not math.isfinite(value):
        raise ValueError("a number too large")
    return value, number.end()


def _quoted(text: str, at: int) -> tuple[str, int] | None:
    """The string in Gemma 4's quotes, JSON's or single ones at `text[at]`; None where there is none."""
    if text.startswith(QUOTE, at):
        start = at + len(QUOTE)
        end = text.index(QUOTE, start)
        return text[start:end], end + len(QUOTE)
    if text.startswith('"', at):
        string, end = _JSON.raw_decode(text, at)
    elif single := _SINGLE.match(text, at):
        inner = re.sub(r'\\.|"', lambda m: {"\\'": "'", '"': '\\"'}.get(m[0], m[0]), single[1], flags=re.DOTALL)
        string, end = _JSON.decode(f'"{inner}"'), single.end()
    else:
        return None
    string.encode()  # a ValueError for half a surrogate pair, which no caller could print or send on
    return string, end


def _key(text: str, at: int) -> tuple[str, int]:
    if (string := _quoted(text, at)) is not None:
        return string
    bare = _KEY.match(text, at)
    if bare is None:
        raise ValueError("no key")
    return bare[0].rstrip(), bare.end()


def _pair(text: str, at: int, depth: int) -> tuple[tuple[str, Any], int]:
    key, at = _key(text, at)
    at = _skip(text, at)
    if not text.startswith((":", "="), at):
        raise ValueError("no colon")
    value, at = _value(text, _skip(text, at + 1), depth)
    return (key, value), at


def _mapping(text: str, at: int, depth: int, close: str = "}") -> tuple[dict[str, Any], int]:
    pairs, at = _items(text, at, close, _pair, depth)
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key twice")
    return mapping, at


def _items(
    text: str, at: int, close: str, read: Callable[[str, int, int], tuple[Any, int]], depth: int
) -> tuple[list[Any], int]:
    """The items between the bracket at `text[at]` and `close`. Pairs may lack the comma between them."""
    items: list[Any] = []
    at = _skip(text, at + 1)
    while not text.startswith(close, at):
        item, end = read(text, at, depth + 1)
        items.append(item)
        at = _skip(text, end)
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith(close, at):
            parted = at > end or text[end - 1] in '>"}]'
            if read is not _pair or not parted or not _NEXT_KEY.match(text, at):
                raise ValueError("no comma")
    return items, at + 1
