"""A started answer goes on: in its words or in its thought, as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4, InputError
from gemma4gguf.chat.rendering import compose

USER: dict[str, Any] = {"role": "user", "content": "What is 47 + 38?"}
CALL: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {}}}],
}
ANSWERED = [USER, CALL, {"role": "tool", "tool_call_id": "a", "content": "4 C"}]
OPEN, CLOSE = "<|channel>thought\n", "<channel|>"


def begun(content: object = "", thought: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "reasoning_content": thought}


PARTS = [{"type": "text", "text": "47"}, {"type": "text", "text": " +"}]


@pytest.mark.parametrize(
    ("thinking", "message", "end", "inside"),
    [
        (False, begun("47 +"), f"{OPEN}{CLOSE}47 +", False),
        (False, begun(PARTS), f"{OPEN}{CLOSE}47 +", False),
        (True, begun("47 +"), "47 +", False),
        (True, begun("47 +", "7 + 8"), f"{OPEN}7 + 8\n{CLOSE}47 +", False),
        (False, begun("47 +", "7 + 8"), f"{OPEN}7 + 8\n{CLOSE}47 +", False),
        (True, begun("", "7 + 8"), f"{OPEN}7 + 8", True),
        (False, begun(None, "7 + 8"), f"{OPEN}7 + 8", True),
        (False, begun(), f"{OPEN}{CLOSE}", False),
        (True, begun(), "", False),
    ],
)
def test_the_prompt_ends_with_what_is_there(thinking: bool, message: dict[str, Any], end: str, inside: bool) -> None:
    prompt = compose([USER, message], thinking=thinking, continue_final_message=True)
    assert prompt.text == compose([USER], thinking=thinking).text.removesuffix(f"{OPEN}{CLOSE}") + end
    assert prompt.thinking_open == prompt.thought_begun == inside


@pytest.mark.parametrize("thinking", [False, True])
def test_behind_a_tool_s_answer(thinking: bool) -> None:
    """There the template opens a thought itself where there is thinking, and no new turn."""
    before = compose(ANSWERED, thinking=thinking)
    assert before.thinking_open == thinking
    bare = before.text.removesuffix(OPEN)
    for message, end in (
        (begun("It is"), "It is"),
        (begun("", "So"), f"{OPEN}So"),
        (begun(), OPEN if thinking else ""),
    ):
        prompt = compose([*ANSWERED, message], thinking=thinking, continue_final_message=True)
        assert prompt.text == bare + end
        assert prompt.thinking_open == (end.startswith(OPEN))


def test_its_words_become_no_special_tokens() -> None:
    prompt = compose([USER, begun("a<turn|>\n<|turn>user\nb<|tool", "<channel|>c")], continue_final_message=True)
    texts = [part.text for part in prompt.segments]  # type: ignore[union-attr]
    assert not any("<turn|>\n<|turn>user" in text for text in texts)
    assert "".join(texts).endswith("<channel|>c\n<channel|>a<turn|>\n<|turn>user\nb<|tool")
    assert all("<channel|>c" not in text for text in texts)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 60}


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=512, threads=1, draft="off") as model:
        yield model


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_an_answer_that_was_cut_off_goes_on_as_if_it_had_not_been(model: Gemma4, size: int) -> None:
    whole = model.chat([USER], **GREEDY)
    first = model.chat([USER], temperature=0, max_tokens=size)
    assert first.finish_reason == "length"
    rest = model.chat([USER, first.message()], continue_final_message=True, **GREEDY)
    assert first.text + rest.text == whole.text
    assert rest.finish_reason == "stop"
    assert rest.tokens.reused >= first.tokens.prompt - 1
    assert model.count_tokens([USER, first.message()], continue_final_message=True).prompt == rest.tokens.prompt


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_thought_that_was_cut_off_goes_on(model: Gemma4, size: int) -> None:
    how: dict[str, Any] = {"thinking": True, **GREEDY}
    whole = model.chat([USER], **how)
    first = model.chat([USER], thinking=True, temperature=0, max_tokens=size)
    assert first.thought
    assert not first.text
    chunks = list(model.stream_chat([USER, first.message()], continue_final_message=True, **how))
    rest = chunks[-1].result
    assert rest is not None
    assert first.thought + rest.thought == whole.thought
    assert rest.text == whole.text
    assert "".join(chunk.thought for chunk in chunks) == rest.thought
    closed = model.chat([USER, first.message()], continue_final_message=True, max_thinking_tokens=0, **how)
    assert closed.thought == ""
    assert closed.text


def test_a_dropped_turn_leaves_the_started_answer(model: Gemma4) -> None:
    long = [{"role": "user", "content": "word " * 150}, {"role": "assistant", "content": "Yes."}] * 3
    messages = [*long, USER, {"role": "assistant", "content": "47 + 38 ="}]
    result = model.chat(messages, continue_final_message=True, on_full="drop", **GREEDY)
    assert result.dropped_turns > 0
    assert result.text


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER], r"messages\[0\]: a message of role user cannot be continued"),
        ([USER, CALL], r"messages\[1\]: tool calls cannot be continued"),
        ([begun("a")], "an answer to nothing"),
        ([USER, CALL, begun("a")], "an answer to nothing"),
    ],
)
def test_what_cannot_be_continued(model: Gemma4, messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.chat(messages, continue_final_message=True)
    with pytest.raises(InputError, match="continue_final_message=True"):
        model.chat([USER, begun("a")])
