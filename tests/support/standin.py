"""A stand-in checkpoint: Gemma 4 12B's structure with random weights, small enough for every test, or at its sizes.

Comes in: a folder and a few options. Goes out: config.json, tokenizer.json, safetensors and the rest, as on the Hub or
as transformers re-saves them, and the matching drafter. Same options, same bytes, on every machine: the weights come
from an integer hash, not from a library's random numbers. Needs only numpy. It knows nothing about GGUF.

The weights are random but scaled so that the numbers behave: soft tokens and embeddings have an RMS of about 1,
attention scores a standard deviation of 2 to 3, logits about 2, and the last token does not drown the layers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.standin_config import (
    DRAFTER_LAYERS,
    FRAME,
    GENERATION,
    PATCH,
    POSITIONS,
    PROCESSOR,
    REAL,
    SMALL,
    SOFTCAP,
    TOKENIZER_CONFIG,
    TRANSFORMERS,
    Sizes,
    checkpoint_config,
    drafter_config,
    drafter_kinds,
    layer_kinds,
)
from tests.support.standin_tokenizer import tokenizer_json

__all__ = [
    "DRAFTER_LAYERS",
    "FRAME",
    "REAL",
    "SMALL",
    "SOFTCAP",
    "bfloat16",
    "checkpoint_config",
    "write_checkpoint",
    "write_drafter",
]

FloatArray = npt.NDArray[np.float32]


SEED = 10  # of twelve tried, the one whose greedy answers repeat themselves least and whose best two tokens lie apart
VISION_NAMES: dict[str, dict[str, str]] = {  # what the checkpoint calls the embedder: as on the Hub, or as the module
    "hub": {},
    "module": {
        "model.vision_embedder.": "model.embed_vision.",
        "model.embed_vision.": "model.embed_vision.multimodal_embedder.",
    },
}


SLAB = 1 << 15  # values made at a time: they stay in the processor's cache, which is five times as fast


# ---- random numbers


def normal(shape: tuple[int, ...], name: str, seed: int) -> FloatArray:
    """float32 [shape], mean 0, standard deviation 1, the same bits whatever the numpy version and the processor."""
    return slab(name, seed, 0, int(np.prod(shape))).reshape(shape)


def slab(name: str, seed: int, first: int, count: int) -> FloatArray:
    """float32 [count]: values of the above from flat index `first` on.

    Each is the sum of the four 16-bit fields of a 64-bit hash of name, seed and index.
    """
    start = np.uint64(seed * 1_000_003 + 1)
    for byte in name.encode():
        start = _mix(start ^ np.uint64(byte))
    hashed = _mix(np.arange(first, first + count, dtype=np.uint64) + start)
    total = sum((hashed >> np.uint64(bits)) & np.uint64(0xFFFF) for bits in (0, 16, 32, 48))
    scale = np.sqrt(4 * (65536.0**2 - 1) / 12)
    return np.asarray((np.asarray(total, np.int64) - 2 * 65535) / scale, np.float32)


def _mix(x: Any) -> Any:
    """The finaliser of SplitMix64: uint64 in, uint64 out."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def bfloat16(values: FloatArray) -> bytes:
    """Little-endian bfloat16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return bytes((rounded >> np.uint32(16)).astype("<u2").tobytes())


# ---- tensors


@dataclass(frozen=True)
class Tensor:
    """One tensor under its Hub name: values are centre + spread * normal."""

    name: str
    shape: tuple[int, ...]
    spread: float
    centre: float = 0.0


def matrix(name: str, rows: int, columns: int) -> Tensor:
    return Tensor(name, (rows, columns), columns**-0.5)


def norm(name: str, width: int, centre: float = 1.0) -> Tensor:
    return Tensor(name, (width,), 0.1 * centre, centre)


def layer_tensors(z: Sizes, prefix: str, hidden: int, ffn: int, full: bool, shares_kv: bool) -> list[Tensor]:
    head, kv_heads = (z.global_head, z.global_kv_heads) if full else (z.head, z.kv_heads)
    tensors = [
        norm(f"{prefix}input_layernorm.weight", hidden),
        Tensor(f"{prefix}layer_scalar", (1,), 0.03, 0.85),  # under 1: the embedding fades, the layers decide
        matrix(f"{prefix}mlp.down_proj.weight", hidden, ffn),
        matrix(f"{prefix}mlp.gate_proj.weight", ffn, hidden),
        matrix(f"{prefix}mlp.up_proj.weight", ffn, hidden),
        norm(f"{prefix}post_attention_layernorm.weight", hidden, 0.8),
        norm(f"{prefix}post_feedforward_layernorm.weight", hidden, 0.8),
        norm(f"{prefix}pre_feedforward_layernorm.weight", hidden),
        matrix(f"{prefix}self_attn.o_proj.weight", hidden, z.heads * head),
        # Scores are not divided by sqrt(head): this sets their size.
        norm(f"{prefix}self_attn.q_norm.weight", head, 0.5),
        matrix(f"{prefix}self_attn.q_proj.weight", z.heads * head, hidden),
    ]
    if not shares_kv:
        tensors.append(norm(f"{prefix}self_attn.k_norm.weight", head, 0.5))
        tensors.append(matrix(f"{prefix}self_attn.k_proj.weight", kv_heads * head, hidden))
        if not full:  # full layers use the key projection as the value
            tensors.append(matrix(f"{prefix}self_attn.v_proj.weight", kv_heads * head, hidden))
    return tensors


def text_tensors(z: Sizes) -> list[Tensor]:
    prefix = "model.language_model."
    tensors = [matrix(f"{prefix}embed_tokens.weight", z.table.size, z.hidden)]
    tensors += [norm(f"{prefix}norm.weight", z.hidden, 2.0)]
    for i, kind in enumerate(layer_kinds(z)):
        tensors += layer_tensors(z, f"{prefix}layers.{i}.", z.hidden, z.ffn, kind == "full_attention", False)
    return tensors


def embedder_tensors(hidden: int) -> list[Tensor]:
    vision = "model.vision_embedder."
    tensors = [
        matrix("model.embed_audio.embedding_projection.weight", hidden, FRAME),
        matrix("model.embed_vision.embedding_projection.weight", hidden, hidden),
        matrix(f"{vision}patch_dense.weight", hidden, PATCH),
        Tensor(f"{vision}patch_dense.bias", (hidden,), 0.1),
        Tensor(f"{vision}pos_embedding", (POSITIONS, 2, hidden), 0.3),
    ]
    for part, width in (("patch_ln1", PATCH), ("patch_ln2", hidden), ("pos_norm", hidden)):
        tensors += [norm(f"{vision}{part}.weight", width), Tensor(f"{vision}{part}.bias", (width,), 0.1)]
    return tensors


def drafter_tensors(z: Sizes) -> list[Tensor]:
    hidden = z.drafter_hidden
    tensors = [
        matrix("model.embed_tokens.weight", z.table.size, hidden),
        norm("model.norm.weight", hidden, 2.0),
        matrix("pre_projection.weight", hidden, 2 * z.hidden),
        matrix("post_projection.weight", z.hidden, hidden),
    ]
    for i, kind in enumerate(drafter_kinds()):
        tensors += layer_tensors(z, f"model.layers.{i}.", hidden, z.drafter_ffn, kind == "full_attention", True)
    return tensors


# ---- files


def write_checkpoint(
    folder: Path,
    *,
    sizes: Sizes = SMALL,
    seed: int | None = SEED,
    dialect: str = "hub",
    vision_names: str = "hub",
    shards: int = 1,
    text_only: bool = False,
    prefix: str | None = None,
) -> Path:
    """Write the stand-in model into folder (made if need be) and return folder.

    dialect: "hub" or "resaved" (config.json as transformers 5.24 writes it). vision_names: "hub"
    (model.vision_embedder.*) or "module" (model.embed_vision.*). shards: how many safetensors files.
    text_only: no embedder, Gemma4UnifiedForCausalLM. prefix: what stands before the text tensors' names; the
    default is the architecture's own. seed None: every value is 0 and takes no disk, for whoever reads headers only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if prefix is None:
        prefix = "model." if text_only else "model.language_model."
    renames = VISION_NAMES[vision_names] | {"model.language_model.": prefix}
    tensors = text_tensors(sizes) + ([] if text_only else embedder_tensors(sizes.hidden))
    _write_json(folder / "config.json", checkpoint_config(sizes, dialect, text_only))
    if not text_only:
        _write_json(folder / "processor_config.json", PROCESSOR)
    _write_common(folder, sizes, dialect)
    _write_weights(folder, tensors, renames, seed, shards)
    return folder


