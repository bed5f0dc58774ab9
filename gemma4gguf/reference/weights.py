"""Where the reference finds its matrices: in a checkpoint's folder, or in a GGUF of any type, dequantised by gguf-py.

A path comes in; float32 arrays go out by the checkpoint's names without their prefixes, in the checkpoint's order, a
matrix or some of its rows at a time. The numbers that shapes do not tell are read here too, from config.json or from
the GGUF's keys, without the converter's help.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy as np

from converters import rows
from converters.weights import read_folder

from ..bundle.reading import EMBEDDER, Section
from .arithmetic import Floats

Shape = tuple[int, ...]
UNROTATED = 1e29  # a divisor of a frequency from which on it is practically zero


@dataclass(frozen=True)
class Numbers:
    """What shapes do not tell. `sliding`: of each layer. `fraction`: of a full layer's head that turns."""

    sliding: tuple[bool, ...]
    window: int
    epsilon: float
    softcap: float | None
    theta: float
    sliding_theta: float
    fraction: float
    vision_epsilon: float = 1e-6
    audio_epsilon: float = 1e-6


class Weights(Protocol):
    """A model's tensors by name, such as `layers.5.self_attn.q_proj.weight`."""

    numbers: Numbers

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> Shape: ...

    def rows(self, name: str, start: int, stop: int) -> Floats:
        """Some rows of a matrix, float32 [n, columns]."""

    def whole(self, name: str) -> Floats:
        """A tensor as float32, in its own shape."""


# ── a checkpoint ─────────────────────────────────────────────────────────────────────────────────────────────────


class Checkpoint:
    """A folder with safetensors, of a model or of a drafter. Raises ConversionError."""

    def __init__(self, folder: Path) -> None:
        tensors, _ = read_folder(folder)
        self._tensors = {plain(name): stored for name, stored in tensors.items()}
        self.numbers = from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))

    @property
    def names(self) -> list[str]:
        return sorted(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> Shape:
        return self._tensors[name].shape

    def rows(self, name: str, start: int, stop: int) -> Floats:
        return rows.Rows().read(self._tensors[name], start, stop)

    def whole(self, name: str) -> Floats:
        return rows.whole(self._tensors[name])


def plain(name: str) -> str:
    """A checkpoint's name as it is called here: the text model's without prefix, others after `vision.` or `audio.`."""
    name = re.sub(r"^(model\.|language_model\.)+", "", name)
    return re.sub(r"^(?:vision_embedder|embed_(vision|audio))\.(?:multimodal_embedder\.)?", _half, name)


def _half(found: re.Match[str]) -> str:
    return f"{found[1] or 'vision'}."


def from_config(config: Mapping[str, Any]) -> Numbers:
    text = config.get("text_config", config)
    rope = text["rope_parameters"]
    full, sliding = rope["full_attention"], rope["sliding_attention"]
    halves = (config.get(f"{half}_config") or {} for half in ("vision", "audio"))
    vision, audio = (half.get("rms_norm_eps", 1e-6) for half in halves)
    return Numbers(
        sliding=tuple(kind == "sliding_attention" for kind in text["layer_types"]),
        window=text["sliding_window"],
        epsilon=text["rms_norm_eps"],
        softcap=text.get("final_logit_softcapping"),
        theta=full["rope_theta"],
        sliding_theta=sliding["rope_theta"],
        fraction=full.get("partial_rotary_factor", 1.0),
        vision_epsilon=vision,
        audio_epsilon=audio,
    )


# ── a GGUF ───────────────────────────────────────────────────────────────────────────────────────────────────────

_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}
_OTHERS = {
    "embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "norm.weight": "output_norm.weight",
    "pre_projection.weight": "nextn.pre_projection.weight",
    "post_projection.weight": "nextn.post_projection.weight",
    "vision.patch_dense.weight": "v.patch_embd.weight",
    "vision.patch_dense.bias": "v.patch_embd.bias",
    "vision.pos_embedding": "v.position_embd.weight",
    **{
        f"vision.{name}.{part}": f"v.patch_norm.{i}.{part}"
        for i, name in ((1, "patch_ln1"), (2, "patch_ln2"), (3, "pos_norm"))
        for part in ("weight", "bias")
    },
    "vision.embedding_projection.weight": "mm.input_projection.weight",
    "audio.embedding_projection.weight": "mm.a.input_projection.weight",
}
_IN_PLANES = ("vision.patch_dense.weight", "vision.patch_ln1.weight", "vision.patch_ln1.bias")


class Sections:
    """The text model of a GGUF and its embedder, or a drafter alone: sections that were checked before.

    `numbers` replaces what the file's keys say. The embedder's planes and its two tables are put back in the
    checkpoint's order.
    """

    def __init__(self, model: Section, embedder: Section | None = None, numbers: Numbers | None = None) -> None:
        self._model, self._embedder = model, embedder
        self.numbers = numbers or _from_keys(model, embedder)

    def __contains__(self, name: str) -> bool:
        section, stored = self._find(name)
        return section is not None and stored in section.tensors

    def shape(self, name: str) -> Shape:
        section, stored = self._find(name)
        assert section is not None
        return section.tensors[stored].shape

    def rows(self, name: str, start: int, stop: int) -> Floats:
        section, stored = self._find(name)
        assert section is not None
        info = section.tensors[stored]
        raw = section.raw(stored).reshape(info.shape[0], -1)[start:stop]
        return np.asarray(gguf.quants.dequantize(np.asarray(raw), info.type), np.float32)

    def whole(self, name: str) -> Floats:
        section, stored = self._find(name)
        assert section is not None
        values = np.asarray(section.array(stored), np.float32)
        if name in _IN_PLANES:  # all red, all green, all blue -> row, column, colour
            side = int((values.shape[-1] // 3) ** 0.5)
            values = np.moveaxis(values.reshape(-1, 3, side, side), 1, 3).reshape(values.shape)
        return np.moveaxis(values, 0, 1) if name == "vision.pos_embedding" else values

    def _find(self, name: str) -> tuple[Section | None, str]:
        section = self._embedder if name.startswith(("vision.", "audio.")) else self._model
        layer = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        return section, f"blk.{layer[1]}.{_LAYER[layer[2]]}" if layer else _OTHERS[name]


def _from_keys(model: Section, embedder: Section | None) -> Numbers:
    keys, clip = model.metadata, {} if embedder is None else embedder.metadata
    arch = model.architecture
    divisors = model.array("rope_freqs.weight")
    return Numbers(
        sliding=tuple(keys[f"{arch}.attention.sliding_window_pattern"]),
        window=keys[f"{arch}.attention.sliding_window"],
        epsilon=keys[f"{arch}.attention.layer_norm_rms_epsilon"],
        softcap=keys.get(f"{arch}.final_logit_softcapping"),
        theta=keys[f"{arch}.rope.freq_base"],
        sliding_theta=keys[f"{arch}.rope.freq_base_swa"],
        fraction=float(np.mean(divisors < UNROTATED)),
        vision_epsilon=clip.get(f"{EMBEDDER}.vision.attention.layer_norm_epsilon", 1e-6),
        audio_epsilon=clip.get(f"{EMBEDDER}.audio.attention.layer_norm_epsilon", 1e-6),
    )
