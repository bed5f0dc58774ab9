"""What was asked is freed with its answer, not when the garbage collector comes round: pictures are megabytes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gemma4gguf import Gemma4, InputError
from gemma4gguf.media.image import Patches
from tests.support.serving import DEMO, eventually

QUESTION: dict[str, Any] = {
    "prompt": "What number is this?",
    "images": [DEMO / "digits.png"],
    "temperature": 0,
    "max_tokens": 4,
}


@pytest.fixture(scope="module", params=[False, True], ids=["here", "isolated"])
def model(tiny_bundle: Path, request: pytest.FixtureRequest) -> Iterator[Gemma4]:
    with Gemma4(tiny_bundle, context=1024, threads=1, draft="off", parallel=2, isolate=request.param) as opened:
        opened.generate(**QUESTION)  # what is made once is made
        yield opened


def whole(model: Gemma4) -> None:
    model.generate(**QUESTION)


def several(model: Gemma4) -> None:
    assert len(model.answers(**QUESTION, n=3)) == 3


def left(model: Gemma4) -> None:
    with closing(model.stream(**QUESTION)) as stream:
        next(stream)


def awaited(model: Gemma4) -> None:
    asyncio.run(model.agenerate(**QUESTION))


def refused(model: Gemma4) -> None:
    try:
        model.generate(**QUESTION, logit_bias={9_999_999: 1.0})
    except InputError:  # pytest.raises would keep it
        return
    raise AssertionError("a token that is not there")


@pytest.mark.parametrize("ask", [whole, several, left, awaited, refused])
def test_a_picture_is_freed_with_its_answer(model: Gemma4, ask: Callable[[Gemma4], None]) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            ask(model)
        eventually(lambda: sum(isinstance(one, Patches) for one in gc.get_objects()) <= 1)  # the last one may linger
    finally:
        gc.enable()
