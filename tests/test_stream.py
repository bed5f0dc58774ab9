"""Streams: however the bytes are cut, the pieces are whole characters and add up to what they are at once."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest

from gemma4gguf.chat.reply import ReplyParser, parse_reply
from gemma4gguf.chat.stream import Characters, ReplyStream, StopStrings
from gemma4gguf.errors import InputError
from gemma4gguf.records import Chunk, FinishReason, ToolCall

CHARACTERS = ["a", "b", " ", "\n", "é", "ß", "日", "本", "👋", "👩‍👩‍👧", "e\u0301", "\u0000", "\uffff", "🇳🇴"]
BROKEN = [b"\xff", b"\xc3", b"\xe6\x97", b"\xf0\x9f\x91", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]


def cut(data: bytes, random_: random.Random) -> list[bytes]:
    pieces = []
    while data:
        size = random_.randrange(0, 5)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def stopped_at_once(text: str, stops: list[str]) -> str:
    """Slow and plain: after every character, does the text so far end with a stop string? The longest counts."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def test_whole_characters_only() -> None:
    characters = Characters()
    given = [characters.feed(bytes([byte])) for byte in "aé日👋".encode()]
    assert given == ["a", "", "é", "", "", "日", "", "", "", "👋"]
    assert characters.finish() == ""


def test_half_a_character_at_the_end() -> None:
    characters = Characters()
    assert characters.feed("ab👋".encode()[:-1]) == "ab"
    assert characters.finish() == "\ufffd"


def test_characters_do_not_depend_on_the_cut() -> None:
    random_ = random.Random(1)
    for _ in range(500):
        items = [
            random_.choice(BROKEN) if random_.random() < 0.2 else random_.choice(CHARACTERS).encode()
            for _ in range(random_.randrange(12))
        ]
        data = b"".join(items)
        characters = Characters()
        text = "".join(characters.feed(piece) for piece in cut(data, random_)) + characters.finish()
        assert text == data.decode("utf-8", errors="replace")


