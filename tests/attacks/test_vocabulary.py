"""Vocabularies, ids and settings: what C cuts at a NUL, finds twice, or what our own runtime would stumble over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType as V
from gguf import TokenType

from gemma4gguf.bundle.reading import DRAFTER, TEXT
from gemma4gguf.model import Gemma4
from tests.support import rewrite
from tests.support.attacks import check, one_line
from tests.support.rewrite import Change, Piece, encode_bytes

TOKENS, MERGES, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"
U32, I32, F32 = V.UINT32, V.INT32, V.FLOAT32
NAN, INF = float("nan"), float("inf")


def put(key: str, kind: V, value: Any) -> Change:
    return lambda piece: piece.put(key, kind, value)


def words(key: str, change: Callable[[list[bytes]], Sequence[bytes]]) -> Change:
    """The list of strings, changed, both in the values and as stored."""

    def do(piece: Piece) -> None:
        piece.pairs[key] = encode_bytes(key, change([word.encode() for word in piece.values[key]]))

    return do


def at(index: int, word: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda held: [*held[:index], word, *held[index + 1 :]]


# Of both sections: a drafter's vocabulary is loaded too.
BOTH: dict[str, tuple[Change, str]] = {
    "a token with a NUL": (words(TOKENS, at(700, b"a\0b")), "C cuts it: GGML_ASSERT, or another token"),
    "only a NUL": (words(TOKENS, at(700, b"\0")), "C reads an empty one"),
    "a token that C cuts to another": (words(TOKENS, at(700, b"<bos>\0")), "GGML_ASSERT: one there twice"),
    "a token twice": (words(TOKENS, at(700, b"<bos>")), "GGML_ASSERT: one there twice"),
    "an empty one and its name": (
        words(TOKENS, lambda held: at(700, b"")(at(701, b"[EMPTY_700]")(held))),
        "llama.cpp's name for an empty one, there already",
    ),
    "no tokens": (words(TOKENS, lambda held: []), "nothing to say"),
    "tokens that are numbers": (put(TOKENS, U32, [1, 2, 3]), "another type than is read"),
    "tokens that are one text": (put(TOKENS, V.STRING, "abc"), "another type than is read"),
    "fewer tokens": (words(TOKENS, lambda held: held[:-1]), "rows of the embedding without a token"),
    "more tokens": (words(TOKENS, lambda held: [*held, b"one more"]), "read past the embedding's end"),
    **{
        f"a tokenizer of {kind!r}": (put("tokenizer.ggml.model", V.STRING, kind), "another branch, with its asserts")
        for kind in ("llama", "bert", "gpt2", "t5", "rwkv", "plamo2", "none", "no_vocab", "test", "", "gemma4\0")
    },
    "a tokenizer that is a number": (put("tokenizer.ggml.model", U32, 4), "another type than is read"),
    "no merges": (lambda piece: piece.drop(MERGES), "is read without a default"),
    "merges that are numbers": (put(MERGES, U32, [1]), "another type than is read"),
    "merges that are one text": (put(MERGES, V.STRING, "a b"), "another type than is read"),
    "fewer scores": (put("tokenizer.ggml.scores", F32, [0.0]), "read past the list's end"),
    "scores that are flags": (put("tokenizer.ggml.scores", V.BOOL, [True] * 1024), "another type than is read"),
    "fewer token types": (put("tokenizer.ggml.token_type", I32, [1]), "read past the list's end"),
    "token types that are fractions": (put("tokenizer.ggml.token_type", F32, [1.0] * 1024), "another type"),
    "suppressed fractions": (put("tokenizer.ggml.suppress_tokens", F32, [1.0]), "another type than is read"),
    "suppressed texts": (put("tokenizer.ggml.suppress_tokens", V.STRING, ["a"]), "another type than is read"),
    "no first token": (lambda piece: piece.drop("tokenizer.ggml.bos_token_id"), "token -1 in every prompt"),
    "a first token beyond": (put("tokenizer.ggml.bos_token_id", U32, 1024), "token -1 in every prompt"),
    "a first token of 2^32": (put("tokenizer.ggml.bos_token_id", U32, (1 << 32) - 1), "token -1 in every prompt"),
    "a negative first token": (put("tokenizer.ggml.bos_token_id", I32, -1), "token -1 in every prompt"),
    "an end that is a text": (put("tokenizer.ggml.eos_token_id", V.STRING, "1"), "another type than is read"),
    "a flag that is a number": (put("tokenizer.ggml.add_bos_token", U32, 1), "another type than is read"),
}


def special(text: str, kind: TokenType) -> Change:
    """Token 700 becomes a special one."""

    def change(piece: Piece) -> None:
        words(TOKENS, at(700, text.encode()))(piece)
        piece.put(TYPES, I32, [*piece.values[TYPES][:700], int(kind), *piece.values[TYPES][701:]])

    return change


SETTINGS: dict[str, tuple[Change, str]] = {
    **{
        f"end tokens {value!r:.20}": (put("gemma4gguf.eos_token_ids", kind, value), "compared with ids; shown as texts")
        for kind, value in (
            *((I32, [-1]), (I32, [1024]), (U32, [(1 << 32) - 1]), (F32, [1.0]), (V.STRING, ["a"])),
            *((V.BOOL, [True]), (I32, 1), (V.STRING, "<eos>"), (I32, [1] * 5000)),
        )
    },
    **{
        f"{key} {value!r:.20}": (put(f"general.sampling.{key}", kind, value), "given to the sampler as it is")
        for key, kind, value in (
            *(
                ("temp", F32, NAN),
                ("temp", F32, INF),
                ("temp", F32, -1.0),
                ("temp", V.STRING, "hot"),
                ("temp", F32, [1.0]),
            ),
            *(("temp", V.BOOL, True), ("top_k", I32, -1), ("top_k", V.INT64, 1 << 40), ("top_k", F32, 64.0)),
            *(
                ("top_k", V.STRING, "64"),
                ("top_p", F32, NAN),
                ("top_p", F32, 0.0),
                ("top_p", F32, 1.5),
                ("top_p", F32, -INF),
            ),
            *(("min_p", F32, NAN), ("min_p", F32, -0.1), ("min_p", F32, 2.0), ("penalty_repeat", F32, 0.0)),
            *(("penalty_repeat", F32, NAN), ("penalty_repeat", V.STRING, "1")),
        )
    },
    **{
        f"pictures of {value!r:.20}": (put("gemma4gguf.image.max_soft_tokens", kind, value), "how large a batch is")
        for kind, value in (
            (U32, 0),
            (U32, 71),
            (U32, 1 << 31),
            (I32, -280),
            (F32, 280.0),
            (V.STRING, "280"),
            (U32, [280]),
        )
    },
    **{
        f"a {kind.name} token of {len(text):,} characters": (special(text, kind), why)
        for kind, text, why in (
            (TokenType.CONTROL, "x", "anybody could type it"),
            (TokenType.CONTROL, "é", "anybody could type it"),
            (TokenType.CONTROL, "x" * 257, "every place of a text is compared with it"),
            (TokenType.USER_DEFINED, "<" * 100_000, "its beginnings took gigabytes"),
            (TokenType.UNKNOWN, "<|turn>" * 1000, "llama.cpp searches every text for it, again and again"),
        )
    },
    "a template that is a number": (put("tokenizer.chat_template", U32, 1), "compiled as a text"),
    "a template that is a list": (put("tokenizer.chat_template", V.STRING, ["a"]), "compiled as a text"),
}
ROWS = [
    *(
        pytest.param(place, c, id=f"{place}-{n}".replace("\0", "NUL"))
        for place in (TEXT, DRAFTER)
        for n, (c, _) in BOTH.items()
    ),
    *(pytest.param(TEXT, c, id=n) for n, (c, _) in SETTINGS.items()),
]


@pytest.mark.parametrize(("architecture", "change"), ROWS)
def test_vocabularies_and_settings(architecture: str, change: Change, unchanged: dict[str, Piece]) -> None:
    held = rewrite.copied(unchanged)
    change(held[architecture])
    one_line(lambda: check(held, architecture), Path("FILE"))


ODD = {
    "an empty token": words(TOKENS, at(700, b"")),
    "tokens that are no text": words(TOKENS, lambda held: at(700, b"\xff\xfe")(at(701, b"\xff\xfd")(held))),
    "a token of 5,000 bytes": words(TOKENS, at(700, b"a" * 5000)),
    "a space": words(TOKENS, at(700, b" ")),
    "merges without a space": words(MERGES, at(0, b"ab")),
    "empty merges": words(MERGES, at(0, b"")),
    "merges with NULs": words(MERGES, at(0, b"a\0b c")),
    "no merge at all": words(MERGES, lambda held: []),
    "odd token types": lambda piece: piece.put(
        TYPES, I32, [*piece.values[TYPES][:700], -7, 99, *piece.values[TYPES][702:]]
    ),
    "an end beyond the vocabulary": put("tokenizer.ggml.eos_token_id", U32, 5000),
    "suppressed ids beyond the vocabulary": put("tokenizer.ggml.suppress_tokens", I32, [-1, 5000]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_vocabularies_that_llama_cpp_survives(name: str, changed: Callable[..., Path]) -> None:
    with Gemma4(changed(ODD[name], TEXT, DRAFTER), context=200, threads=1, draft=3) as model:
        assert model.generate("Hi \u2581 a\xe9\n\n", max_tokens=3, seed=1).tokens.completion
