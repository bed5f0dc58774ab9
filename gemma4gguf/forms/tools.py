"""Tools -> GBNF of the calls that an answer may be, in the model's own syntax.

Declarations come in, checked; a grammar goes out. Arguments follow a tool's schema as far as a grammar holds it; what
it cannot hold may be any value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import shown
from ..chat.reply import CALL, CALL_END
from ..errors import InputError
from .automaton import checked_grammar
from .notation import CallSyntax, literal
from .rules import ROOT
from .schema import Writer, checked

MOST_CALLS = 16  # in one answer
_NAME = re.compile(r"[^\W\d][\w.-]{0,255}")  # that `chat.calls` reads


def tools_grammar(tools: Sequence[Mapping[str, Any]], *, several: bool = True) -> str:
    """GBNF of one call, or of `several`, of any of these tools. Raises InputError for a name that no call can have."""
    notation, calls, rules = CallSyntax(), [], ""
    for index, tool in enumerate(tools):
        function = tool["function"]
        name, where = function["name"], f"tools[{index}].function"
        if not _NAME.fullmatch(name):
            raise InputError(f"{where}.name: {shown(name)} cannot be called: expected letters, digits, _, - and .")
        parameters = checked(function.get("parameters") or {"type": "object", "properties": {}}, f"{where}.parameters")
        writer = Writer(parameters, where, notation, lenient=True, prefix=f"t{index}-")
        arguments = writer.write()
        calls.append(f"{CALL} {literal(f'call:{name}')} {'object' if arguments == 'value' else arguments} {CALL_END}")
        rules += writer.rules()
    times = f"{{1,{MOST_CALLS}}}" if several else ""
    return checked_grammar(f"{ROOT} ::= call{times}\ncall ::= {' | '.join(calls)}\n{rules}{notation.rules}")
