"""`tool_choice`, as the OpenAI API has it: whether an answer may call tools, must, and which.

In: what a caller gives, and the tools that are declared. Out: a record. Does not know how calls are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..arguments import shown
from ..errors import InputError

ToolChoice: TypeAlias = "Literal['none', 'auto', 'required'] | Mapping[str, object]"
"""A word, or one tool by name: `{"type": "function", "function": {"name": …}}`."""
EXPECTED = 'none, auto, required or {"type": "function", "function": {"name": …}}'


@dataclass(frozen=True)
class Choice:
    """`calls`: none are written, they may be, or nothing else is. `tools`: may be called. `several`: calls, or one."""

    calls: Literal["none", "auto", "required"] = "auto"
    tools: tuple[Mapping[str, Any], ...] = ()
    several: bool = True


FREE = Choice()


def chosen(choice: object, tools: Sequence[Mapping[str, Any]]) -> Choice:
    """What `choice` means for some declared tools, which are checked. Raises InputError."""
    if choice == "auto" or choice is None:
        return Choice("auto", tuple(tools))
    if choice == "none":
        return Choice("none", tuple(tools))
    if choice != "required" and not isinstance(choice, Mapping):
        raise InputError(f"tool_choice is {shown(choice)}, expected {EXPECTED}")
    if not tools:
        raise InputError("tool_choice asks for a call, and there are no tools; give some, or leave it out")
    if not isinstance(choice, Mapping):
        return Choice("required", tuple(tools))
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if choice.get("type", "function") != "function" or not isinstance(name, str):
        raise InputError(f"tool_choice is {shown(choice)}, expected {EXPECTED}")
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        known = ", ".join(tool["function"]["name"] for tool in tools)
        raise InputError(f"tool_choice names {shown(name)}, and the tools are {known}")
    return Choice("required", (named[0],), several=False)
