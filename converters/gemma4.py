"""The tensor tables of Gemma 4 12B: what a checkpoint must hold, what each tensor is called in a GGUF, and its shape.

In: a `Config` and the checkpoint's tensors. Out: a `MappedTensor` for each tensor to write. One error lists all tensors
that are unknown, missing or of the wrong shape. Knows nothing of storage types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemma4gguf.errors import ConversionError

from .config import Config, EmbedderConfig, TextConfig
from .safetensors import StoredTensor, listed

Shape = tuple[int, ...]
Index = NDArray[np.int64]

TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")
EMBEDDER_PREFIXES = ("model.", "")
ANCHOR, HEAD = "embed_tokens.weight", "lm_head.weight"  # the embedding, and an output matrix of its own
UNROTATED = 1e30  # divides a rotary frequency to practically zero
SHOWN = 12  # problems in one message, and names in one of them
FIRST = "layers.0.input_layernorm.weight"  # every language model has it, and its drafter


@dataclass(frozen=True)
class TensorRule:
    """One line of a table: the GGUF name, the names it may have in a checkpoint, and its shape, rows first.

    `columns` gives, for each column as written, the checkpoint's column. `transpose` swaps the first two dimensions.
    """

    name: str
    names: tuple[str, ...]
    shape: Shape
    columns: Index | None = None
    transpose: bool = False

    @property
    def stored_shape(self) -> Shape:
        return (self.shape[1], self.shape[0], *self.shape[2:]) if self.transpose else self.shape


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a matrix: `scale` * b @ a, with a [rank, columns] and b [rows, rank].

    `embedding`: transposed, as PEFT stores an embedding's: a [rank, rows] and b [columns, rank].
    """

    a: StoredTensor
    b: StoredTensor
    scale: np.float32
    embedding: bool = False

    @property
    def shape(self) -> Shape:
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.embedding else (rows, columns)


@dataclass(frozen=True)
class MappedTensor:
    """A tensor to be written: its name and shape, and either where it is stored or its `values`.

    `columns` and `transpose` as in `TensorRule`. `change` is added to what is stored, before either.
    """

    name: str
    shape: Shape
    stored: StoredTensor | None
    values: NDArray[np.float32] | None = None
    columns: Index | None = None
    transpose: bool = False
    change: LowRank | None = None


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────────


def text_rows(text: TextConfig, tokens: int) -> list[TensorRule]:
    """The language model's tensors. `tokens` is the tokenizer's size: embedding rows beyond it are not written."""
    rows = [TensorRule("token_embd.weight", (ANCHOR,), (tokens, text.hidden))]
    if not text.tied:
        rows.append(TensorRule("output.weight", (HEAD,), (tokens, text.hidden)))
    rows.append(TensorRule("output_norm.weight", ("norm.weight",), (text.hidden,)))
    for layer in range(text.layers):
        rows += _layer_rows(text, layer)
    return rows


def _layer_rows(text: TextConfig, layer: int) -> list[TensorRule]:
    head, hidden, ffn = text.head_of(layer), text.hidden, text.ffn
    q, kv = text.heads * head, text.kv_heads[layer] * head
    table: list[tuple[str, str, Shape]] = [
        ("attn_norm.weight", "input_layernorm.weight", (hidden,)),
        ("attn_q.weight", "self_attn.q_proj.weight", (q, hidden)),
        ("attn_q_norm.weight", "self_attn.q_norm.weight", (head,)),
        ("attn_output.weight", "self_attn.o_proj.weight", (hidden, q)),
        ("post_attention_norm.weight", "post_attention_layernorm.weight", (hidden,)),
        ("ffn_norm.weight", "pre_feedforward_layernorm.weight", (hidden,)),
        ("ffn_gate.weight", "mlp.gate_proj.weight", (ffn, hidden)),
        ("ffn_up.weight", "mlp.up_proj.weight", (ffn, hidden)),
        ("ffn_down.weight", "mlp.down_proj.weight", (hidden, ffn)),
        ("post_ffw_norm.weight", "post_feedforward_layernorm.weight", (hidden,)),
        ("layer_output_scale.weight", "layer_scalar", (1,)),
    ]
    if text.owns_kv(layer):
        table += [
            ("attn_k.weight", "self_attn.k_proj.weight", (kv, hidden)),
            ("attn_k_norm.weight", "self_attn.k_norm.weight", (head,)),
        ]
        if text.sliding[layer] or not text.key_is_value:
            table.append(("attn_v.weight", "self_attn.v_proj.weight", (kv, hidden)))
    return [TensorRule(f"blk.{layer}.{name}", (f"layers.{layer}.{source}",), shape) for name, source, shape in table]


