"""Parse a tool call as Gemma 4 writes it: `call:NAME{key:value,…}`, with `<|"|>` around strings.

The text between a call's marks comes in; a name and arguments go out, or None for any other text. This module does not
know marks or streams.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

QUOTE = '<|"|>'
MAX_DEPTH = 64  # of mappings and lists in a tool call's arguments

_HEAD = re.compile(r"\s*call:([^\s{}<>]+)\s*(?={)")
_KEY = re.compile(r"[^\s:{}\[\],<>\"][^:{}\[\],<>\"]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?(?![\w.])", re.ASCII)
_WORD = re.compile(r"(?:true|false|null)(?!\w)")
_WORDS = {"true": True, "false": False, "null": None}
_SPACE = re.compile(r"\s*")
_JSON = json.JSONDecoder(strict=False)


def read_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of `call:NAME{…}`; None for any other text."""
    head = _HEAD.match(text)
    if head is None:
        return None
    try:
        arguments, end = _mapping(text, head.end(), 0)
    except ValueError:
        return None
    return (head[1], arguments) if not text[end:].strip() else None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if text.startswith(QUOTE, at):
        return _string(text, at)
    if text.startswith("{", at):
        return _mapping(text, at, depth)
    if text.startswith("[", at):
        return _list(text, at, depth)
    if text.startswith('"', at):  # JSON's quotes: not Gemma 4's syntax, but unambiguous
        return _JSON.raw_decode(text, at)
    if word := _WORD.match(text, at):
        return _WORDS[word[0]], word.end()
    number = _NUMBER.match(text, at)
    if number is None:
        raise ValueError("no value")
    value = float(number[0]) if number[1] or number[2] else int(number[0])
    if not math.isfinite(value):
        raise ValueError("a number too large")
    return value, number.end()


def _string(text: str, at: int) -> tuple[str, int]:
    start = at + len(QUOTE)
    end = text.index(QUOTE, start)
    return text[start:end], end + len(QUOTE)


def _key(text: str, at: int) -> tuple[str, int]:
    if text.startswith(QUOTE, at):
        return _string(text, at)
    if text.startswith('"', at):
        return _JSON.raw_decode(text, at)
    bare = _KEY.match(text, at)
    if bare is None:
        raise ValueError("no key")
    return bare[0].rstrip(), bare.end()


def _pair(text: str, at: int, depth: int) -> tuple[tuple[str, Any], int]:
    key, at = _key(text, at)
    at = _skip(text, at)
    if not text.startswith(":", at):
        raise ValueError("no colon")
    value, at = _value(text, _skip(text, at + 1), depth)
    return (key, value), at


def _mapping(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    pairs, at = _items(text, at, "}", _pair, depth)
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key twice")
    return mapping, at


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    return _items(text, at, "]", _value, depth)


def _items(
    text: str, at: int, close: str, read: Callable[[str, int, int], tuple[Any, int]], depth: int
) -> tuple[list[Any], int]:
    """The items between the bracket at `text[at]` and `close`, separated by commas."""
    items: list[Any] = []
    at = _skip(text, at + 1)
    if text.startswith(close, at):
        return items, at + 1
    while True:
        item, at = read(text, at, depth + 1)
        items.append(item)
        at = _skip(text, at)
        if text.startswith(close, at):
            return items, at + 1
        if not text.startswith(",", at):
            raise ValueError("no comma")
        at = _skip(text, at + 1)
