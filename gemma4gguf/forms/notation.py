"""How values are written: as JSON in an answer, or in the model's own syntax for the arguments of a call.

Values come in; pieces of GBNF go out, as do the rules that both kinds of pieces name: `value` for any of them, `space`
and `colon` for what stands between. Lengths of numbers and blanks are limited, so that a model cannot stay in one for
ever. Does not know schemas.
"""

from __future__ import annotations

import json
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from ..chat.calls import QUOTE
from ..errors import InputError

_SHARED = """
digits ::= "0" | [1-9] [0-9]{0,15}
integer ::= "0" | "-"? [1-9] [0-9]{0,15}
number ::= "-"? digits ("." [0-9]{1,16})? ([eE] [+-]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{" space (pair ("," space pair)* space)? "}"
array ::= "[" space (value ("," space value)* space)? "]"
"""
_COMMA = ' "," space '
_BARE_KEY = re.compile(r"[\w.-]+")
_KEY_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_.-")


def literal(text: str) -> str:
    """A text as GBNF writes it."""
    return '"' + re.sub(r'[\x00-\x1f\x7f"\\]', lambda found: f"\\x{ord(found[0]):02X}", text) + '"'


def characters(these: Iterable[str], *, but: bool = False) -> str:
    """One character of these, or any but these, as GBNF writes it."""
    return ("[^" if but else "[") + "".join(f"\\U{ord(c):08X}" for c in sorted(these)) + "]"


class Notation(ABC):
    """`rules`: GBNF. `quote`: around strings. `character`: one that counts as one of a string's length.

    `key_quote`, `key_character`: of a key that a schema does not name; `empty_key`: it may have no character at all.
    `by_name`: properties come in the order of their names, else in the schema's.
    """

    rules: str
    quote: str
    character: str
    key_quote: str
    key_character: str
    empty_key: bool
    by_name: bool

    @abstractmethod
    def text(self, value: str) -> str:
        """What stands between a string's quotes. Raises InputError for what the notation cannot write."""

    @abstractmethod
    def key(self, name: str) -> str:
        """The name of a property."""

    @abstractmethod
    def in_key(self, character: str) -> bool:
        """Whether a key that a schema does not name may hold it."""

    @abstractmethod
    def key_character_but(self, these: Iterable[str]) -> str:
        """One character of such a key, but none of these."""

    def literal(self, value: Any) -> str:
        """One value of JSON."""
        if isinstance(value, str):
            return f"{self.quote} {self.text(value)} {self.quote}"
        if isinstance(value, Mapping):
            pairs = [f"{self.key(key)} colon {self.literal(item)}" for key, item in value.items()]
            return '"{" ' + _COMMA.join(pairs) + ' "}"'
        if isinstance(value, list):
            return '"[" ' + _COMMA.join(map(self.literal, value)) + ' "]"'
        return literal(json.dumps(value))


class Json(Notation):
    """JSON, in one line or indented; a blank or a line's indentation where it may have some."""

    rules = (
        _SHARED
        + r"""
space ::= " "? | "\n" [ \t]{0,20}
colon ::= ":" " "?
pair ::= string colon value
string ::= "\"" character* "\""
character ::= [^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9A-Ca-cE-Fe-f] [0-9A-Fa-f]{3} | [Dd] [0-7] [0-9A-Fa-f]{2}))
"""
    )
    quote = key_quote = r'"\""'
    character = "character"
    key_character = r'[^"\\\x00-\x1F]'  # no escape, so that no key is written in two ways
    empty_key, by_name = True, False

    def text(self, value: str) -> str:
        return literal(json.dumps(value, ensure_ascii=False)[1:-1])

    def key(self, name: str) -> str:
        return self.literal(name)

    def in_key(self, character: str) -> bool:
        return character not in '"\\' and character >= " "

    def key_character_but(self, these: Iterable[str]) -> str:
        return characters({*these, '"', "\\", *map(chr, range(32))}, but=True)


class CallSyntax(Notation):
    """The model's own syntax, as `chat.calls` reads it: no blanks, bare keys, marks as quotes.

    No string holds what looks like that mark, `<` before `|`; one whose length counts holds no `<`.
    """

    rules = (
        _SHARED
        + f"""
space ::= ""
colon ::= ":"
pair ::= [A-Za-z_] [A-Za-z0-9_.-]{{0,63}} colon value
string ::= {QUOTE} ([^<] | "<"+ [^<|])* "<"* {QUOTE}
"""
    )
    quote = QUOTE
    character = "[^<]"
    key_quote = ""
    key_character = characters(_KEY_CHARACTERS)
    empty_key, by_name = False, True

    def text(self, value: str) -> str:
        if "<|" in value:
            raise InputError(f"{value[:40]!a} holds <|, which a call's text cannot")
        return literal(value)

    def key(self, name: str) -> str:
        return literal(name) if _BARE_KEY.fullmatch(name) else self.literal(name)

    def in_key(self, character: str) -> bool:
        return character in _KEY_CHARACTERS

    def key_character_but(self, these: Iterable[str]) -> str:
        return characters(_KEY_CHARACTERS - {*these})