def write_drafter(
    folder: Path, *, sizes: Sizes = SMALL, seed: int | None = SEED, dialect: str = "hub", shards: int = 1
) -> Path:
    """Write a drafter that fits the model of those sizes into folder (made if need be) and return folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", drafter_config(sizes, dialect))
    _write_common(folder, sizes, dialect)
    _write_weights(folder, drafter_tensors(sizes), {}, seed, shards)
    return folder


def _write_common(folder: Path, sizes: Sizes, dialect: str) -> None:
    never = {"suppress_tokens": [sizes.table.eoa, sizes.table.eoi], "transformers_version": TRANSFORMERS[dialect]}
    _write_json(folder / "generation_config.json", GENERATION | never)
    _write_json(folder / "tokenizer.json", tokenizer_json(sizes.table))
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG | {"model_max_length": sizes.context})
    template = Path(__file__).parents[2] / "gemma4gguf" / "chat" / "chat_template.jinja"
    if template.exists():
        (folder / "chat_template.jinja").write_bytes(template.read_bytes())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(folder: Path, tensors: list[Tensor], renames: dict[str, str], seed: int | None, shards: int) -> None:
    """Write safetensors by hand. Values depend on a tensor's Hub name, not on its new name nor on its shard."""
    order = sorted(((_renamed(t.name, renames), t) for t in tensors), key=lambda pair: pair[0])
    index: dict[str, str] = {}
    for k in range(shards):
        part = order[k * len(order) // shards : (k + 1) * len(order) // shards]
        file = "model.safetensors" if shards == 1 else f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, tensor in part:
            size = 2 * int(np.prod(tensor.shape))  # bfloat16
            header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [position, position + size]}
            position += size
            index[name] = file
        blob = json.dumps(header, separators=(",", ":")).encode()
        blob += b" " * (-len(blob) % 8)
        with open(folder / file, "wb") as out:
            out.write(len(blob).to_bytes(8, "little") + blob)
            if seed is None:
                out.truncate(out.tell() + position)
                continue
            for _, tensor in part:
                count = int(np.prod(tensor.shape))
                for first in range(0, count, SLAB):
                    random = slab(tensor.name, seed, first, min(SLAB, count - first)).astype(np.float64)
                    out.write(bfloat16((tensor.centre + tensor.spread * random).astype(np.float32)))
    if shards > 1:
        total = sum(2 * int(np.prod(t.shape)) for t in tensors)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _renamed(name: str, renames: dict[str, str]) -> str:
    old = max((old for old in renames if name.startswith(old)), key=len, default="")
    return renames.get(old, "") + name[len(old) :]
