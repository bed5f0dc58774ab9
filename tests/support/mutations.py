"""Random changes to a bundle's pieces: types, values, shapes, names, data, whole models of other numbers.

In: pieces and a source of chance. Out: a word for what was changed; the pieces are changed in place. What comes out
parses nearly always, so that the checks behind the parser and llama.cpp itself are what is tried.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, TEXT
from gemma4gguf.bundle.schema import DRAFTER_KEYS, MATRIX_TYPES, TEXT_KEYS, Layer, Model, tensors

from .rewrite import Piece, Shape, encode_bytes

Pieces = dict[str, Piece]
WHOLE = {V.UINT8: 8, V.INT8: 7, V.UINT16: 16, V.INT16: 15, V.UINT32: 32, V.INT32: 31, V.UINT64: 64, V.INT64: 63}
REAL = (V.FLOAT32, V.FLOAT64)
NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 511, 512, 513, 600, 1000)
LARGE = (1 << 15, 1 << 16, (1 << 24) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 1e-6, 0.5, 2.0, 1e4, 1e30, 3e38, float("inf"), float("-inf"), float("nan"))
WORDS = ("", "foo", "none", "linear", "yarn", "longrope", "gemma4", "llama", "bert", "gpt2", "t5", "no_vocab", "x\0y")
# Keys that llama.cpp reads for some architecture or other, beside this one's own.
FOREIGN = (
    *("expert_count", "expert_used_count", "expert_feed_forward_length", "expert_gating_func", "expert_group_count"),
    *("pooling_type", "attention.causal", "attention.clamp_kqv", "attention.max_alibi_bias", "attention.scale"),
    *(
        "attention.layer_norm_epsilon",
        "attention.group_norm_groups",
        "attention.q_lora_rank",
        "leading_dense_block_count",
    ),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.yarn_log_multiplier"),
    *(
        "rope.dimension_sections",
        "nextn_predict_layers",
        "embedding_length_out",
        "logit_scale",
        "attn_logit_softcapping",
    ),
    *("attention.shared_kv_layers", "attention.temperature_length", "decoder_block_count", "ssm.conv_kernel"),
    *("classifier.output_labels", "final_logit_softcapping", "rope.dimension_count_swa", "attention.key_length_mla"),
    *("general.alignment", "general.file_type", "general.name", "general.tensor_extra.name", "general.type"),
    *("split.count", "split.no", "tokenizer.ggml.pre", "tokenizer.ggml.precompiled_charsmap"),
    *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.token_type_count"),
)
OWN = (
    *("general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p", "general.sampling.min_p"),
    *("gemma4gguf.eos_token_ids", "gemma4gguf.image.max_soft_tokens", "tokenizer.ggml.suppress_tokens"),
    *("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token"),
)
UNFIT = (AttributeError, TypeError, ValueError, OverflowError, struct.error)  # for a value that its type cannot hold


def mutate(held: Pieces, dice: random.Random) -> str:
    """Change one to three things. Returns what, in words."""
    count = dice.choices((1, 2, 3), (6, 2, 1))[0]
    return ", ".join(_one(held, dice) for _ in range(count))


def _one(held: Pieces, dice: random.Random) -> str:
    way = dice.choices(WAYS, WEIGHTS)[0]
    try:
        return way(held, dice)
    except (*UNFIT, KeyError):
        return f"no {way.__name__}"  # a value that its type cannot hold, a tensor that is gone


def _piece(held: Pieces, dice: random.Random) -> Piece:
    names = [name for name in held for _ in range({TEXT: 6, DRAFTER: 3}.get(name, 1))]
    return held[dice.choice(names)]


def _key(piece: Piece, dice: random.Random) -> str:
    own = [key for key in piece.pairs if key.startswith(f"{piece.architecture}.")]
    return dice.choice(own if own and dice.random() < 0.8 else list(piece.pairs))


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _value_of(kind: V, dice: random.Random, old: Any = None) -> Any:
    if kind is V.STRING:
        return dice.choice((*WORDS, "a" * dice.randrange(300), chr(dice.randrange(1, 0xD000))))
    if kind is V.BOOL:
        return dice.random() < 0.5
    if kind in REAL:
        base = old if isinstance(old, float) else 1.0
        value = dice.choice((*REALS, base * 2, base / 2, -base, dice.uniform(-10, 10), 10 ** dice.uniform(-40, 38)))
        return value if kind is V.FLOAT64 or not 3.4e38 < abs(value) < float("inf") else 3e38
    base = old if type(old) is int else 0
    value = dice.choice((*NUMBERS, *LARGE, base + 1, base - 1, base * 2, base // 2, dice.randrange(1 << 32)))
    top = 1 << WHOLE[kind]
    return value % top if dice.random() < 0.8 or kind.name.startswith("U") else -(value % top)


def _store(piece: Piece, key: str, kind: V, value: Any) -> None:
    """Under a whole name, whatever its beginning."""
    start = f"{piece.architecture}."
    piece.put(key.removeprefix(start) if key.startswith(start) else key, kind, value)


def _some_value(piece: Piece, key: str, kind: V, dice: random.Random) -> None:
    old = piece.values.get(key)
    if isinstance(old, list) and dice.random() < 0.7:
        new = list(old)
        for _ in range(dice.choice((1, 1, 2, len(new) or 1))):
            if new:
                new[dice.randrange(len(new))] = _value_of(kind, dice, new[0])
        change = dice.random()
        new = new[:-1] if change < 0.15 else [*new, _value_of(kind, dice)] if change < 0.3 else new
        _store(piece, key, kind, new)
    elif dice.random() < 0.1:
        _store(piece, key, kind, [_value_of(kind, dice) for _ in range(dice.choice((0, 1, 6, 7, 600)))])
    else:
        _store(piece, key, kind, _value_of(kind, dice, old))


def value(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    key = _key(piece, dice)
    kind, element = piece.types[key]
    if element is V.STRING:
        return vocabulary(held, dice)
    _some_value(piece, key, element or kind, dice)
    return f"value {key}={piece.values[key]!r:.40}"


def kind(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    key = _key(piece, dice)
    old, new = piece.values[key], dice.choice([each for each in V if each is not V.ARRAY])
    try:
        _store(piece, key, new, old if dice.random() < 0.7 else _value_of(new, dice))
    except UNFIT:  # the old value does not fit the new type
        _store(piece, key, new, _value_of(new, dice))
    return f"type {key}:{new.name}"


def foreign(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    key = piece.key(dice.choice((*FOREIGN, *OWN, *TEXT_KEYS, *DRAFTER_KEYS)))
    element = dice.choice((V.UINT32, V.UINT32, V.FLOAT32, V.BOOL, V.STRING, V.INT32, V.UINT64))
    _some_value(piece, key, element, dice)
    return f"key {key}={piece.values[key]!r:.40}"


def dropped(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    key = _key(piece, dice)
    if key == "general.architecture":
        return "nothing"
    for part in (piece.pairs, piece.values, piece.types):
        part.pop(key)
    return f"without {key}"


def alignment(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    piece.alignment = dice.choice((8, 16, 64, 128, 4096))
    piece.put("general.alignment", V.UINT32, piece.alignment)
    return f"alignment {piece.alignment}"


def vocabulary(held: Pieces, dice: random.Random) -> str:
    """One entry of a list of strings, in both vocabularies or in one."""
    name = dice.choice(("tokenizer.ggml.tokens", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"))
    chosen = [p for p in held.values() if name in p.pairs]
    if not chosen:
        return "nothing"
    rows = [str(word).encode() for word in chosen[0].values[name]]
    for _ in range(dice.choice((1, 1, 5))):
        at = dice.randrange(len(rows))
        odd = (b"", b"\0", b"\xff\xfe", b"<0x", b"<0xZZ>", b"a\0b", b"[EMPTY_5]", b" ", b"  ", b"a" * 5000)
        rows[at] = dice.choice((*odd, rows[dice.randrange(len(rows))], bytes(dice.choices(range(256), k=3))))
    rows = rows[: dice.randrange(len(rows))] if dice.random() < 0.1 else rows
    for piece in chosen if dice.random() < 0.7 else [dice.choice(chosen)]:
        piece.pairs[name] = encode_bytes(name, rows)
    return f"strings {name}"


# ── tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def tensor_type(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    name = dice.choice(list(piece.tensors))
    _, shape, _ = piece.tensors[name]
    new = dice.choice([each for each in T if shape[-1] % GGML_QUANT_SIZES[each][0] == 0])
    piece.shape(name, shape, new)
    return f"stored {name}:{new.name}"


def shape(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    name = dice.choice(list(piece.tensors))
    kind, old, _ = piece.tensors[name]
    dims: list[int] = list(old)
    way = dice.randrange(5)
    at = dice.randrange(len(dims))
    if way == 0:
        dims.reverse()
    elif way == 1 and len(dims) < 4:
        dims.insert(dice.randrange(len(dims) + 1), dice.choice((1, 1, 2)))
    elif way == 2 and len(dims) > 1:
        dims = [int(np.prod(dims))]
    else:
        dims[at] = max(1, dice.choice((dims[at] + 32, dims[at] - 32, dims[at] * 2, dims[at] // 2, dims[at] + 1, 1)))
    block = GGML_QUANT_SIZES[kind][0]
    dims[-1] = max(block, dims[-1] // block * block)
    piece.shape(name, tuple(dims))
    return f"shape {name}:{dims}"


def renamed(held: Pieces, dice: random.Random) -> str:
    """Another name for a tensor, two swapped, one gone, or one more."""
    piece = _piece(held, dice)
    name, other = dice.choice(list(piece.tensors)), dice.choice(list(piece.tensors))
    way = dice.randrange(4)
    if way == 0:
        piece.tensors[name], piece.tensors[other] = piece.tensors[other], piece.tensors[name]
    elif way == 1:
        del piece.tensors[name]
    else:
        new = dice.choice(
            ("a", name + "x", name.replace("weight", "scale"), name.replace("blk.0", "blk.7"), "output.weight")
        )
        new = dice.choice((new, "blk.0.ffn_gate_inp.weight", "blk.1.attn_qkv.weight", "per_layer_token_embd.weight"))
        piece.tensors[new] = piece.tensors[name] if way == 2 else piece.tensors.pop(name)
    return f"named {name}"


def data(held: Pieces, dice: random.Random) -> str:
    piece = _piece(held, dice)
    name = dice.choice(list(piece.tensors))
    kind, dims, raw = piece.tensors[name]
    new = bytearray(raw)
    way = dice.randrange(4)
    if way == 0:
        new[:] = bytes(len(new))
    elif way == 1:
        new[:] = dice.randbytes(len(new))
    elif kind is T.F32:
        values = np.frombuffer(new, np.float32)
        values[dice.randrange(len(values)) :] = np.float32(dice.choice(REALS))
    else:
        for _ in range(dice.choice((1, 10, 100))):
            new[dice.randrange(len(new))] = dice.randrange(256)
    piece.tensors[name] = kind, dims, bytes(new)
    return f"data {name}"


# ── whole models ─────────────────────────────────────────────────────────────────────────────────────────────────


def remade(held: Pieces, dice: random.Random) -> str:
    """Another text model, and a drafter that fits it, of numbers that agree: most of these the check lets pass."""
    text = held[TEXT]
    tokens = len(text.values["tokenizer.ggml.tokens"])
    layers = dice.choice((1, 2, 2, 3, 3, 4, 7))
    sliding = [dice.random() < 0.6 for _ in range(layers)]
    if dice.random() < 0.7:
        sliding[-2:] = [True, False][-layers:]
    full, swa = (2 * dice.choice((1, 2, 3, 4, 5, 8, 12, 16, 20, 32, 40, 64, 128)) for _ in range(2))
    heads = dice.choice((1, 1, 2, 3, 4, 6))
    kv = dice.choice([n for n in range(1, heads + 1) if heads % n == 0])
    width = dice.choice((1, 2, 3, 8, 31, 32, 33, 64, 96, 256))
    made = _numbers(text, dice, layers=layers, sliding=sliding, heads=heads, kv=kv, width=width, full=full, swa=swa)
    _fill(text, Model(tokens, width, full, made), dice)
    text.put("embedding_length_per_layer_input", V.UINT32, 0)
    held.pop(EMBEDDER, None)
    drafter = held.get(DRAFTER)
    if drafter is None:
        return "remade"
    own = dice.choice((1, 8, 32, 64, 96))
    kinds = [True] * dice.choice((0, 1, 3)) + [False]
    made = _numbers(drafter, dice, layers=len(kinds), sliding=kinds, heads=heads, kv=kv, width=own, full=full, swa=swa)
    for key in ("attention.sliding_window", "rope.freq_base", "rope.freq_base_swa"):
        start = len(DRAFTER) + 1
        drafter.put(key, text.types[f"{TEXT}.{key}"][0], text.values[f"{TEXT}.{key}"])
        assert drafter.pairs[f"{DRAFTER}.{key}"][8 + start :]
    drafter.put("embedding_length_out", V.UINT32, width)
    drafter.put("nextn_predict_layers", V.UINT32, len(kinds))
    _fill(drafter, Model(tokens, own, full, made, width), dice)
    return f"remade {layers} layers, width {width}, heads {heads}/{kv} of {swa} and {full}"


def _numbers(
    piece: Piece,
    dice: random.Random,
    *,
    layers: int,
    sliding: list[bool],
    heads: int,
    kv: int,
    width: int,
    full: int,
    swa: int,
) -> tuple[Layer, ...]:
    ffn = dice.choice((1, 2, 31, 32, 64, 256))
    for key, number in (
        *(("block_count", layers), ("embedding_length", width), ("feed_forward_length", ffn)),
        *(("attention.head_count", heads), ("attention.key_length", full), ("attention.value_length", full)),
        *(("attention.key_length_swa", swa), ("attention.value_length_swa", swa)),
        *(
            ("rope.dimension_count", 2 * dice.randint(1, full // 2)),
            ("rope.dimension_count_swa", 2 * dice.randint(1, swa // 2)),
        ),
        ("context_length", dice.choice((200, 8192))),
    ):
        piece.put(key, V.UINT32, number)
    if piece.architecture == TEXT:
        piece.put("attention.sliding_window", V.UINT32, dice.choice((1, 2, 31, 32, 64, 1000, 1 << 24)))
    piece.put("attention.head_count_kv", V.INT32, [kv] * layers)
    piece.put("attention.sliding_window_pattern", V.BOOL, sliding)
    return tuple(Layer(each, heads, kv, swa if each else full, ffn) for each in sliding)


def _fill(piece: Piece, model: Model, dice: random.Random) -> None:
    """Every tensor that such a model has, in types that its rows divide into."""
    fused = dice.random() < 0.2
    kept = [spec for spec in tensors(model, fused=lambda i: fused) if spec.required or dice.random() < 0.5]
    scale, first = dice.choice((0.0, 0.1, 1.0, 100.0, 1e20)), dice.choice((None, *MATRIX_TYPES))
    random_values = np.random.default_rng(dice.randrange(1 << 32))
    piece.tensors = {}
    for spec in kept:
        fits = sorted(each for each in spec.types if spec.shape[-1] % GGML_QUANT_SIZES[each][0] == 0)
        kind = first if first in fits else dice.choice(fits)
        piece.tensors[spec.name] = kind, spec.shape, _values(spec.shape, kind, scale, random_values, dice)


def _values(dims: Shape, kind: T, scale: float, chance: np.random.Generator, dice: random.Random) -> bytes:
    count = int(np.prod(dims))
    if kind is T.F32:
        return np.asarray(chance.normal(size=count) * scale, np.float32).tobytes()
    if kind is T.F16:
        return np.asarray(np.clip(chance.normal(size=count) * scale, -6e4, 6e4), np.float16).tobytes()
    block, size = GGML_QUANT_SIZES[kind]
    raw = dice.randbytes(count // block * size)
    return raw if dice.random() < 0.3 else bytes(len(raw))


WAYS: tuple[Callable[[Pieces, random.Random], str], ...] = (
    *(value, kind, foreign, dropped, alignment, vocabulary),
    *(tensor_type, shape, renamed, data, remade),
)
WEIGHTS = (8, 3, 5, 2, 0.5, 1.5, 4, 3, 2, 3, 5)
