"""Replies taken apart: whole, in pieces of every size, and whatever the model makes of its marks."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gemma4gguf.chat.rendering import render
from gemma4gguf.chat.reply import Reply, ReplyParser, gather, parse_reply
from gemma4gguf.records import ToolCall

Q = '<|"|>'


def call(name: str, index: int = 0, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments, f"call_{index}")


def unread(text: str) -> Reply:
    return Reply(text, unreadable_calls=(text,))


F = "<|tool_call>call:f{a:1}<tool_call|>"
WHOLE: dict[str, tuple[str, Reply]] = {
    "nothing": ("", Reply("")),
    "text": (" Hello\n", Reply(" Hello\n")),
    "thought": ("<|channel>thought\nhm, \nyes\n<channel|>Yes.", Reply("Yes.", "hm, \nyes")),
    "empty thought": ("<|channel>thought\n<channel|>Yes.", Reply("Yes.")),
    "stray empty thought behind": ("Yes.<|channel>thought\n<channel|>", Reply("Yes.")),
    "thought without end": ("<|channel>thought\nhm\n", Reply("", "hm")),
    "only the mark": ("<|channel>", Reply("")),
    "half a mark": ("a<|chan", Reply("a<|chan")),
    "half a name": ("a<|channel>thou", Reply("athou")),
    "name alone": ("a<|channel>thought", Reply("a")),
    "another name": ("<|channel>final\nYes.", Reply("final\nYes.")),
    "a longer name": ("<|channel>thoughtful", Reply("thoughtful")),
    "trailing end": ("Yes.<channel|>", Reply("Yes.")),
    "two thoughts": (
        "<|channel>thought\na\n<channel|>x<|channel>thought\n \n<channel|>y<|channel>thought\n b <channel|>z",
        Reply("xyz", "a\nb"),
    ),
    "opened twice": ("<|channel>thought\na<|channel>thought\nb<channel|>c", Reply("c", "a\nb")),
    "opened twice at once": ("<|channel><|channel>thought\na<channel|>c", Reply("c", "a")),
    "stray mark in a thought": ("<|channel>thought\na<|channel>thoughtful<channel|>c", Reply("c", "athoughtful")),
    "call": (F, Reply("", "", (call("f", a=1),))),
    "call behind text": ("Let me see." + F, Reply("Let me see.", "", (call("f", a=1),))),
    "call behind a thought": ("<|channel>thought\nhm<channel|>" + F, Reply("", "hm", (call("f", a=1),))),
    "two calls": (F + F, Reply("", "", (call("f", a=1), call("f", 1, a=1)))),
    "extra end": (F + "<tool_call|>x", Reply("x", "", (call("f", a=1),))),
    "call without end": (F.removesuffix("<tool_call|>") + " ", Reply("", "", (call("f", a=1),))),
    "call without end before another": (
        F.removesuffix("<tool_call|>") + F,
        Reply("", "", (call("f", a=1), call("f", 1, a=1))),
    ),
    "call without arguments": ("<|tool_call>call:f{}<tool_call|>", Reply("", "", (call("f"),))),
    "end mark in a string": (
        f"<|tool_call>call:f{{a:{Q}x<tool_call|>}}<|channel>{Q}}}<tool_call|>y",
        Reply("y", "", (call("f", a="x<tool_call|>}<|channel>"),)),
    ),
    "call cut short": ("a<|tool_call>call:f{a:", Reply("a<|tool_call>call:f{a:", "", (), ("<|tool_call>call:f{a:",))),
    "call cut in its name": ("<|tool_call>call:get_wea", unread("<|tool_call>call:get_wea")),
    "malformed call": (
        "<|tool_call>f(1)<tool_call|>b",
        Reply("<|tool_call>f(1)<tool_call|>b", "", (), ("<|tool_call>f(1)<tool_call|>",)),
    ),
    "malformed call, then a call": (
        "<|tool_call>f(1)" + F,
        Reply("<|tool_call>f(1)", "", (call("f", a=1),), ("<|tool_call>f(1)",)),
    ),
    "two malformed calls": (
        "<|tool_call>f(1)<tool_call|>or<|tool_call>g(2)<tool_call|>",
        Reply(
            "<|tool_call>f(1)<tool_call|>or<|tool_call>g(2)<tool_call|>",
            unreadable_calls=("<|tool_call>f(1)<tool_call|>", "<|tool_call>g(2)<tool_call|>"),
        ),
    ),
    "string without end": (
        f"<|tool_call>call:f{{a:{Q}x}}<tool_call|>y<|channel>thought\nz<channel|>",
        Reply(f"<|tool_call>call:f{{a:{Q}x}}<tool_call|>y", "z", (), (f"<|tool_call>call:f{{a:{Q}x}}<tool_call|>",)),
    ),
    "string and call without end": (f"<|tool_call>call:f{{a:{Q}x", unread(f"<|tool_call>call:f{{a:{Q}x")),
}


def in_pieces(text: str, sizes: list[int], thinking_open: bool = False) -> Reply:
    parser = ReplyParser(thinking_open)
    deltas = []
    for size in sizes:
        deltas += parser.feed(text[:size])
        text = text[size:]
    return gather(deltas + parser.feed(text) + parser.finish())


@pytest.mark.parametrize("name", WHOLE)
def test_whole_and_in_pieces(name: str) -> None:
    text, expected = WHOLE[name]
    assert parse_reply(text) == expected
    for size in (1, 2, 3, 7):
        assert in_pieces(text, [size] * len(text)) == expected


def test_thinking_open() -> None:
    expected = Reply("4 C.", "so", (call("f", a=1),))
    for text in ("so\n<channel|>4 C." + F, "<|channel>thought\nso<channel|>4 C." + F):
        assert parse_reply(text, thinking_open=True) == expected
        assert in_pieces(text, [1] * len(text), thinking_open=True) == expected
    assert parse_reply("4 C.<channel|>", thinking_open=True) == Reply("", "4 C.")


def test_text_is_given_as_soon_as_it_is_certain() -> None:
    parser = ReplyParser()
    given = [gather(parser.feed(piece)).text for piece in ("a", "b <", "|", "chan", "ge", " <", "b>")]
    assert given == ["a", "b ", "", "", "<|change", " ", "<b>"]


def test_deltas_keep_the_order() -> None:
    parser = ReplyParser()
    deltas = parser.feed("a" + F + "b<|channel>thought\nc<channel|>d") + parser.finish()
    assert [(delta.kind, delta.text) for delta in deltas] == [
        ("text", "a"),
        ("tool_call", ""),
        ("text", "b"),
        ("thought", "c"),
        ("text", "d"),
    ]


def test_ids_can_be_chosen() -> None:
    parser = ReplyParser(call_id=lambda index: f"turn3-{index}")
    assert [made.id for made in gather(parser.feed(F + F)).tool_calls] == ["turn3-0", "turn3-1"]


def test_openai_form() -> None:
    made = call("f", city="Oslø", n=[1, None]).openai()
    assert made == {
        "id": "call_0",
        "type": "function",
        "function": {"name": "f", "arguments": '{"city": "Oslø", "n": [1, null]}'},
    }


def random_value(random_: random.Random, depth: int = 0) -> Any:
    kind = random_.randrange(8 if depth < 3 else 6)
    if kind == 0:
        return "".join(random_.choices("ab {}[]:,'\"\\\n<|>é👋", k=random_.randrange(9)))
    if kind == 6:
        return [random_value(random_, depth + 1) for _ in range(random_.randrange(4))]
    if kind == 7:
        return {f"k{random_.randrange(99)}": random_value(random_, depth + 1) for _ in range(random_.randrange(4))}
    return random_.choice(
        [True, False, None, random_.randrange(-9999, 9999), random_.uniform(-1, 1) * 10.0**30, 0, 1.0]
    )


def test_what_the_template_writes_is_read_back() -> None:
    random_ = random.Random(11)
    for _ in range(200):
        arguments = {f"a{number}": random_value(random_) for number in range(random_.randrange(4))}
        function = {"name": "f", "arguments": arguments}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [{"function": function}]},
        ]
        written = render(messages).partition("<|turn>model\n")[2].removesuffix("<|tool_response>")
        reply = parse_reply(written)
        assert reply == Reply("", "", (ToolCall("f", arguments, "call_0"),))
        call: Any = reply.tool_calls[0].openai()["function"]
        assert json.loads(call["arguments"]) == arguments


MARKS = ["<|channel>", "<channel|>", "<|channel>thought\n", "<|tool_call>", "<tool_call|>", Q, "<|tool_call>call:f{a:"]
FILLING = ["call:f{", "}", "{", "[", "]", ",", ":", "1", "true", " ", "\n", "<", "|", "<|", F, f"{Q}s{Q}", "<|turn>"]


def test_any_mixture_of_marks_loses_no_word_and_does_not_depend_on_the_pieces() -> None:
    random_ = random.Random(5)
    for _ in range(3000):
        words = iter(f"w{number}w" for number in range(99))
        items = [
            random_.choice([random_.choice(MARKS), random_.choice(FILLING), ""]) for _ in range(random_.randrange(14))
        ]
        items = [item or next(words) for item in items]
        text = "".join(items)
        thinking_open = random_.random() < 0.2
        reply = parse_reply(text, thinking_open)
        kept = reply.text + reply.thought + repr(reply.tool_calls)
        assert all(item in kept for item in items if item.startswith("w")), text
        ordinary = [char for char in text if char.isalnum()]
        assert sum(char.isalnum() for char in reply.text + reply.thought) <= len(ordinary)
        sizes = [random_.randrange(1, 9) for _ in text]
        assert in_pieces(text, sizes, thinking_open) == reply, text
        assert in_pieces(text, [1] * len(text), thinking_open) == reply, text


def test_without_marks_every_character_is_text() -> None:
    random_ = random.Random(6)
    for _ in range(500):
        text = "".join(
            random_.choices(["<", "|", ">", "<|", "chan", "nel", "tool", "_call", " ", "\n", "thought"], k=12)
        )
        if not any(mark in text for mark in MARKS):
            assert parse_reply(text) == Reply(text)
