"""A conversation keeps what was said and shown, calls its tools, makes room, and survives what goes wrong."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gemma4gguf import Chunk, ContextError, Conversation, ConversionError, Gemma4, InputError, Message, ToolCall
from gemma4gguf.cli.chat.conversation import Conversation as CommandLineChat

MODELS = Path(__file__).parents[1] / "models"
DIGITS, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
WEATHER = "What is the weather in Oslo?"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=1024) as opened:
        yield opened


def get_weather(city: str) -> str:
    """Current weather for a city."""
    return "4 C and rain" if city == "Oslo" else "unknown"


def forget(city: str) -> str:
    """Current weather for a city."""
    raise LookupError(city)


DECLARED = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_turns_are_those_of_chat_and_cost_only_what_is_new(model: Gemma4) -> None:
    chat = model.conversation(system="Answer in one short sentence.")
    messages: list[Message] = [{"role": "system", "content": "Answer in one short sentence."}]
    for question in ("My name is Ada.", "What is my name?"):
        messages.append({"role": "user", "content": question})
        expected = model.chat(messages, **GREEDY)
        answer = chat.say(question, **GREEDY)
        assert (answer.text, answer.tokens.prompt) == (expected.text, expected.tokens.prompt)
        messages.append(expected.message())
        assert chat.messages == messages
    shown = chat.say("What number is this?", images=DIGITS, **GREEDY)
    assert chat.say("Thanks.", **GREEDY).tokens.reused > shown.tokens.image


def test_it_goes_on_from_messages(model: Gemma4) -> None:
    chat = model.conversation(system="Be brief.")
    chat.say("My name is Ada.", **GREEDY)
    again = model.conversation(messages=chat.messages)
    assert again.say("What is my name?", **GREEDY).text == chat.say("What is my name?", **GREEDY).text
    assert again.messages == chat.messages
    with pytest.raises(InputError, match=r"messages\[0\]"):
        model.conversation(messages=[{"role": "nobody", "content": "Hi"}])


def test_media_are_kept_whatever_becomes_of_their_source(model: Gemma4, tmp_path: Path) -> None:
    path = tmp_path / "shown.png"
    path.write_bytes(DIGITS.read_bytes())
    with Image.open(DIGITS) as picture:
        pixels = np.array(picture.convert("RGB"))
        ways: list[Any] = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), pixels, picture]
        texts = []
        for way in ways:
            chat = model.conversation()
            first = chat.say("What number is this?", images=way, **GREEDY).text
            path.write_bytes(b"")
            pixels_before, pixels[:] = pixels.copy(), 0
            chat.undo()
            texts.append((first, json.dumps(chat.messages)))
            path.write_bytes(DIGITS.read_bytes())
            pixels[:] = pixels_before
    assert {first for first, _ in texts} == {"I read the number 4072."}
    rate, samples = 8000, (np.sin(np.arange(9_999) / 9) * 20_000).astype(np.int16)
    for clip in (NUMBER, NUMBER.read_bytes(), (samples, rate)):
        heard = model.conversation().say("What is said?", audio=clip, **GREEDY)
        direct = model.generate("What is said?", audio=clip, **GREEDY)
        assert (heard.text, heard.tokens.audio) == (direct.text, direct.tokens.audio)
        assert direct.tokens.reused == direct.tokens.prompt - 1, "the same soft tokens"


def test_forks_go_their_own_ways_and_undo_takes_a_turn_back(model: Gemma4) -> None:
    chat = model.conversation()
    chat.say("My name is Ada.", **GREEDY)
    before = chat.messages
    fork = chat.fork()
    fork.say("What is my name?", **GREEDY)
    assert chat.messages == before == fork.messages[:2]
    fork.undo()
    assert fork.messages == before
    fork.undo()
    assert fork.messages == []
    with pytest.raises(InputError, match="no question to take back"):
        fork.undo()
    assert chat.say("What is my name?", **GREEDY).text


def test_what_fails_or_is_left_changes_nothing(model: Gemma4) -> None:
    chat = model.conversation(system="Be brief.")
    chat.say("Hi", **GREEDY)
    before = chat.messages
    for wrong in (
        {"text": "See?", "images": "nowhere.png"},
        {"text": "See?", "images": b"no picture"},
        {"text": "Hear?", "audio": b"no sound"},
        {"text": "Hi", "temprature": 1},
        {"text": 7},
        {"text": None},
        {"text": "word " * 2000},
    ):
        with pytest.raises((InputError, ContextError)):
            chat.say(**wrong)
        assert chat.messages == before
    stream = chat.stream("Count.", **GREEDY)
    next(stream)
    stream.close()
    assert chat.messages == before
    for chunk in chat.stream("Who are you?", **GREEDY):
        if chunk.result:
            break  # whoever leaves after the last chunk has had the answer
    assert len(chat.messages) == len(before) + 2


def test_two_questions_at_once_do_not_mix(model: Gemma4) -> None:
    chat = model.conversation()
    late = chat.stream("Who are you?", **GREEDY)
    chat.say("Hi", **GREEDY)
    before = chat.messages
    with pytest.raises(InputError, match="went on before this answer ended"):
        list(late)
    assert chat.messages == before


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_functions_are_called_until_there_is_an_answer(model: Gemma4) -> None:
    chat = model.conversation(tools=[get_weather])
    chunks = list(chat.stream(WEATHER, **GREEDY))
    assert [c.result.finish_reason for c in chunks if c.result] == ["tool_calls", "stop"]
    assert chunks[-1].result is not None
    assert chunks[-1].result.text == "It is 4 C and rain in Oslo."
    assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "assistant"]


def test_declared_tools_are_answered_by_the_caller(model: Gemma4) -> None:
    chat = model.conversation(tools=[DECLARED])
    (call,) = chat.say(WEATHER, **GREEDY).tool_calls
    with pytest.raises(InputError, match="1 tool calls wait for an answer"):
        chat.say("Well?", **GREEDY)
    with pytest.raises(InputError, match="does not wait"):
        chat.tool_result(ToolCall("get_weather", {}, "another"), "4 C")
    chat.tool_result(call, "4 C and rain")
    with pytest.raises(InputError, match="does not wait"):
        chat.tool_result(call, "5 C")
    assert chat.say(**GREEDY).text == "It is 4 C and rain in Oslo."
    with pytest.raises(InputError, match="only after tool_result"):
        chat.say(**GREEDY)


@pytest.mark.parametrize(("allowed", "told"), [(False, "refused"), ("not today", "refused: not today"), (True, "4 C")])
def test_a_hook_refuses(model: Gemma4, allowed: bool | str, told: str) -> None:
    seen: list[ToolCall] = []

    def allow(call: ToolCall) -> bool | str:
        seen.append(call)
        return allowed

    chat = model.conversation(tools=[get_weather], allow=allow)
    chat.say(WEATHER, **GREEDY)
    assert [(call.name, call.arguments) for call in seen] == [("get_weather", {"city": "Oslo"})]
    assert told in str(chat.messages[2]["content"])


def test_an_error_in_a_function_reaches_the_caller_and_loses_nothing(model: Gemma4) -> None:
    forget.__name__ = "get_weather"
    chat = model.conversation(tools=[forget])
    with pytest.raises(LookupError, match="Oslo"):
        chat.say(WEATHER, **GREEDY)
    assert chat.messages == []
    with pytest.raises(InputError, match="two functions are called get_weather"):
        model.conversation(tools=[forget, get_weather])


class Forgetful:
    """The model, which is shown no tool's answer: so it asks for the call again and again."""

    def __init__(self, model: Gemma4) -> None:
        self._model, self.count_tokens, self.astream_chat = model, model.count_tokens, model.astream_chat

    def stream_chat(self, messages: Sequence[Message], **how: Any) -> Generator[Chunk, None, None]:
        return self._model.stream_chat([m for m in messages if m["role"] == "user"], **how)