def embedder_rows(at: EmbedderConfig, target: int) -> list[TensorRule]:
    """The multimodal embedder's tensors. Names as on the Hub, then as transformers saves them."""
    order = plane_order(at.side)

    def vision(name: str) -> tuple[str, ...]:
        return (f"vision_embedder.{name}", f"embed_vision.{name}")

    rows = [
        TensorRule("v.patch_embd.weight", vision("patch_dense.weight"), (at.hidden, at.pixels), order),
        TensorRule("v.patch_embd.bias", vision("patch_dense.bias"), (at.hidden,)),
        TensorRule("v.position_embd.weight", vision("pos_embedding"), (2, at.positions, at.hidden), transpose=True),
    ]
    for number, name, width in ((1, "patch_ln1", at.pixels), (2, "patch_ln2", at.hidden), (3, "pos_norm", at.hidden)):
        for part in ("weight", "bias"):
            columns = order if number == 1 else None
            rows.append(TensorRule(f"v.patch_norm.{number}.{part}", vision(f"{name}.{part}"), (width,), columns))
    projection = "embedding_projection.weight"
    image = (f"embed_vision.{projection}", f"embed_vision.multimodal_embedder.{projection}")
    audio = (f"embed_audio.{projection}", f"embed_audio.multimodal_embedder.{projection}")
    rows.append(TensorRule("mm.input_projection.weight", image, (target, at.hidden)))
    rows.append(TensorRule("mm.a.input_projection.weight", audio, (target, at.frame)))
    return rows


def drafter_rows(text: TextConfig, target: int, tokens: int) -> list[TensorRule]:
    """The MTP drafter's tensors. `target` is the hidden size of its target model."""
    rows = [TensorRule(r.name, tuple(f"model.{s}" for s in r.names), r.shape) for r in text_rows(text, tokens)]
    rows.append(TensorRule("nextn.pre_projection.weight", ("pre_projection.weight",), (text.hidden, 2 * target)))
    rows.append(TensorRule("nextn.post_projection.weight", ("post_projection.weight",), (target, text.hidden)))
    return rows


def plane_order(side: int) -> Index:
    """int64 [side² * 3]: for each value in plane order (all red, all green, all blue), its index in pixel order."""
    pixel_order = np.arange(side * side * 3).reshape(side, side, 3)  # row, column, colour
    planes: Index = pixel_order.transpose(2, 0, 1).reshape(-1)
    return planes


