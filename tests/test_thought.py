"""How long a thought may be, and where a reply has got to while its tokens are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from gemma4gguf import Gemma4, InputError, render
from gemma4gguf.chat.reply import ReplyParser
from gemma4gguf.runtime.thought import ThoughtTracker

PLACES = {
    "": "text",
    "a<|chan": "text",
    "<|channel>": "name",
    "<|channel>thou": "name",
    "<|channel>thought": "name",
    "<|channel>thoughtful": "text",
    "<|channel>final\n": "text",
    "<|channel>thought\n": "thought",
    "<|channel>thought\nhm <chan": "thought",
    "<|channel>thought\nhm<|channel>th": "name",
    "<|channel>thought\nhm<|channel>else": "thought",
    "<|channel>thought\nhm<channel|>": "text",
    "<|channel>thought<channel|>": "text",
    "a<channel|>b": "text",
    "<|tool_call>call:f": "call",
    '<|tool_call>call:f{a:<|"|><|channel>thought\n': "call",
    "<|tool_call>call:f{}<|channel>thought\n": "thought",
    "<|tool_call>call:f{}<tool_call|>": "text",
}


@pytest.mark.parametrize("text", PLACES)
def test_the_place_however_the_text_is_cut(text: str) -> None:
    for size in range(1, len(text) + 1):
        parser = ReplyParser()
        for at in range(0, len(text), size):
            parser.feed(text[at : at + size])
        assert parser.place == PLACES[text]


def test_the_tracker_counts_what_is_between_the_marks() -> None:
    pieces = [b"<|channel>", b"thought", b"\n", b"h", "é".encode()[:1], "é".encode()[1:], b"<channel|>", b"a"]
    places = ["text", "name", "name", *["thought"] * 4, "text", "text"]
    tracker, found = ThoughtTracker(pieces.__getitem__, thinking_open=False), []
    for token in range(len(pieces)):
        found.append(tracker.place)
        tracker.accept(token)
    assert [*found, tracker.place] == places
    assert tracker.tokens == 3
    assert ThoughtTracker(pieces.__getitem__, thinking_open=True).place == "thought"


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

THINKING: dict[str, Any] = {"prompt": "What is 47 + 38?", "thinking": True, "temperature": 0, "max_tokens": 60}
OPEN = render([{"role": "user", "content": THINKING["prompt"]}], thinking=True) + "<|channel>thought\n"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=512, threads=1, draft="off") as model:
        yield model


@pytest.mark.parametrize("most", range(12))
def test_a_thought_ends_at_its_limit_and_the_answer_goes_on(model: Gemma4, most: int) -> None:
    whole = model.generate(**THINKING)
    found = model.generate(**THINKING, max_thinking_tokens=most)
    assert found.finish_reason == "stop"
    assert found.text
    assert whole.thought.startswith(found.thought)
    assert found.thought == "".join(pieces(model, whole.thought)[:most]).strip()


def test_what_is_chosen_next_is_the_model_s_own_choice_after_the_end(model: Gemma4) -> None:
    """The answer behind a closed thought is that to a prompt which ends there."""
    shortened = model.generate(OPEN, raw=True, temperature=0, max_thinking_tokens=3)
    start = "".join(pieces(model, model.generate(**THINKING).thought)[:3])
    assert shortened.thought == start.strip()
    assert model.generate(f"{OPEN}{start}<channel|>", raw=True, temperature=0).text == shortened.text


def test_a_limit_that_is_not_reached_changes_nothing(model: Gemma4) -> None:
    for asked in (THINKING, {**THINKING, "thinking": False}, {**THINKING, "temperature": 0.8, "seed": 3}):
        free, limited = model.generate(**asked), model.generate(**asked, max_thinking_tokens=400)
        assert (free.text, free.thought) == (limited.text, limited.thought)


def test_a_spent_limit_holds_for_every_thought(model: Gemma4) -> None:
    """No other thought begins: the mark that would open it is never chosen."""
    mark = model.engine.rules.thought_marks[0]
    for most, marks in ((0, 0), (2, 1)):
        found = model.generate(**THINKING, max_thinking_tokens=most)
        assert list(model.engine.session.held)[found.tokens.prompt :].count(mark) == marks
    eager = model.generate(**THINKING, max_thinking_tokens=0, logit_bias={mark: 100})
    assert eager.thought == ""
    assert eager.text


@pytest.mark.parametrize("draft", [1, 3])
@pytest.mark.parametrize("most", [0, 2, 5])
def test_drafts_change_nothing(tiny_bundle: Path, model: Gemma4, draft: Literal[1, 3], most: int) -> None:
    with Gemma4(tiny_bundle, context=512, threads=1, draft=draft) as drafting:
        asked = {**THINKING, "max_thinking_tokens": most}
        plain, found = model.generate(**asked), drafting.generate(**asked)
        assert (plain.text, plain.thought, plain.tokens.completion) == (
            *(found.text, found.thought, found.tokens.completion),
        )
        assert found.draft.steps > 0


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True])
def test_limits_that_cannot_be(model: Gemma4, wrong: Any) -> None:
    with pytest.raises(InputError, match="max_thinking_tokens is"):
        model.generate("Hi", max_thinking_tokens=wrong)


def pieces(model: Gemma4, text: str) -> list[str]:
    vocab = model.engine.weights.vocab
    return [vocab.piece(token, special=False).decode() for token in model.tokenize(text)]
