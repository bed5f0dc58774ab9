"""Before a prompt is fed: tokens are counted, sound comes early, and old turns make room."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemma4gguf import ContextError, Gemma4, InputError, Message
from gemma4gguf.chat.turns import starts, without_oldest
from gemma4gguf.media.audio import AudioWarning
from gemma4gguf.runtime.fitting import LATEST_SOUND, turns_to_drop

MODELS = Path(__file__).parents[1] / "models"
DIGITS, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
LONG = "word " * 450
LATE = "sound begins at position"


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=1024) as opened:
        yield opened


def picture(number: int) -> bytes | np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((96, 96, 3), number, np.uint8)


def question(text: str, *pictures: object) -> dict[str, object]:
    return {
        "role": "user",
        "content": [*({"type": "image", "image": p} for p in pictures), {"type": "text", "text": text}],
    }


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_counts_are_those_of_the_answer_and_load_no_weights(tiny_bundle: Path) -> None:
    seen: dict[str, Any] = {"images": DIGITS, "audio": NUMBER, "system": "Be brief.", "thinking": True}
    messages = [question("What?", DIGITS.read_bytes())]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with Gemma4(tiny_bundle, context=1024) as model:
        before = [
            model.count_tokens("What?", **seen),
            model.count_tokens(messages, tools=[tool]),
            model.count_tokens("<bos>a b", raw=True),
        ]
        ids = model.tokenize("What is 47 + 38?")
        assert not model._parts.loaded
        answered = [
            model.generate("What?", **seen, **GREEDY),
            model.chat(messages, tools=[tool], **GREEDY),
            model.generate("<bos>a b", raw=True, **GREEDY),
        ]
        for counted, result in zip(before, answered, strict=True):
            used = result.tokens
            assert (counted.prompt, counted.image, counted.audio) == (used.prompt, used.image, used.audio)
        assert ids == model.engine.weights.vocab.tokenize("What is 47 + 38?", special=True)
        assert ids == model.tokenize("What is 47 + 38?")
    with pytest.raises(InputError, match="closed"):
        model.tokenize("a")


@pytest.mark.parametrize("text", ["<turn|>", "a<|tool_call>b", "<bos>", "<|image|>", "x<|turn>user\n"])
def test_no_text_becomes_a_special_token(model: Gemma4, text: str) -> None:
    vocab, ids = model.engine.weights.vocab, model.tokenize(text)
    assert b"".join(vocab.piece(i, special=True) for i in ids).decode() == text
    assert b"".join(vocab.piece(i, special=False) for i in ids).decode() == text, "a control token shows nothing"


def test_what_has_no_use_is_an_error(model: Gemma4) -> None:
    unused: list[dict[str, Any]] = [{"images": [DIGITS]}, {"system": "a"}, {"raw": True}]
    for given in unused:
        with pytest.raises(InputError, match=next(iter(given))):
            model.count_tokens([question("Hi")], **given)
    with pytest.raises(InputError, match="tools"):
        model.count_tokens("Hi", tools=[{}])


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────


def order(model: Gemma4, prompt: str, **how: Any) -> list[str]:
    """What the positions of a prompt hold, in order."""
    marks = {model.engine.weights.vocab.tokenize(f"<|{kind}|>", special=True)[0]: kind for kind in ("image", "audio")}
    kinds = [marks.get(int(i), "text") for i in model.evaluate(prompt, **how).ids]
    runs = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    return runs


def test_early_sound_keeps_the_cards_order_and_late_sound_goes_first(model: Gemma4) -> None:
    both: dict[str, Any] = {"images": DIGITS, "audio": NUMBER}
    assert order(model, "What?", **both) == ["text", "image", "text", "audio", "text"]
    assert order(model, LONG, **both) == ["text", "audio", "text", "image", "text"]
    assert order(model, LONG, audio=NUMBER) == ["text", "audio", "text"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model.generate(LONG, **both, **GREEDY)
    with open(DIGITS, "rb") as seen, open(NUMBER, "rb") as heard:
        once = model.generate(LONG, images=seen, audio=heard, **GREEDY)
    assert once.text == result.text, "an open file is read once"
    assert once.tokens.reused == once.tokens.prompt - 1


def test_sound_that_cannot_go_first_is_warned_of_with_its_position(model: Gemma4) -> None:
    with pytest.warns(AudioWarning, match=rf"{LATE} (\d+)") as told:
        model.generate("What?", audio=NUMBER, system=LONG, **GREEDY)
    at = int(str(told[0].message).split("position ")[1].split()[0])
    assert LATEST_SOUND < at < model.count_tokens("What?", system=LONG).prompt
    clip = {"role": "user", "content": [{"type": "audio", "audio": NUMBER.read_bytes()}]}
    with pytest.warns(AudioWarning, match=LATE):
        model.chat([question(LONG), {"role": "assistant", "content": "Yes."}, clip], **GREEDY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.chat([clip, {"role": "assistant", "content": "Yes."}, question(LONG)], **GREEDY)


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def dialogue(turns: int) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        messages += [question(f"{number}: " + "word " * 40, picture(number)), {"role": "assistant", "content": "Yes."}]
    return [*messages, question("What now?")]


def test_turns_are_whole() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}, "id": "1"}
    tools: Sequence[Message] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "assistant", "content": "Four."},
    ]
    messages: list[Message] = [
        {"role": "developer", "content": "a"},
        question("1"),
        *tools,
        question("2"),
        question("3"),
    ]
    assert starts(messages) == [1, 5, 6]
    assert without_oldest(messages, 1) == [messages[0], *messages[5:]]
    assert without_oldest(messages, 2) == [messages[0], messages[6]]
    assert without_oldest(messages[1:], 1) == messages[5:]
    assert starts([{"role": "system", "content": "a"}]) == starts([]) == []
    assert starts([{"role": "assistant", "content": "a"}, question("1"), question("2")]) == [0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_as_few_turns_go_as_leave_a_quarter_free(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [int(n) for n in random.integers(1, 50, size=int(random.integers(1, 12)))]
    room = int(random.integers(1, 300))

    def size_without(count: int) -> int:
        return sum(sizes[count:])

    slow = 0
    if size_without(0) > room:
        wanted = room - max(0, room - sizes[-1]) // 4
        while slow < len(sizes) - 1 and size_without(slow) > wanted:
            slow += 1
    assert turns_to_drop(len(sizes), size_without, room) == slow


def test_a_full_context_is_an_error_with_the_numbers_or_old_turns_go(model: Gemma4) -> None:
    messages = dialogue(20)
    with pytest.raises(ContextError, match=r"the prompt has [\d,]+ tokens .*the context holds 1,024"):
        model.chat(messages, **GREEDY)
    result = model.chat(messages, on_full="drop", **GREEDY)
    assert 0 < result.dropped_turns < 20
    kept = without_oldest(messages, result.dropped_turns)
    alone = model.chat(kept, **GREEDY)
    assert (alone.text, alone.tokens.prompt, alone.dropped_turns) == (result.text, result.tokens.prompt, 0)
    assert result.tokens.prompt <= 1024 - 12
    assert model.chat(dialogue(2), on_full="drop", **GREEDY).dropped_turns == 0
    with pytest.raises(ContextError, match="context holds 1,024"):
        model.chat([question("word " * 1200)], on_full="drop", **GREEDY)
    with pytest.raises(InputError, match="on_full is 'shift', expected one of error, drop"):
        model.chat(messages, on_full="shift", **GREEDY)  # type: ignore[arg-type]
