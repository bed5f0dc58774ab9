"""Formats of strings that a grammar can hold, as GBNF.

Each has its shortest and its longest text, in characters. Dates leave out the 29th of February, which not every year
has, and addresses are of the usual kind: what is written is valid, not everything valid is written.
"""

from __future__ import annotations

from collections.abc import Mapping

_DATE = (
    '[1-9] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_CLOCK})'
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9]{2} | [1-9]? [0-9])'
_HEX = "[0-9a-f]"
_LABEL = "[a-z0-9] ([a-z0-9-]{0,20} [a-z0-9])?"
_HOST = f'({_LABEL} "."){{1,3}} [a-z]{{2,10}}'

FORMATS: Mapping[str, tuple[int, int, str]] = {
    "date": (10, 10, _DATE),
    "time": (9, 21, _TIME),
    "date-time": (20, 32, f'{_DATE} "T" {_TIME}'),
    "duration": (
        3,
        16,
        '"P" ([0-9]{1,4} "D" | "T" ([0-9]{1,3} "H" ([0-9]{1,3} "M")? | [0-9]{1,3} "M" | [0-9]{1,5} "S"))',
    ),
    "uuid": (36, 36, f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}'),
    "ipv4": (7, 15, f'{_BYTE} ("." {_BYTE}){{3}}'),
    "email": (6, 112, f'[a-z0-9] ([._+-]? [a-z0-9]){{0,15}} "@" {_HOST}'),
    "uri": (11, 289, f'"http" "s"? "://" {_HOST} ("/" [A-Za-z0-9._~-]{{0,100}}){{0,2}}'),
}
