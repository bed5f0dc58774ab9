"""What a Gemma 4 text model and its MTP drafter are made of: tables of keys and tensors.

Every key that llama.cpp reads for these two architectures, with the types it may be stored as and the values it may
have; every tensor, with the shape that follows from the keys and the types it may be stored as. Only tables:
`validation` holds a section against them. Source: src/models/gemma4.cpp, gemma4-assistant.cpp, llama-model.cpp and
llama-hparams.h of the llama.cpp inside llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from .settings import BUDGETS, IMAGE_BUDGET

# llama.cpp's own bound on layers; the others are far above any model of this family and keep products of them in range.
MAX_LAYERS = 512
MAX_HEADS = 1024
MAX_HEAD = 4096  # values of one head
MAX_WIDTH = 1 << 20  # of a layer
MAX_POSITIONS = 1 << 24
MAX_TOKENS = 1 << 20

# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class KeyRule:
    """One key: how it may be stored, and which values it may have.

    `array`: types of the elements where it may be a list with one value for each layer.
    """

    types: tuple[V, ...]
    allowed: Callable[[Any], bool]
    expected: str
    required: bool = True
    array: tuple[V, ...] = ()


def _whole(low: int, high: int, *, required: bool = True, per_layer: bool = False) -> KeyRule:
    expected = str(low) if low == high else f"a whole number from {low:,} to {high:,}"
    array = (V.UINT32, V.INT32) if per_layer else ()
    return KeyRule((V.UINT32,), lambda v: low <= v <= high, expected, required, array)


def _real(low: float, high: float, *, required: bool = False, zero: bool = False) -> KeyRule:
    expected = f"a number from {low:g} to {high:g}" + (" or 0" if zero else "")
    return KeyRule((V.FLOAT32,), lambda v: (zero and v == 0) or low <= v <= high, expected, required)  # NaN is neither


def _one_of(kind: V, *values: Any, required: bool = False) -> KeyRule:
    return KeyRule((kind,), lambda v: v in values, " or ".join(map(repr, values)), required)


# Without the architecture before them. What is not here, this architecture has not: the check refuses it.
KEYS: dict[str, KeyRule] = {
    "block_count": _whole(1, MAX_LAYERS),
    "context_length": _whole(1, 1 << 30),
    "embedding_length": _whole(1, MAX_WIDTH),
    "feed_forward_length": _whole(1, MAX_WIDTH, per_layer=True),
    "vocab_size": _whole(1, MAX_TOKENS, required=False),
    "embedding_length_per_layer_input": _whole(0, 0),
    "attention.head_count": _whole(1, MAX_HEADS, per_layer=True),
    "attention.head_count_kv": _whole(1, MAX_HEADS, per_layer=True),
    "attention.key_length": _whole(2, MAX_HEAD),
    "attention.key_length_swa": _whole(2, MAX_HEAD),
    "attention.value_length": _whole(2, MAX_HEAD),
    "attention.value_length_swa": _whole(2, MAX_HEAD),
    "attention.sliding_window": _whole(1, MAX_POSITIONS),
    "attention.sliding_window_pattern": KeyRule(
        (), lambda v: v in (0, 1), "true or false for each layer", array=(V.BOOL, V.UINT32, V.INT32)
    ),
    "attention.layer_norm_rms_epsilon": _real(1e-12, 0.1, required=True),
    "attention.causal": _one_of(V.BOOL, True),
    "attention.scale": _real(1e-6, 1e6),
    "rope.dimension_count": _whole(2, MAX_HEAD, required=False),
    "rope.dimension_count_swa": _whole(2, MAX_HEAD, required=False),
    "rope.freq_base": _real(1, 1e12, required=True),
    "rope.freq_base_swa": _real(1, 1e12, required=True),
    "rope.scale_linear": _real(1e-3, 1e3),
    "rope.scaling.type": _one_of(V.STRING, "none", "linear", "yarn"),
    "rope.scaling.factor": _real(1e-3, 1e3),
    "rope.scaling.alpha": _real(1e-3, 1e3, zero=True),
    "rope.scaling.attn_factor": _real(1e-3, 1e3),
    "rope.scaling.original_context_length": _whole(1, 1 << 30, required=False),
    "rope.scaling.finetuned": KeyRule((V.BOOL,), lambda v: True, "true or false", required=False),
    "expert_count": _whole(0, 0, required=False),
    "expert_used_count": _whole(0, 0, required=False, per_layer=True),
    "expert_group_count": _whole(0, 0, required=False),
    "expert_group_used_count": _whole(0, 0, required=False),
    "pooling_type": _whole(0, 0, required=False),
    "final_logit_softcapping": _real(1e-3, 1e6, zero=True),
}
TEXT_KEYS = KEYS | {
    "attention.shared_kv_layers": _whole(0, 0, required=False),  # the 12B's layers all have keys of their own
    "embedding_length_out": _whole(1, MAX_WIDTH, required=False),
    "nextn_predict_layers": _whole(0, 0, required=False),
}
DRAFTER_KEYS = KEYS | {
    "attention.shared_kv_layers": _whole(0, MAX_LAYERS, required=False),
    "embedding_length_out": _whole(1, MAX_WIDTH),
    "nextn_predict_layers": _whole(1, MAX_LAYERS),
}

# What llama.cpp reads of any model, by whole names. Others that begin the same way are free.
_FLAG, _TEXT, _ID = (
    KeyRule((kind,), lambda v: True, what, required=False)
    for kind, what in (
        (V.BOOL, "true or false"),
        (V.STRING, "a text"),
        (V.UINT32, "a token's id"),
    )
)
GENERAL_KEYS: dict[str, KeyRule] = {
    "general.name": _TEXT,
    "general.file_type": KeyRule((V.UINT32,), lambda v: True, "a number", required=False),
    "general.tensor_extra.name": KeyRule((), lambda v: False, "none", required=False),
    "split.count": KeyRule((V.UINT16,), lambda v: v <= 1, "at most 1", required=False),
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.token_type_count": KeyRule((V.UINT32,), lambda v: True, "a number", required=False),
    **{
        f"tokenizer.ggml.{name}": _FLAG
        for name in (
            *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"),
            *("normalizer.lowercase", "normalizer.strip_accents"),
        )
    },
    **{
        f"tokenizer.ggml.{name}_token_id": _ID
        for name in (
            *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "prefix", "suffix", "middle"),
            *(f"fim_{part}" for part in ("pre", "suf", "mid", "pad", "rep", "sep")),
        )
    },
}


@dataclass(frozen=True)
class ListRule:
    """A list of the vocabulary: the types of its elements, and whether there is one for each token."""

    types: tuple[V, ...]
    each_token: bool = False
    required: bool = False


VOCABULARY_LISTS: dict[str, ListRule] = {
    "tokenizer.ggml.merges": ListRule((V.STRING,), required=True),
    "tokenizer.ggml.scores": ListRule((V.FLOAT32, V.INT32), each_token=True),
    "tokenizer.ggml.token_type": ListRule((V.INT32,), each_token=True),
    "tokenizer.ggml.suppress_tokens": ListRule((V.INT32,)),
}

# What the runtime itself reads of the text model, by its whole name. Other programs write some of them, in types of
# their own choice.
_WHOLES = (V.UINT8, V.INT8, V.UINT16, V.INT16, V.UINT32, V.INT32, V.UINT64, V.INT64)
_NUMBERS = (*_WHOLES, V.FLOAT32, V.FLOAT64)


def _number(allowed: Callable[[Any], bool], expected: str) -> KeyRule:
    return KeyRule(_NUMBERS, allowed, expected, required=False)


OWN_KEYS: dict[str, KeyRule] = {
    "general.sampling.temp": _number(lambda v: 0 <= v < math.inf, "0 or more"),
    "general.sampling.top_k": KeyRule(_WHOLES, lambda v: 0 <= v < 1 << 31, "0 or more", required=False),
    "general.sampling.top_p": _number(lambda v: 0 < v <= 1, "above 0, at most 1"),
    "general.sampling.min_p": _number(lambda v: 0 <= v <= 1, "0 to 1"),
    "general.sampling.penalty_repeat": _number(lambda v: 0 < v < math.inf, "above 0"),
    IMAGE_BUDGET: KeyRule(_WHOLES, lambda v: v in BUDGETS, " or ".join(map(str, BUDGETS)), required=False),
    "tokenizer.chat_template": KeyRule((V.STRING,), lambda v: True, "a text", required=False),
}
MAX_END_TOKENS = 1024
MAX_SPECIAL = 256  # characters of a special token

# ── tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────

VECTOR_TYPES = frozenset({T.F32})
MATRIX_TYPES = frozenset(T) - {T.Q8_1, T.Q8_K, T.I8, T.I16, T.I32, T.I64, T.F64}  # those the engine multiplies with


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: its shape (rows first), and whether a file may do without it. Vectors are float32."""

    name: str
    shape: tuple[int, ...]
    required: bool = True

    @property
    def types(self) -> frozenset[T]:
        return VECTOR_TYPES if len(self.shape) == 1 else MATRIX_TYPES


