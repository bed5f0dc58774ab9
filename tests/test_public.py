"""What callers may give and get back: one medium or a list, open files, results as messages, errors by cause."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from PIL import Image

import gemma4gguf
from gemma4gguf import BusyError, Gemma4, GenerateOptions, MissingPartError, Options, errors, render
from gemma4gguf.runtime.options import OPTIONS

MODELS = Path(__file__).parents[1] / "models"
CAT, NUMBER = MODELS / "demo" / "digits.png", MODELS / "demo" / "number.wav"
GREEDY = GenerateOptions(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=2048) as opened:
        yield opened


def test_one_medium_is_as_good_as_a_list_of_one(model: Gemma4) -> None:
    seen = model.generate("What number is this?", images=[CAT], **GREEDY).text
    with Image.open(CAT) as picture:
        array = np.asarray(picture.convert("RGB"))
        ways = [CAT, str(CAT), CAT.read_bytes(), picture, array, io.BytesIO(CAT.read_bytes()), (CAT,)]
        assert [model.generate("What number is this?", images=way, **GREEDY).text for way in ways] == [seen] * len(ways)
    heard = model.generate("What is said?", audio=[NUMBER], **GREEDY).text
    clip = (np.zeros(16000, np.float32), 16000)
    silence = model.generate("What is said?", audio=[clip], **GREEDY).text
    with open(NUMBER, "rb") as file:
        assert model.generate("What is said?", audio=file, **GREEDY).text == heard
    assert model.generate("What is said?", audio=NUMBER, **GREEDY).text == heard
    assert model.generate("What is said?", audio=clip, **GREEDY).text == silence != heard
    assert np.array_equal(
        model.evaluate("<|image|>", images=CAT, raw=True).ids, model.evaluate("<|image|>", images=[CAT], raw=True).ids
    )


def test_a_result_and_its_calls_go_back_as_messages(model: Gemma4) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
    messages: list[dict[str, object]] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    asked = model.chat(messages, tools=[tool], **GREEDY | {"max_tokens": 64})
    (call,) = asked.tool_calls
    messages += [asked.message(), call.answer("sunny")]
    rendered = render(messages, tools=[tool], template=model.template)
    assert "call:get_weather{" in rendered
    assert "sunny" in rendered
    assert model.chat(messages, tools=[tool], **GREEDY).finish_reason in ("stop", "length")


def test_progress_counts_positions_up_to_the_whole_prompt(model: Gemma4) -> None:
    seen: list[tuple[int, int]] = []
    result = model.generate("word " * 700, on_progress=lambda done, total: seen.append((done, total)), **GREEDY)
    assert {total for _, total in seen} == {result.tokens.prompt}
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (result.tokens.reused, result.tokens.prompt)
    assert len(done) > 2, "a prompt of several batches tells of each"


def test_errors_are_told_apart_by_class(model: Gemma4) -> None:
    public = {name for name in gemma4gguf.__all__ if name.endswith("Error")}
    assert public == {name for name, error in vars(errors).items() if isinstance(error, type)}
    with pytest.raises(MissingPartError):
        model.bundle.require("nothing")
    streams = [model.stream("word " * 1500, temperature=0)]
    asking = threading.Thread(target=lambda: next(streams[0]))
    asking.start()
    while not model.engine.scheduler.live:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="at work"):
        model.generate("Hi", wait=False, temperature=0)
    asking.join()
    streams.clear()  # whoever leaves a stream frees its place
    assert model.generate("Hi", **GREEDY).text


def test_options_have_one_list() -> None:
    assert list(get_type_hints(GenerateOptions)) == list(OPTIONS) == [field.name for field in fields(Options)]


def test_every_public_name_is_there() -> None:
    for name in gemma4gguf.__all__:
        assert getattr(gemma4gguf, name) is not None
