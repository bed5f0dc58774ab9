"""Text with special tokens in it: the ids that llama.cpp gives, in time that grows with the text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemma4gguf.chat.guards import SPECIAL_TOKENS
from gemma4gguf.native.vocabulary import Vocabulary
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.prompt import ids_of

PLAIN = ("a", " b", "\n", "\n\n", "  ", "é", "😀", "<", "|", ">", "<|", "|>", "turn", "<|turn", "tool_call|>", "7", '"')


@pytest.fixture(scope="module", params=["bundle", "tiny_bundle"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    file: Path = request.getfixturevalue(request.param)
    with Weights(file) as model:
        yield Vocabulary(model)


@pytest.mark.parametrize("seed", range(20))
def test_same_ids_as_uncut(vocabulary: Vocabulary, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        text = "".join(dice.choice(dice.choice((PLAIN, SPECIAL_TOKENS))) for _ in range(dice.randrange(30)))
        assert ids_of(vocabulary, text) == vocabulary.tokenize(text, special=True)


def test_many_special_tokens(vocabulary: Vocabulary) -> None:
    """Uncut, 64,000 of them took llama.cpp a minute, and the time grows by the square."""
    one = vocabulary.tokenize("<|turn>a", special=True)
    assert ids_of(vocabulary, "<|turn>a" * 100_000) == one * 100_000
