"""Values that are none, in the places of a conversation: what `scripts/fuzz templates` found, and relatives."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gemma4gguf.arguments import shown, whole
from gemma4gguf.chat.choice import chosen
from gemma4gguf.chat.rendering import compose, render
from gemma4gguf.errors import Gemma4Error, InputError
from gemma4gguf.forms.response import response_grammar
from gemma4gguf.limits import VARIABLE, Limits, current, limited

HI = [{"role": "user", "content": "Hi"}]


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


SHARED = [{str(n): n for n in range(20_000)}] * 1000  # 20 million entries for whoever prints them
HUGE = 10**5000  # Python writes no number of so many digits
ODD: dict[str, Any] = {
    "bytes": b"x",
    "a number": 1,
    "a huge number": HUGE,
    "None": None,
    "a deep list": deep(5000),
    "a shared list": SHARED,
    "a text": "yes",
    "an object": object(),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("flag", ["thinking", "add_generation_prompt"])
def test_a_flag_that_is_none(flag: str, name: str) -> None:
    """It went to the template: through JSON for a stranger's, which let TypeError and RecursionError out."""
    for template in (None, "{{ messages[0].content }}"):
        with pytest.raises(InputError, match=f"{flag} is .*, expected True or False"):
            render(HI, template=template, **{flag: ODD[name]})


PLACES: dict[str, Any] = {
    "messages": lambda v: compose(v),
    "a message": lambda v: compose([v]),
    "role": lambda v: compose([{"role": v, "content": "x"}]),
    "content": lambda v: compose([{"role": "user", "content": v}]),
    "a part": lambda v: compose([{"role": "user", "content": [v]}]),
    "a part's type": lambda v: compose([{"role": "user", "content": [{"type": v}]}]),
    "an address": lambda v: compose([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": v}}]}]),
    "tools": lambda v: compose(HI, v),
    "a tool": lambda v: compose(HI, [v]),
    "a call": lambda v: compose([{"role": "assistant", "tool_calls": [v]}]),
    "a call's name": lambda v: compose([{"role": "assistant", "tool_calls": [{"function": {"name": v}}]}]),
    "a call's id": lambda v: compose([*HI, {"role": "tool", "content": "x", "tool_call_id": v}]),
    "a schema": lambda v: compose(HI, [{"type": "function", "function": {"name": "f", "parameters": v}}]),
    "a template option": lambda v: compose(HI, None, mood=[v]),
    "tool_choice": lambda v: chosen(v, [{"function": {"name": "f"}}]),
    "response_format": lambda v: response_grammar(v),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("place", PLACES)
def test_a_value_that_is_none_is_told_in_one_line(place: str, name: str) -> None:
    begun, told = time.process_time(), ""
    try:
        PLACES[place](ODD[name])
    except Gemma4Error as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 500
    assert time.process_time() - begun < 5


SHOWN = {**ODD, "controls": "é\n\x1b" * 100, "more": {"a": SHARED}, "a list of one": [HUGE], "NaN": float("nan")}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_short_and_printable(name: str) -> None:
    value = SHOWN[name]
    begun = time.process_time()
    assert len(shown(value)) <= 60
    assert shown(value).isprintable()
    with pytest.raises(InputError, match=r"^x is .*, expected a number$"):
        whole("x", value, lambda n: n < 0, "a number")
    assert time.process_time() - begun < 1


PART = {"type": "text", "text": "x"}
CALL = {"function": {"name": "f", "arguments": {"a": [1, {"b": "c"}]}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
MANY: dict[str, Any] = {
    "messages": lambda n: compose(HI * n),
    "messages[0].content": lambda n: compose([{"role": "user", "content": [PART] * n}]),
    "messages[1].tool_calls": lambda n: compose([*HI, {"role": "assistant", "tool_calls": [CALL] * n}]),
    "tools": lambda n: compose(HI, [TOOL] * n),
}


@pytest.mark.parametrize("place", MANY)
def test_more_than_anybody_sends(place: str) -> None:
    """20,000 tools took 5 s of processor, 100,001 messages minutes."""
    begun = time.process_time()
    with pytest.raises(InputError) as told:
        MANY[place](100_001)
    assert str(told.value).startswith(f"{place}: expected at most 1")
    assert time.process_time() - begun < 5
    assert MANY[place](2).segments


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_limits_hold_inside_their_block_and_in_their_order() -> None:
    with limited(messages=5, depth=3):
        with limited(messages=1):
            assert (current().messages, current().depth) == (1, 3)
            with pytest.raises(InputError, match="at most 1, found 3"):
                render([*HI, {"role": "assistant", "content": "x"}, *HI])
        assert current().messages == 5
    assert current() == Limits()


def test_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "picture_bytes=1e9, sound_seconds=0.5  messages=7")
    assert (current().picture_bytes, current().sound_seconds, current().messages) == (10**9, 0.5, 7)
    assert isinstance(current().picture_bytes, int)
    with limited(depth=9):
        assert current().messages == 7


@pytest.mark.parametrize(
    "text", ["pixels=3", "messages", "messages=", "messages=x", "messages=-1", "messages=nan", "=1"]
)
def test_limits_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InputError, match=VARIABLE):
        current()


@pytest.mark.parametrize("value", [-1, True, "9", None, float("inf")])
def test_a_limit_is_a_number(value: Any) -> None:
    with pytest.raises(InputError, match=r"limited: messages is .*, expected a number from 0"), limited(messages=value):
        pass


def test_a_strangers_template_is_held_to_the_limits_of_whoever_asks() -> None:
    template = "{% for i in range(100) %}{{ messages[0].content }}{% endfor %}"
    assert len(render(HI, template=template)) == 200
    with limited(text_chars=100), pytest.raises(Gemma4Error, match="more than 100 characters"):
        render(HI, template=template)
    assert len(render(HI, template=template)) == 200
