"""Python functions as tools: a signature, its annotations and its docstring become a declaration.

A function comes in; a declaration as the OpenAI API has it goes out, and calls with the model's arguments, which are
untrusted: they are held against the annotations first. Does not know messages or models.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import InputError
from ..records import ToolCall

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SECTION = re.compile(r"^(?:Args|Arguments|Parameters):\s*$", re.MULTILINE)
_DESCRIBED = re.compile(r"^\s+(\w+)\s*(?:\([^)]*\))?:\s*(.+)$", re.MULTILINE)
SUPPORTED = "str, int, float, bool, list[…], dict[str, …], Literal[…], and each of them or None"


class Function:
    """A Python function that a model may call. `declaration`: what the model is told about it."""

    def __init__(self, function: Callable[..., object]) -> None:
        """Raises InputError that names the parameter where one cannot be declared."""
        self._function: Callable[..., Any] = function
        self.name: str = getattr(function, "__name__", "")
        if not callable(function) or not self.name.isidentifier():
            raise InputError(f"tools: expected a declaration or a function with a name, found {function!r}")
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError) as error:
            raise InputError(f"{self.name}: its annotations cannot be read ({error})") from error
        text = inspect.getdoc(function) or ""
        head, *rest = _SECTION.split(text, maxsplit=1)
        described = dict(_DESCRIBED.findall(rest[0])) if rest else {}
        self._schemas: dict[str, dict[str, Any]] = {}
        self._required: list[str] = []
        for name, parameter in inspect.signature(function).parameters.items():
            where = f"{self.name}: parameter {name}"
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InputError(f"{where}: a model gives arguments by name; *, ** and / cannot be declared")
            if name not in hints:
                raise InputError(f"{where} has no annotation; expected {SUPPORTED}")
            schema = _schema(hints[name], where)
            self._schemas[name] = schema | ({"description": described[name].strip()} if name in described else {})
            if parameter.default is parameter.empty:
                self._required.append(name)
        parameters = {"type": "object", "properties": self._schemas, "required": self._required}
        description = " ".join(head.split())
        told = {"name": self.name, **({"description": description} if description else {}), "parameters": parameters}
        self.is_async = inspect.iscoroutinefunction(function)
        self.declaration: dict[str, object] = {"type": "function", "function": told}

    def answer(self, call: ToolCall) -> dict[str, object]:
        """The tool message for a call: what the function returned, or what is wrong with the arguments.

        What the function raises goes on to the caller.
        """
        wrong = self._wrong(call.arguments)
        return call.answer(f"error: {wrong}" if wrong else _text(self._function(**call.arguments)))

    async def aanswer(self, call: ToolCall) -> dict[str, object]:
        """The same for a coroutine: a coroutine function is awaited, any other is called in a thread."""
        if not self.is_async:
            return await asyncio.to_thread(self.answer, call)
        wrong = self._wrong(call.arguments)
        return call.answer(f"error: {wrong}" if wrong else _text(await self._function(**call.arguments)))

    def _wrong(self, arguments: Mapping[str, object]) -> str:
        """What is wrong with the arguments, for the model to read; empty where nothing is."""
        missing = [name for name in self._required if name not in arguments]
        unknown = [name for name in arguments if name not in self._schemas]
        if missing or unknown:
            found = "missing " + missing[0] if missing else "unknown " + unknown[0]
            return f"{self.name} takes {', '.join(self._schemas) or 'no arguments'}; {found}"
        bad = [name for name, value in arguments.items() if not _holds(value, self._schemas[name])]
        return f"{bad[0]} must be {json.dumps(self._schemas[bad[0]], ensure_ascii=False)}" if bad else ""


def _text(result: object) -> str:
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def _schema(kind: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if kind is list or origin is list:
        return {"type": "array", **({"items": _schema(inner[0], where)} if inner else {})}
    if kind is dict or (origin is dict and inner[0] is str):
        return {"type": "object", **({"additionalProperties": _schema(inner[1], where)} if inner else {})}
    if origin is Literal and all(type(value) is str for value in inner):
        return {"type": "string", "enum": list(inner)}
    if origin in (Union, types.UnionType):
        some = [part for part in inner if part is not type(None)]
        if len(some) == 1 and len(some) < len(inner):
            return _schema(some[0], where) | {"nullable": True}
    raise InputError(f"{where} is annotated {getattr(kind, '__name__', kind)}; expected {SUPPORTED}")


def _holds(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is of a schema that `_schema` made."""
    if value is None:
        return bool(schema.get("nullable", False))
    kind = schema["type"]
    if kind == "array":
        return isinstance(value, list) and all(_holds(item, schema["items"]) for item in value if "items" in schema)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return isinstance(value, dict) and (inner is None or all(_holds(item, inner) for item in value.values()))
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    accepted: tuple[type, ...] = {"string": (str,), "integer": (int,), "number": (int, float)}[kind]
    return isinstance(value, accepted) and value in schema.get("enum", [value])
