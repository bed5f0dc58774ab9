"""Tensors of a type that llama.cpp does not compute with, of another shape than the keys say, missing, or too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.reading import DRAFTER, TEXT
from gemma4gguf.bundle.schema import MATRIX_TYPES
from gemma4gguf.errors import FormatError, NativeError
from gemma4gguf.model import Gemma4
from tests.support import rewrite
from tests.support.attacks import check, one_line
from tests.support.rewrite import Change, Piece

BOTH = (TEXT, DRAFTER)
MATRICES = {  # one of each place
    TEXT: ("token_embd", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.5.attn_output", "blk.0.ffn_down"),
    DRAFTER: ("token_embd", "nextn.pre_projection", "nextn.post_projection", "blk.0.attn_q", "blk.3.ffn_gate"),
}
VECTORS = (
    *("output_norm", "rope_freqs", "blk.0.attn_norm", "blk.0.attn_q_norm", "blk.0.post_attention_norm"),
    *("blk.0.ffn_norm", "blk.0.post_ffw_norm", "blk.0.layer_output_scale"),
)
WHY = {
    "integers": "GGML_ABORT: no product with them",
    "vectors": "GGML_ASSERT in a product of rows, a norm or a rotation: only float32 is computed",
}


def stored(name: str, kind: T) -> Change:
    return lambda piece: piece.shape(f"{name}.weight", piece.tensors[f"{name}.weight"][1], kind)


def shaped(name: str, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Change:
    return lambda piece: piece.shape(f"{name}.weight", change(piece.tensors[f"{name}.weight"][1]))


def more(name: str, shape: tuple[int, ...], kind: T = T.F32) -> Change:
    return lambda piece: piece.shape(name, shape, kind)


def types() -> Iterator[tuple[str, str, Change]]:
    for architecture in BOTH:
        for name in MATRICES[architecture]:
            for kind in sorted(set(T) - MATRIX_TYPES):
                if GGML_QUANT_SIZES[kind][0] <= 32:  # rows of this model divide into blocks of 32
                    yield architecture, f"{name} {kind.name}", stored(name, kind)
        for name in VECTORS:
            for kind in (T.F16, T.BF16, T.F64, T.I32, T.I8):
                yield architecture, f"{name} {kind.name}", stored(name, kind)
        for name in ("output_norm", "blk.0.ffn_norm"):
            for kind in (T.Q8_0, T.Q4_0, T.IQ4_NL, T.MXFP4):
                yield architecture, f"{name} {kind.name}", stored(name, kind)


def shapes() -> Iterator[tuple[str, str, Change]]:
    ways: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
        "one row less": lambda s: (s[0] - 1, *s[1:]),
        "one column of blocks more": lambda s: (*s[:-1], s[-1] + 32),
        "flat": lambda s: (int(np.prod(s)),),
        "a dimension more": lambda s: (1, *s),
        "another dimension more": lambda s: (*s[:-1], 1, s[-1]),
        "one value": lambda s: (1,) * len(s),
    }
    for architecture in BOTH:
        for name in MATRICES[architecture]:
            for what, way in ways.items():
                yield architecture, f"{name} {what}", shaped(name, way)
        for name in VECTORS:
            yield architecture, f"{name} longer", shaped(name, lambda s: (s[0] + 1,))
            yield architecture, f"{name} of two dimensions", shaped(name, lambda s: (1, *s))
    yield TEXT, "token_embd turned", shaped("token_embd", lambda s: s[::-1])


def names() -> Iterator[tuple[str, str, Change]]:
    extra: dict[str, Change] = {
        "a router of experts": more("blk.0.ffn_gate_inp.weight", (4, 64)),
        "experts": more("blk.0.ffn_gate_up_exps.weight", (4, 128, 64)),
        "per-layer embeddings": more("per_layer_token_embd.weight", (1024, 384)),
        "a scale": more("blk.0.attn_q.scale", (1,)),
        "an input scale": more("blk.0.attn_q.input_scale", (1,)),
        "a bias": more("blk.0.attn_q.bias", (64,)),
        "a layer more": more("blk.6.attn_norm.weight", (64,)),
        "a layer of its own rotation": more("blk.5.rope_freqs.weight", (16,)),
        "a classifier": more("cls.output.weight", (2, 64)),
        "centroids": more("masked_embd_centroids.weight", (1,)),
        "query, key and value twice": more("blk.0.attn_qkv.weight", (128, 64)),
        "nobody's": more("x" * 63, (1,)),
    }
    for architecture in BOTH:
        for what, change in extra.items():
            yield architecture, what, change
    yield DRAFTER, "keys of its own", more("blk.0.attn_k.weight", (32, 32))
    yield DRAFTER, "an output of its own", more("output.weight", (1024, 32))
    yield TEXT, "projections of a drafter", more("nextn.pre_projection.weight", (64, 128))
    yield TEXT, "an untied output of integers", more("output.weight", (1024, 64), T.I32)
    yield TEXT, "an untied output of another width", more("output.weight", (1024, 32))


ROWS = [pytest.param(a, c, id=f"{a}-{n}") for a, n, c in (*types(), *shapes(), *names())]


@pytest.mark.parametrize(("architecture", "change"), ROWS)
def test_tensors_that_llama_cpp_would_end_the_process_over(
    architecture: str, change: Change, unchanged: dict[str, Piece]
) -> None:
    held = rewrite.copied(unchanged)
    change(held[architecture])
    one_line(lambda: check(held, architecture), Path("FILE"))


@pytest.mark.parametrize("architecture", BOTH)
def test_every_tensor_is_missed(architecture: str, unchanged: dict[str, Piece]) -> None:
    for name in unchanged[architecture].tensors:
        held = rewrite.copied(unchanged)
        del held[architecture].tensors[name]
        with pytest.raises(FormatError, match="has no tensor"):
            check(held, architecture)


NULS: dict[str, Change] = {
    "a tensor": lambda piece: piece.shape("output_norm.weight\0x", (64,), T.F32, bytes(256)),
    "a key": lambda piece: piece.put("block_count\0x", V.UINT32, 600),
}


@pytest.mark.parametrize("name", NULS)
def test_names_with_a_nul(name: str, changed: Callable[..., Path]) -> None:
    """C would end the name there, and find the tensor or the key twice."""
    path = changed(NULS[name], TEXT)
    assert "NUL" in one_line(lambda: Gemma4(path), path)


# ── what may be ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", sorted(MATRIX_TYPES), ids=lambda kind: kind.name)
def test_every_type_that_passes_is_computed(kind: T, changed: Callable[..., Path]) -> None:
    """Matrices in each type that the table allows, where rows divide into its blocks: an answer, not an end."""

    def all_matrices(piece: Piece) -> None:
        for name, (_, shape, _) in list(piece.tensors.items()):
            if len(shape) == 2 and shape[-1] % GGML_QUANT_SIZES[kind][0] == 0:
                piece.shape(name, shape, kind, b"\0")

    with Gemma4(changed(all_matrices, TEXT, DRAFTER), context=64, threads=1, draft=3) as model:
        model.load()
        with suppress(NativeError):  # zeros may come to nothing finite
            assert model.generate("Hi", max_tokens=3, seed=1).tokens.completion


def test_a_head_of_its_own_and_one_matrix_for_three(changed: Callable[..., Path]) -> None:
    def other(piece: Piece) -> None:
        piece.tensors["output.weight"] = piece.tensors["token_embd.weight"]
        parts = [piece.tensors.pop(f"blk.0.attn_{name}.weight") for name in "qkv"]
        joined = b"".join(raw for _, _, raw in parts)
        piece.tensors["blk.0.attn_qkv.weight"] = T.F32, (sum(shape[0] for _, shape, _ in parts), 64), joined

    with Gemma4(changed(other, TEXT), context=64, threads=1) as model:
        assert model.generate("Hi", max_tokens=3, seed=1).tokens.completion