def streamed(pieces: Iterable[bytes], stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to a stop string, and whether there was one."""
    characters, found = Characters(), StopStrings(stops)
    text = "".join(found.feed(characters.feed(piece)) for piece in pieces)
    return text + found.feed(characters.finish()) + found.finish(), found.stopped


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ([], "abc", "abc"),
        (["c"], "abcd", "ab"),
        (["x"], "abc", "abc"),
        (["bcd"], "abc", "abc"),
        (["abc"], "ababc", "ab"),
        (["aab"], "aaaab", "aa"),
        (["abcd", "bc"], "abcd", "a"),
        (["c", "bc", "abc"], "xabc", "x"),
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        (["日"], "a日", "a"),
    ],
)
def test_stop_strings(stops: list[str], text: str, expected: str) -> None:
    assert stopped_at_once(text, stops) == expected
    for size in (1, 2, 100):
        data = text.encode()
        given = streamed((data[at : at + size] for at in range(0, len(data), size)), stops)
        assert given == (expected, expected != text)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stops = StopStrings(["abc", "bd"])
    assert [stops.feed(char) for char in "xabxab"] == ["x", "", "", "abx", "", ""]
    assert stops.feed("d") == "a"
    assert stops.stopped
    assert (stops.feed("more"), stops.finish()) == ("", "")


def test_streams_do_not_depend_on_the_cut() -> None:
    random_ = random.Random(2)
    alphabet = ["a", "b", "ab", "é", "👋", "\n"]
    for _ in range(1500):
        text = "".join(random_.choices(alphabet, k=random_.randrange(20)))
        stops = ["".join(random_.choices(alphabet, k=random_.randrange(1, 4))) for _ in range(random_.randrange(4))]
        given = streamed(cut(text.encode(), random_), stops)
        assert given == (stopped_at_once(text, stops), any(stop in text for stop in stops))


@pytest.mark.parametrize("stops", ["", [""], ["a", ""], [1], [None], [b"a"]])
def test_stop_strings_that_are_none(stops: object) -> None:
    with pytest.raises(InputError, match=r"stop\[\d\]: expected a text of at least one character"):
        StopStrings(stops)  # type: ignore[arg-type]


def test_one_stop_string_may_stand_alone() -> None:
    assert StopStrings("end").feed("the end") == "the "


def test_a_stop_string_does_not_reach_across_a_call_or_a_thought() -> None:
    written = "a<|tool_call>call:f{a:1}<tool_call|>b<|channel>thought\nx\n<channel|>c"
    for size in (1, 100):
        chunks = chunks_of(written, ReplyStream(["ab", "bc", "abc"]), size)
        assert [(c.text, bool(c.tool_calls), c.thought) for c in chunks if c.text or c.tool_calls or c.thought] == [
            ("a", False, ""), ("", True, ""), ("b", False, ""), ("", False, "x"), ("c", False, "")
        ]  # fmt: skip


def test_an_answer_that_calls_nothing_ends_for_another_reason() -> None:
    """The model's end token for a tool's turn may also follow a broken call: there is nothing to answer to."""
    for written in ("text", "<|tool_call>call:f{a:<tool_call|>"):
        *_, last = chunks_of(written, ReplyStream(), 100)
        assert last.finish_reason == "stop"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_unreadable_calls_are_text_and_are_listed(size: int) -> None:
    broken = "<|tool_call>f(1)<tool_call|>"
    stream = ReplyStream()
    chunks = chunks_of(f"a{broken}b<|tool_call>call:f{{a:1}}<tool_call|>{broken}", stream, size)
    assert "".join(chunk.text for chunk in chunks) == f"a{broken}b{broken}"
    assert stream.unreadable_calls == (broken, broken)
    for stop, listed in (("<tool", ()), ("b", (broken,)), ("none", (broken,))):
        stream = ReplyStream(stop)
        chunks_of(f"a{broken}b", stream, size)
        assert stream.unreadable_calls == listed


CALL = ToolCall("f", {"a": 1}, "call_0")
WRITTEN = "<|channel>thought\nso: end\n<channel|>One, <|tool_call>call:f{a:1}<tool_call|>two, end, three"


def chunks_of(text: str, stream: ReplyStream, size: int, reason: FinishReason = "stop") -> list[Chunk]:
    data = text.encode()
    given = [chunk for at in range(0, len(data), size) for chunk in stream.feed(data[at : at + size])]
    return given + stream.finish(reason)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_replies_to_chunks(size: int) -> None:
    chunks = chunks_of(WRITTEN, ReplyStream(), size)
    assert "".join(chunk.text for chunk in chunks) == "One, two, end, three"
    assert "".join(chunk.thought for chunk in chunks) == "so: end"
    assert [call for chunk in chunks for call in chunk.tool_calls] == [CALL]
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["tool_calls"]
    assert all(chunk != Chunk() for chunk in chunks)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_stop_strings_end_the_text_and_not_the_thought(size: int) -> None:
    stream = ReplyStream("end")
    chunks = chunks_of(WRITTEN, stream, size)
    assert stream.stopped
    assert "".join(chunk.text for chunk in chunks) == "One, two, "
    assert "".join(chunk.thought for chunk in chunks) == "so: end"


def test_nothing_comes_after_a_stop_string() -> None:
    stream = ReplyStream("x")
    chunks = chunks_of("ax<|tool_call>call:f{}<tool_call|><|channel>thought\nb<channel|>c", stream, 1000)
    assert chunks == [Chunk("a"), Chunk(finish_reason="stop")]


def test_finish_reasons() -> None:
    assert chunks_of("abc", ReplyStream(), 1, "length")[-1] == Chunk(finish_reason="length")
    assert chunks_of("ab", ReplyStream("bc"), 1)[-1] == Chunk("b", finish_reason="stop")
    cut_short = chunks_of("<|tool_call>call:f{}<tool_call|>and", ReplyStream(), 1, "length")
    assert cut_short[-1].finish_reason == "length"
    assert chunks_of("", ReplyStream(), 1) == [Chunk(finish_reason="stop")]


def stopped_in_a_run(text: str, opened: bool, stops: list[str]) -> str:
    """The reply's text up to a stop string that lies within one run of it, between thoughts and calls."""
    parser, given = ReplyParser(opened), ""
    deltas = parser.feed(text) + parser.finish()
    for is_text, run in itertools.groupby(deltas, lambda delta: delta.kind == "text"):
        whole = "".join(delta.text for delta in run)
        given += (cut_short := stopped_at_once(whole, stops)) if is_text else ""
        if is_text and cut_short != whole:
            break
    return given


def test_replies_do_not_depend_on_the_cut() -> None:
    random_ = random.Random(3)
    alphabet = ["<|channel>thought\n", "<channel|>", "<|tool_call>call:f{a:1}<tool_call|>", "<", "a", "é", "👋", " "]
    for _ in range(500):
        text = "".join(random_.choices(alphabet, k=random_.randrange(20)))
        opened = random_.random() < 0.3
        stops = random_.choices(["aa", "é", "<a"], k=random_.randrange(2))
        stream = ReplyStream(stops, ReplyParser(opened))
        chunks = [chunk for piece in cut(text.encode(), random_) for chunk in stream.feed(piece)]
        chunks += stream.finish("stop")
        reply = parse_reply(text, opened)
        assert "".join(chunk.text for chunk in chunks) == stopped_in_a_run(text, opened, stops)
        if not stops:
            assert "".join(chunk.thought for chunk in chunks) == reply.thought
            assert tuple(call for chunk in chunks for call in chunk.tool_calls) == reply.tool_calls