@dataclass(frozen=True)
class Layer:
    """One layer's numbers: heads, and values in each."""

    sliding: bool
    heads: int
    kv_heads: int
    head: int
    ffn: int


@dataclass(frozen=True)
class Model:
    """The numbers that shapes follow from. `out`: the target's width, where this is its drafter."""

    tokens: int
    width: int
    full_head: int
    layers: tuple[Layer, ...]
    out: int | None = None


def tensors(model: Model, *, fused: Callable[[int], bool] = lambda layer: False) -> Iterator[TensorSpec]:
    """Every tensor that a text model or a drafter may have. `fused(layer)`: query, key and value are one matrix."""
    yield TensorSpec("token_embd.weight", (model.tokens, model.width))
    yield TensorSpec("output_norm.weight", (model.width,))
    yield TensorSpec("rope_freqs.weight", (model.full_head // 2,))
    if model.out is None:
        yield TensorSpec("output.weight", (model.tokens, model.width), required=False)
    else:
        yield TensorSpec("nextn.pre_projection.weight", (model.width, 2 * model.out))
        yield TensorSpec("nextn.post_projection.weight", (model.out, model.width))
    for i, layer in enumerate(model.layers):
        for spec in _layer(layer, model.width, keys=model.out is None, fused=fused(i)):
            yield TensorSpec(f"blk.{i}.{spec.name}.weight", spec.shape, spec.required)


def _layer(layer: Layer, width: int, *, keys: bool, fused: bool) -> Iterator[TensorSpec]:
    q, kv = layer.heads * layer.head, layer.kv_heads * layer.head
    for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
        yield TensorSpec(name, (width,))
    yield TensorSpec("attn_q_norm", (layer.head,))
    yield TensorSpec("layer_output_scale", (1,))
    yield TensorSpec("attn_output", (width, q))
    yield TensorSpec("ffn_gate", (layer.ffn, width))
    yield TensorSpec("ffn_up", (layer.ffn, width))
    yield TensorSpec("ffn_down", (width, layer.ffn))
    if keys:
        yield TensorSpec("attn_k_norm", (layer.head,))
    if keys and fused:
        yield TensorSpec("attn_qkv", (q + 2 * kv, width))
        return
    yield TensorSpec("attn_q", (q, width))
    if keys:
        yield TensorSpec("attn_k", (kv, width))
        yield TensorSpec("attn_v", (kv, width), required=layer.sliding)  # full layers may use the keys as values