def test_calls_have_a_limit(model: Gemma4) -> None:
    chat = Conversation(Forgetful(model), tools=[get_weather], most_calls=3)
    assert chat.say(WEATHER, **GREEDY).finish_reason == "tool_calls"
    assert [m["role"] for m in chat.messages].count("tool") == 3
    with pytest.raises(InputError, match="wait for an answer"):
        chat.say("And now?", **GREEDY)


# ── a full context ───────────────────────────────────────────────────────────────────────────────────────────────


def test_fifty_turns_past_the_context_drop_whole_turns_and_say_so(tiny_bundle: Path) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
    exact: dict[str, Any] = {"context": 512, "kv_type": "f32", "flash_attention": "off", "draft": "off", "threads": 1}
    with Gemma4(tiny_bundle, **exact) as model, Gemma4(tiny_bundle, cache_memory=0, **exact) as cold:
        chat, asked, sizes = model.conversation(system="Be brief."), 0, []
        while chat.dropped < 50:
            asked += 1
            picture = np.full((96, 96, 3), asked % 256, np.uint8) if asked % 2 else None
            before = chat.dropped
            result = chat.say(f"What is {asked} + 1?", images=picture, **options)
            assert result.dropped_turns == chat.dropped - before
            assert result.tokens.prompt + 6 <= 512
            assert sum(m["role"] == "user" for m in chat.messages) + chat.dropped == asked, "whole turns, none lost"
            assert chat.messages[0] == {"role": "system", "content": "Be brief."}
            assert [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * (len(chat.messages) // 2)
            sizes.append(len(json.dumps(chat.messages)))
            if result.dropped_turns and chat.dropped % 3 == 0:
                assert cold.chat(chat.messages[:-1], **options).text == result.text
        first, second = sizes[: len(sizes) // 2], sizes[len(sizes) // 2 :]
        assert max(second) <= 1.1 * max(first), "nothing piles up"
        assert sum(b > a for a, b in pairwise(sizes)) > len(sizes) // 2, "a drop makes room for turns"


def test_on_full_error_keeps_the_conversation(tiny_bundle: Path) -> None:
    with Gemma4(tiny_bundle, context=256) as model:
        chat = model.conversation(on_full="error")
        for number in range(2):
            chat.say(f"{number}?", images=np.full((96, 96, 3), number, np.uint8), **GREEDY)
        before = chat.messages
        with pytest.raises(ContextError, match=r"the prompt has [\d,]+ tokens .*context holds 256"):
            chat.say("What?", images=[DIGITS] * 3, **GREEDY)
        assert chat.messages == before
        assert chat.dropped == 0
        chat.undo()
        assert chat.say("Hi", **GREEDY).text


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_late_sound_goes_first_or_is_warned_of(model: Gemma4) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chat = model.conversation()
        chat.say("What? " + "word " * 450, images=DIGITS, audio=NUMBER, **GREEDY)
    (question, _) = chat.messages
    assert [part["type"] for part in question["content"]] == ["input_audio", "image_url", "text"]  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match=r"sound begins at position \d+ of the prompt"):
        chat.say("What is said?", audio=NUMBER, **GREEDY)
    early = model.conversation()
    early.say("What?", images=DIGITS, audio=NUMBER, **GREEDY)
    assert [part["type"] for part in early.messages[0]["content"]] == ["image_url", "text", "input_audio"]  # type: ignore[attr-defined]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_saved_conversation_goes_on(tiny_bundle: Path, model: Gemma4, tmp_path: Path) -> None:
    chat = model.conversation(system="Be brief.", tools=[get_weather])
    chat.say("What number is this?", images=DIGITS, audio=NUMBER, **GREEDY)
    chat.say(WEATHER, **GREEDY)
    path = tmp_path / "chat.json"
    chat.save(path)
    chat.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["chat.json"]
    with Gemma4(tiny_bundle, context=1024) as another:
        opened = Conversation.open(another, path, tools=[get_weather])
        assert opened.messages == chat.messages
        assert opened.say(WEATHER, **GREEDY).text == chat.say(WEATHER, **GREEDY).text
        declared = Conversation.open(another, path)
        declared.undo()
        declared.undo()
        assert declared.say(WEATHER, **GREEDY).finish_reason == "tool_calls", "functions are saved as declarations"
    assert CommandLineChat.from_json(path.read_text()).system == "Be brief."
    path.write_text(
        CommandLineChat(system="Be brief.").attach("image", "a.png", DIGITS.read_bytes()).ask("?").to_json()
    )
    assert Conversation.open(model, path).messages[0]["content"] == "Be brief."
    with pytest.raises(ConversionError, match="no such folder"):
        chat.save(tmp_path / "nowhere" / "chat.json")


def saved(**changed: object) -> str:
    whole = {"format": "gemma4gguf chat", "version": 1, "thinking": False, "tools": [], "messages": []}
    return json.dumps({**whole, **changed})


def shows(value: object) -> list[object]:
    return [{"role": "user", "content": [{"type": "image", "image": value}]}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\udcff", "no JSON"),
        ("[]", "not a saved chat"),
        ('{"format": "x"}', "not a saved chat"),
        (saved(version=2), "another version .format 2, expected 1"),
        (saved(version="a" * 999), "version"),
        (saved(messages={}), "messages: expected list"),
        (saved(messages=[7]), r"messages\[0\]"),
        (saved(messages=[{"role": "boss", "content": "a"}]), "role"),
        (saved(messages=shows("/etc/hostname")), "path is not accepted"),
        (saved(messages=shows("http://127.0.0.1/a.png")), "not fetched"),
        (saved(messages=shows({"a": 1})), "a picture given as dict"),
        (saved(thinking=1), "thinking: expected bool"),
        (saved(dropped="1"), "dropped: expected int"),
        (saved(tools={}), "tools: expected list"),
        (saved(tools=[{"type": "function"}]), r"tools\[0\]"),
        (saved(attached=[{"type": "text", "text": "a"}]), "attachments"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(model: Gemma4, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "chat.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=told) as caught:
        Conversation.open(model, path).say("Hi", **GREEDY)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    with pytest.raises(InputError, match="no such file"):
        Conversation.open(model, tmp_path / "none.json")
