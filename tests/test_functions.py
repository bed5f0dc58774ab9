"""Python functions as tools: what the model is told of them, and what its arguments must be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest

from gemma4gguf import InputError, ToolCall, render
from gemma4gguf.chat.functions import Function


def book(  # noqa: D417 (some parameters are not described)
    city: str,
    nights: int,
    price: float = 10.0,
    quiet: bool = False,
    kind: Literal["single", "double"] = "single",
    extras: list[str] | None = None,
    notes: dict[str, int] = {},  # noqa: B006
    code: Optional[str] = None,  # noqa: UP045
) -> dict[str, Any]:
    """Book a room
    in a hotel.

    Args:
        city: where the hotel is
        nights (int): how long
    """
    return {"city": city, "nights": nights, "price": price, "extras": extras}


def test_a_signature_and_its_docstring_become_a_declaration() -> None:
    function = Function(book).declaration["function"]
    assert function == {
        "name": "book",
        "description": "Book a room in a hotel.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where the hotel is"},
                "nights": {"type": "integer", "description": "how long"},
                "price": {"type": "number"},
                "quiet": {"type": "boolean"},
                "kind": {"type": "string", "enum": ["single", "double"]},
                "extras": {"type": "array", "items": {"type": "string"}, "nullable": True},
                "notes": {"type": "object", "additionalProperties": {"type": "integer"}},
                "code": {"type": "string", "nullable": True},
            },
            "required": ["city", "nights"],
        },
    }
    text = render([{"role": "user", "content": "Hi"}], tools=[Function(book).declaration])
    assert "where the hotel is" in text


def no_words(x: int) -> int:
    return x


def test_a_function_without_words_is_declared_without() -> None:
    assert "description" not in str(Function(no_words).declaration)


def untyped(city) -> str:  # type: ignore[no-untyped-def]
    return str(city)


def of_bytes(data: bytes) -> None: ...
def of_either(value: int | str) -> None: ...
def of_keys(value: dict[int, str]) -> None: ...
def of_numbers(value: Literal[1, 2]) -> None: ...
def of_all(*cities: str) -> None: ...
def of_more(**cities: str) -> None: ...
def of_places(city: str, /) -> None: ...
def of_nested(value: list[list[bytes]]) -> None: ...
def of_nothing(value: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (untyped, "parameter city has no annotation"),
        (of_bytes, "parameter data is annotated bytes"),
        (of_either, "parameter value is annotated"),
        (of_keys, "parameter value is annotated"),
        (of_numbers, "parameter value is annotated"),
        (of_all, "parameter cities"),
        (of_more, "parameter cities"),
        (of_places, "parameter city"),
        (of_nested, "parameter value is annotated bytes"),
        (of_nothing, "of_nothing: its annotations cannot be read"),
        (lambda: "", "a function with a name"),
        (functools.partial(book), "a function with a name"),
        (7, "a function with a name"),
    ],
)
def test_what_cannot_be_declared_is_named(function: Callable[..., object], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        Function(function)
    assert "\n" not in str(caught.value)


def asked(**arguments: object) -> ToolCall:
    return ToolCall("book", dict(arguments), "call_0")


def test_a_call_gives_json_or_the_text_itself() -> None:
    said = Function(book).answer(asked(city="Ås", nights=2, price=1, extras=["tea"]))
    assert said == {
        "role": "tool",
        "tool_call_id": "call_0",
        "content": '{"city": "Ås", "nights": 2, "price": 1, "extras": ["tea"]}',
    }
    assert Function(no_words).answer(ToolCall("no_words", {"x": 3}, "a"))["content"] == "3"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"city": "Oslo"}, "missing nights"),
        ({"city": "Oslo", "nights": 1, "stars": 5}, "unknown stars"),
        ({"city": 7, "nights": 1}, "city must be"),
        ({"city": "Oslo", "nights": "two"}, "nights must be"),
        ({"city": "Oslo", "nights": 1.5}, "nights must be"),
        ({"city": "Oslo", "nights": True}, "nights must be"),
        ({"city": None, "nights": 1}, "city must be"),
        ({"city": "Oslo", "nights": 1, "kind": "suite"}, "kind must be"),
        ({"city": "Oslo", "nights": 1, "quiet": 1}, "quiet must be"),
        ({"city": "Oslo", "nights": 1, "extras": ["tea", 2]}, "extras must be"),
        ({"city": "Oslo", "nights": 1, "notes": {"a": "b"}}, "notes must be"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(arguments: dict[str, object], told: str) -> None:
    content = Function(book).answer(asked(**arguments))["content"]
    assert isinstance(content, str)
    assert content.startswith("error: ")
    assert told in content


def test_what_a_function_raises_reaches_the_caller() -> None:
    def broken(x: int) -> int:
        raise KeyError(x)

    with pytest.raises(KeyError):
        Function(broken).answer(ToolCall("broken", {"x": 3}, "a"))
