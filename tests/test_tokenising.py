"""Prompts become ids: special tokens as llama.cpp reads them, in time that grows with the text; media in order."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from gemma4gguf.chat.guards import SPECIAL_TOKENS
from gemma4gguf.chat.rendering import raw_segments
from gemma4gguf.errors import InputError
from gemma4gguf.limits import limited
from gemma4gguf.native.vocabulary import Vocabulary
from gemma4gguf.native.weights import Weights
from gemma4gguf.runtime.prompt import Embeds, ids_of, plain_ids, prepared, spans

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


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, "[OWN]"])
@pytest.mark.parametrize("around", ["{}", "a {} b", "{0}{0}"])
def test_somebodys_text_has_no_special_token(vocabulary: Vocabulary, token: str, around: str) -> None:
    text = around.format(token)
    ids = plain_ids(vocabulary, text, ("[OWN]",))
    assert not {*ids} & {vocabulary.tokenize(t, special=True)[0] for t in SPECIAL_TOKENS}
    assert b"".join(vocabulary.piece(i, special=True) for i in ids).decode() == text


def test_texts_without_look_alikes_have_the_usual_ids(vocabulary: Vocabulary) -> None:
    for text in ("Hello, world!", "  two  spaces\n\n", "<b>x</b> | 1 < 2"):
        assert plain_ids(vocabulary, text) == vocabulary.tokenize(text, special=False)


def test_many_look_alikes(vocabulary: Vocabulary) -> None:
    """llama.cpp finds some special tokens even in plain text, and takes minutes for 100,000 of them."""
    text = "<|tool_call>" * 50_000
    assert b"".join(vocabulary.piece(i, special=True) for i in plain_ids(vocabulary, text)).decode() == text


def test_many_special_tokens(vocabulary: Vocabulary) -> None:
    """Uncut, 64,000 of them took llama.cpp a minute, and the time grows by the square."""
    one = vocabulary.tokenize("<|turn>a", special=True)
    assert ids_of(vocabulary, "<|turn>a" * 100_000) == one * 100_000


def nobody() -> Embeds:
    raise AssertionError("no soft token is needed to count them")


def test_media_stay_in_order_and_are_the_same_alone(vocabulary: Vocabulary) -> None:
    """Several are read at the same time, the first one slower than the others."""
    chance = np.random.default_rng(1)
    pictures = [chance.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8) for side in (900, 30, 40, 50)]
    clip = chance.uniform(-1, 1, 6400).astype(np.float32)

    def media(text: str, images: Sequence[object], clips: Sequence[object]) -> list[bytes | None]:
        parts = raw_segments(text, images, clips)
        return [span.content for span in spans(parts, vocabulary, nobody, 70) if span.content]

    together = media("<|image|>" * 4 + "<|audio|>", pictures, [(clip, 16_000)])
    alone = [media("<|image|>", [picture], [])[0] for picture in pictures]
    assert together == [*alone, *media("<|audio|>", [], [(clip, 16_000)])]
    parts = prepared(raw_segments("<|image|>" * 4, pictures, []), 70)
    assert [span.content for span in spans(parts, vocabulary, nobody, 70) if span.content] == alone


def test_the_callers_limits_hold_for_all_media(vocabulary: Vocabulary) -> None:
    pictures = [np.zeros((side, side, 3), np.uint8) for side in (10, 110, 120)]
    with limited(picture_bytes=100 * 100 * 12), pytest.raises(InputError, match=r"110, 110"):
        spans(raw_segments("<|image|>" * 3, pictures, []), vocabulary, nobody, 70)
