"""Tokens: what the tokeniser lets through, what may never be said, and how one is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gemma4gguf.bundle.reading import Bundle
from gemma4gguf.chat.guards import SPECIAL_TOKENS
from gemma4gguf.native.context import Context
from gemma4gguf.native.sampler import Sampler, SamplingOptions
from gemma4gguf.native.weights import Weights

TEXTS = json.loads((Path(__file__).parents[1] / "golden" / "tokens.json").read_text())


def test_six_special_tokens_are_read_even_with_parse_special_off(weights: Weights) -> None:
    """So nobody's text is handed over whole where it holds one: chat/rendering cuts it."""
    vocab = weights.vocab
    through = {t for t in SPECIAL_TOKENS if vocab.tokenize(t, special=False) == vocab.tokenize(t, special=True)}
    assert through == {"<|tool_call>", "<tool_call|>", "<tool_response|>", '<|"|>', "<|channel>", "<channel|>"}


def test_special_tokens_are_one_id_each_with_parse_special_on(weights: Weights) -> None:
    assert all(len(weights.vocab.tokenize(token, special=True)) == 1 for token in SPECIAL_TOKENS)


def test_ids_are_those_of_the_tokenizer_of_the_checkpoint(weights: Weights) -> None:
    """200 texts, and no `<bos>` of llama.cpp's own before them."""
    assert len(TEXTS) == 200
    assert not [t["text"] for t in TEXTS if weights.vocab.tokenize(t["text"], special=True) != t["ids"]]


def test_suppressed_tokens_are_read_from_the_file(weights: Weights, bundle: Path) -> None:
    listed = Bundle.open(bundle).text.metadata["tokenizer.ggml.suppress_tokens"]
    assert sorted(weights.vocab.suppressed()) == sorted(listed) != []


def test_a_control_token_has_bytes_only_when_asked(weights: Weights) -> None:
    vocab = weights.vocab
    (turn,) = vocab.tokenize("<|turn>", special=True)
    assert (vocab.piece(turn, special=False), vocab.piece(turn, special=True)) == (b"", b"<|turn>")
    assert b"".join(vocab.piece(i, special=False) for i in vocab.tokenize("größer 😀\n", special=False)) == (
        "größer 😀\n".encode()
    )


def test_a_sampler_reads_the_logits_that_we_wrote(make_context: Callable[..., Context]) -> None:
    """An id that got -inf in llama.cpp's buffer is never drawn; a seed draws the same ids, one draw each."""
    context = make_context()
    context.decode([2, 400, 401], start=0)
    best = np.argsort(context.logits())[::-1]
    allowed, draws = best[100:103], []
    for _ in range(2):
        with Sampler(SamplingOptions(3.0, 0, 1, 0, seed=7), set(best.tolist()) - set(allowed.tolist())) as sampler:
            draws.append([sampler.sample(context) for _ in range(40)])
    assert set(draws[0]) == set(allowed.tolist())
    assert draws[0] == draws[1]