def rope_frequencies(text: TextConfig) -> MappedTensor:
    """Divisors of a full layer's rotary frequencies, float32 [head / 2]: 1 where it rotates, UNROTATED elsewhere."""
    turning = int(text.full_head * text.rotary_fraction / 2)
    values = np.full(text.full_head // 2, UNROTATED, np.float32)
    values[:turning] = 1.0
    return MappedTensor("rope_freqs.weight", values.shape, None, values)


# ── matching ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Matched:
    """The tensors of each section."""

    text: tuple[MappedTensor, ...] = ()
    embedder: tuple[MappedTensor, ...] = ()
    drafter: tuple[MappedTensor, ...] = ()


def match(
    where: str, config: Config, tensors: Mapping[str, StoredTensor], tokens: int, *, text_only: bool = False
) -> Matched:
    """Find every tensor of the tables in a checkpoint.

    Raises one ConversionError that lists all tensors that are unknown, missing or of the wrong shape.
    """
    if config.kind == "drafter":
        assert config.target_hidden is not None
        rows = drafter_rows(config.text, config.target_hidden, tokens)
        found, problems, left = _find(rows, dict(tensors), ("",))
        # The drafters of the E2B and E4B order their vocabulary by centroids; the 12B's class may save unused buffers.
        left = {name: t for name, t in left.items() if "masked_embedding" not in name}
        _check(where, problems, left)
        return Matched(drafter=(*found, rope_frequencies(config.text)))
    prefix = text_prefix(where, tensors)
    found, problems, left = _find(text_rows(config.text, tokens), dict(tensors), (prefix,))
    text = (*found, rope_frequencies(config.text))
    embedder: list[MappedTensor] = []
    if config.embedder is not None:
        embedder, more, left = _find(embedder_rows(config.embedder, config.text.hidden), left, EMBEDDER_PREFIXES)
        if not embedder and not text_only and config.kind == "unified":
            raise ConversionError(
                f"{where}: has no multimodal embedder (no {more[0].removeprefix('missing ')} and so on), so the model "
                "could not see or hear; take its tensors from the base model, or use text_only=True"
            )
        if text_only or not embedder:
            embedder, more = [], []
        problems += more
    _check(where, problems, left)
    return Matched(text=text, embedder=tuple(embedder))


def names(config: Config, tokens: int) -> dict[str, tuple[str, ...]]:
    """For each tensor of the model by its GGUF name: what it may be called in a checkpoint."""
    found: list[tuple[TensorRule, tuple[str, ...]]]
    found = [(row, TEXT_PREFIXES) for row in text_rows(config.text, tokens)]
    if config.embedder is not None:
        found += [(row, EMBEDDER_PREFIXES) for row in embedder_rows(config.embedder, config.text.hidden)]
    return {row.name: tuple(p + n for p in prefixes for n in row.names) for row, prefixes in found}


def text_prefix(where: str, tensors: Mapping[str, StoredTensor]) -> str:
    """What comes before the names of the language model's tensors. Raises ConversionError unless there is one."""
    found = [p for p in TEXT_PREFIXES if p + ANCHOR in tensors or p + FIRST in tensors]
    if len(found) == 1:
        return found[0]
    if any("lora_" in name for name in tensors):
        raise ConversionError(f"{where}: holds LoRA weights; merge the adapter into its base model first")
    names = ", ".join(p + ANCHOR for p in TEXT_PREFIXES)
    raise ConversionError(
        f"{where}: {'several' if found else 'none'} of {names}; expected one; holds {listed(sorted(tensors), 6)}"
    )


def _find(
    rows: Iterable[TensorRule], tensors: dict[str, StoredTensor], prefixes: tuple[str, ...]
) -> tuple[list[MappedTensor], list[str], dict[str, StoredTensor]]:
    """The rows' tensors, their problems, and the tensors that no row matched."""
    found, problems = [], []
    for row in rows:
        names = [p + s for p in prefixes for s in row.names]
        name = next((n for n in names if n in tensors), None)
        if name is None:
            problems.append(f"missing {names[0]}")
            continue
        stored = tensors.pop(name)
        if not _fits(row, stored):
            problems.append(f"{name} is {list(stored.shape)}, expected {list(row.stored_shape)}")
            continue
        found.append(MappedTensor(row.name, row.shape, stored, None, row.columns, row.transpose))
    return found, problems, tensors


def _fits(row: TensorRule, stored: StoredTensor) -> bool:
    if row.names[-1] in (ANCHOR, f"model.{ANCHOR}", HEAD):  # further rows are padding
        return len(stored.shape) == 2 and stored.shape[0] >= row.shape[0] and stored.shape[1] == row.shape[1]
    return stored.shape == row.stored_shape or (row.shape == (1,) and stored.shape == ())


def _check(where: str, problems: list[str], left: Mapping[str, StoredTensor]) -> None:
    unknown = sorted(left)
    if unknown and all("lora_" in name for name in unknown):
        raise ConversionError(f"{where}: holds LoRA weights; merge the adapter into its base model first")
    if unknown:
        problems = [*problems, f"no place for {listed(unknown, SHOWN)}"]
    if problems:
        shown = [*problems[:SHOWN], *([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])]
        raise ConversionError(
            f"{where}: {len(problems)} tensor problems: {'; '.join(shown)}; take the checkpoint as it was published"
        )
