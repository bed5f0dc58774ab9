"""Trained weights -> folders in the Hub's layout, bf16, and back.

In: the averaged weights of the target and the drafter. Out: models/tiny and models/tiny-assistant. Knows the
checkpoint's names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from . import config as c
from .drafter import Drafter
from .network import Layer, Target
from .texts import TEMPLATE

NORMS = {
    "norm_in": "input_layernorm",
    "norm_out": "post_attention_layernorm",
    "norm_ffn": "pre_feedforward_layernorm",
    "norm_ffn_out": "post_feedforward_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}


def layer_tensors(layer: Layer, prefix: str) -> dict[str, torch.Tensor]:
    """One `network.Layer` -> {checkpoint name: tensor}."""
    d = layer.dim
    out = {}
    parts = {"q_proj": c.HEADS, "k_proj": layer.kv, "v_proj": layer.kv} if layer.own_kv else {"q_proj": c.HEADS}
    if layer.full:
        parts.pop("v_proj", None)  # full layers take their values from k_proj
    at = 0
    for name, heads in parts.items():
        out[f"{prefix}self_attn.{name}.weight"] = layer.qkv[at : at + heads * d]
        at += heads * d
    assert at == len(layer.qkv)
    out[prefix + "self_attn.o_proj.weight"] = layer.o
    half = len(layer.gate_up) // 2
    out[prefix + "mlp.gate_proj.weight"], out[prefix + "mlp.up_proj.weight"] = (
        layer.gate_up[:half],
        layer.gate_up[half:],
    )
    out[prefix + "mlp.down_proj.weight"] = layer.down
    for own, name in NORMS.items():
        if hasattr(layer, own):
            out[f"{prefix}{name}.weight"] = getattr(layer, own)
    out[prefix + "layer_scalar"] = torch.tensor([layer.scalar])
    return out


def target_tensors(model: Target) -> dict[str, torch.Tensor]:
    out = {"model.language_model.embed_tokens.weight": model.embedding, "model.language_model.norm.weight": model.norm}
    for i, layer in enumerate(model.layers):
        out |= layer_tensors(layer, f"model.language_model.layers.{i}.")
    v, eye = model.vision, "model.vision_embedder."
    out |= {
        eye + "patch_ln1.weight": v.ln1_weight,
        eye + "patch_ln1.bias": v.ln1_bias,
        eye + "patch_dense.weight": v.dense,
        eye + "patch_dense.bias": v.dense_bias,
        eye + "patch_ln2.weight": v.ln2_weight,
        eye + "patch_ln2.bias": v.ln2_bias,
        eye + "pos_embedding": v.positions,
        eye + "pos_norm.weight": v.norm_weight,
        eye + "pos_norm.bias": v.norm_bias,
        "model.embed_vision.embedding_projection.weight": v.projection,
        "model.embed_audio.embedding_projection.weight": model.sound,
    }
    return out


@torch.no_grad()
def read(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Exported weights into the memory of a model, as `target_tensors` and `drafter_tensors` name its parts."""
    saved = load_file(folder / "model.safetensors")
    for name, place in tensors.items():
        place.copy_(saved[name])


def drafter_tensors(model: Drafter) -> dict[str, torch.Tensor]:
    out = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm,
        "pre_projection.weight": model.pre,
        "post_projection.weight": model.post,
    }
    for i, layer in enumerate(model.layers):
        out |= layer_tensors(layer, f"model.layers.{i}.")
    return out


def write(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], tokenizer_path: Path, target: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.detach().to(torch.bfloat16).contiguous().clone() for name, t in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "model.safetensors").chmod(0o644)  # it was written for its owner alone
    files = {
        "config.json": config,
        "generation_config.json": c.generation_config(),
        "tokenizer_config.json": c.tokenizer_config(),
    }
    if target:
        files["processor_config.json"] = c.processor_config()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    shutil.copyfile(tokenizer_path, folder / "tokenizer.json")
    if target:
        shutil.copyfile(TEMPLATE, folder / "chat_template.jinja")
