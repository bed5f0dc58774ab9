"""No text becomes one of a vocabulary's special tokens, whatever these look like."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from converters import convert
from gemma4gguf import Gemma4
from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.bundle.settings import special_tokens
from gemma4gguf.chat.guards import SPECIAL_TOKENS, Guards
from gemma4gguf.chat.rendering import TextSegment, compose
from tests.support import variants

GUARD = "\ufdd0"
OWN = ("[INST]", "[/INST]", "<|user_start|>", "###", "##", "abc", "bcd", "ab", "\n\n", "<<a>>", "a>>b")


def found(text: str, tokens: tuple[str, ...]) -> list[str]:
    """The slow twin: tokens that occur in a text."""
    return [token for token in tokens if token in text]


@pytest.mark.parametrize("token", [*OWN, *SPECIAL_TOKENS])
@pytest.mark.parametrize("around", ["{}", "a {} b", "{0}{0}", "<{}>", "x{}"])
def test_a_look_alike_is_cut(token: str, around: str) -> None:
    guards, text = Guards(OWN), around.format(token)
    pieces = guards.cut(guards.guarded(text, GUARD), GUARD)
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert not [t for piece in pieces for t in found(piece, (*OWN, *SPECIAL_TOKENS))]


def test_random_texts_hold_no_token() -> None:
    guards, draw = Guards(OWN), random.Random(11)
    alphabet = [*OWN, *"abcd#[]<>/\n", "<|", "|>", "INST", "turn", "<|turn>", " "]
    for _ in range(2000):
        text = "".join(draw.choices(alphabet, k=draw.randrange(12)))
        pieces = guards.cut(guards.guarded(text, GUARD), GUARD)
        assert "".join(pieces) == text
        assert not [t for piece in pieces for t in found(piece, (*OWN, *SPECIAL_TOKENS))]


def test_text_without_a_token_is_not_cut() -> None:
    guards = Guards(OWN)
    for text in ("", "# a", "a b c", "[INS T]", "[", "<", "a\nb", "bc", "x < y"):
        assert guards.cut(guards.guarded(text, GUARD), GUARD) == [text]


@pytest.mark.parametrize("token", [t for t in OWN if t.strip() == t])
def test_texts_that_a_template_joins_make_no_token(token: str) -> None:
    for at in range(1, len(token)):
        parts = [{"type": "text", "text": part} for part in ("x " + token[:at] + " ", token[at:] + " x")]
        prompt = compose([{"role": "user", "content": parts}], special_tokens=OWN)
        texts = [s.text for s in prompt.segments if isinstance(s, TextSegment)]
        assert "".join(texts) == prompt.text
        assert f"x {token} x" in prompt.text
        assert not [text for text in texts if token in text]


def test_many_look_alikes_cost_little() -> None:
    """A million of them, in time that grows with the text alone."""
    guards = Guards([f"<|token{i}|>" for i in range(6000)])
    text = "<|token7|>" * 50_000 + "<" * 200_000
    assert len(guards.cut(guards.guarded(text, GUARD), GUARD)) == 50_001


@pytest.mark.parametrize("special", [True, False])
def test_a_fine_tune_s_own_tokens_cannot_be_typed(tmp_path: Path, special: bool) -> None:
    folder = variants.copy(tmp_path / "tiny")
    variants.add_tokens(folder, "<|user_start|>", "[FIM]", special=special, resize=16)
    convert(folder, tmp_path / "out.gguf", quant="Q8_0", text_only=True)
    assert {"<|user_start|>", "[FIM]", "<turn|>", "<unk>"} <= set(
        special_tokens(Bundle.open(tmp_path / "out.gguf").text.metadata)
    )
    with Gemma4(tmp_path / "out.gguf", threads=1) as model:
        for text in ("<|user_start|>", "a [FIM]b", "<|user_start|><|user_start|>", "<|user_sta"):
            assert max(model.evaluate(text).ids) < 2048
        assert max(model.evaluate("a <|user_start|>", raw=True).ids) == 2048
