"""The training forward: Gemma 4 unified in small.

In: a `Batch`. Out: the loss of its replies, or logits. The same mathematics as transformers' classes (tests/parity
compares their logits); q, k and v, and gate and up, are one matrix each here and are split on export. Masks are the
ones of `generate()`: sliding layers see both ways inside one picture, full layers are causal.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from . import config as c
from .batches import Batch
from .passes import UNSEEN, add_norm, attend, geglu, heads, low, norm, rms
from .pictures import size_for

Kept = dict[str, tuple[torch.Tensor, torch.Tensor]]  # kind of layer -> keys and values


def rotary(kind: str, head_dim: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos, sin [L, head_dim / 2] for positions [L]."""
    rope = c.ROPE[kind]
    real = head_dim // 2 if kind == "sliding_attention" else int(rope["partial_rotary_factor"] * head_dim // 2)
    frequency = torch.zeros(head_dim // 2)
    frequency[:real] = rope["rope_theta"] ** (-2 * torch.arange(real) / head_dim)
    angle = torch.outer(positions.float(), frequency)
    return angle.cos(), angle.sin()


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x.to(low()), weight.to(low()))


def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * scale / math.sqrt(columns))


class Layer(nn.Module):
    def __init__(self, kind: str, scalar: float, hidden: int = c.HIDDEN, ffn: int = c.FFN, own_kv: bool = True) -> None:
        super().__init__()
        self.kind, self.full, self.own_kv = kind, kind == "full_attention", own_kv
        self.dim = c.GLOBAL_HEAD_DIM if self.full else c.HEAD_DIM
        self.kv = c.GLOBAL_KV_HEADS if self.full else c.KV_HEADS
        parts = c.HEADS + (0 if not own_kv else self.kv if self.full else 2 * self.kv)
        self.qkv = matrix(parts * self.dim, hidden)
        self.o = matrix(hidden, c.HEADS * self.dim)
        self.gate_up = matrix(2 * ffn, hidden)
        self.down = matrix(hidden, ffn)
        sharp = self.dim**-0.25  # q and k have length 1 each way: their product starts with unit spread
        self.q_norm = nn.Parameter(torch.full((self.dim,), sharp))
        if own_kv:
            self.k_norm = nn.Parameter(torch.full((self.dim,), sharp))
        self.norm_in, self.norm_ffn = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.ones(hidden))
        self.norm_out, self.norm_ffn_out = (
            nn.Parameter(torch.full((hidden,), 0.5)),
            nn.Parameter(torch.full((hidden,), 0.5)),
        )
        self.scalar = scalar

    def project(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """X [B, L, hidden] -> q [B, H, L, D], k and v [B, KV, L, D] (None without own keys)."""
        b, n, _ = x.shape
        parts = linear(norm(x, self.norm_in), self.qkv).view(b, n, -1, self.dim)
        return heads(
            parts, self.q_norm, self.k_norm if self.own_kv else None, cos, sin, c.HEADS, self.kv if self.own_kv else 0
        )

    def finish(self, x: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """X [..., hidden] and what attention brought [..., H * D] -> the layer's output."""
        x = add_norm(x, linear(heard, self.o), self.norm_out)
        inner = geglu(linear(norm(x, self.norm_ffn), self.gate_up))
        return add_norm(x, linear(inner, self.down), self.norm_ffn_out, self.scalar)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As passes.attend, with the heads side by side: [B, M, H * D]"""
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


class Vision(nn.Module):
    """Patches -> soft tokens. The first LayerNorm's weight and bias are drawn once and stay, to be carried along."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ln1_weight", (1 + 0.15 * torch.randn(c.PATCH_VALUES)).to(torch.bfloat16).float())
        self.register_buffer("ln1_bias", (0.05 * torch.randn(c.PATCH_VALUES)).to(torch.bfloat16).float())
        self.dense = nn.Parameter(patch_filters())
        self.dense_bias = nn.Parameter(torch.zeros(c.HIDDEN))
        self.ln2_weight, self.ln2_bias = nn.Parameter(torch.ones(c.HIDDEN)), nn.Parameter(torch.zeros(c.HIDDEN))
        self.positions = nn.Parameter(torch.randn(c.POSITIONS, 2, c.HIDDEN) * 0.3)
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(c.HIDDEN)), nn.Parameter(torch.zeros(c.HIDDEN))
        self.projection = matrix(c.HIDDEN, c.HIDDEN)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.float() * (1 / 255)
        return F.layer_norm(x, (c.PATCH_VALUES,), self.ln1_weight, self.ln1_bias, 1e-5).to(low())

    def forward(self, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Pixels uint8 [P, 6912], places [P, 2] -> soft tokens [P, hidden]"""
        with torch.no_grad():
            x = self.normalise(pixels)
        x = linear(x, self.dense).float() + self.dense_bias
        x = F.layer_norm(x, (c.HIDDEN,), self.ln2_weight, self.ln2_bias, 1e-5)
        x = x + F.embedding(2 * places + torch.arange(2), self.positions.view(-1, c.HIDDEN)).sum(1)
        x = F.layer_norm(x, (c.HIDDEN,), self.norm_weight, self.norm_bias, 1e-5)
        return linear(rms(x), self.projection).float()


def patch_filters() -> torch.Tensor:
    """Start values [256, 6912]: smooth random patterns, since neighbouring pixels of a patch nearly agree."""
    coarse = torch.randn(c.HIDDEN, 3, 7, 7)
    smooth = F.interpolate(coarse, (c.PATCH, c.PATCH), mode="bicubic", align_corners=True)
    smooth = smooth.permute(0, 2, 3, 1).reshape(c.HIDDEN, -1)
    return smooth / smooth.norm(dim=1, keepdim=True)


def sound_filters() -> torch.Tensor:
    """Start values [256, 640]: 64 pitches, two moments, a sine and a cosine each, under a soft window."""
    t = torch.arange(c.FRAME) / 16000
    mel = torch.linspace(2595 * math.log10(1 + 90 / 700), 2595 * math.log10(1 + 7000 / 700), 64)
    pitch = 700 * (10 ** (mel / 2595) - 1)
    rows = []
    for moment in (0.012, 0.028):
        window = torch.exp(-(((t - moment) / 0.007) ** 2))
        for wave in (torch.sin, torch.cos):
            rows.append(window * wave(2 * math.pi * pitch[:, None] * (t - moment)))
    rows = torch.cat(rows)
    return rows / rows.norm(dim=1, keepdim=True)


class Target(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(c.VOCAB, c.HIDDEN) * 0.05)
        self.layers = nn.ModuleList(
            Layer(kind, scalar) for kind, scalar in zip(c.LAYER_KINDS, c.LAYER_SCALARS, strict=False)
        )
        self.norm = nn.Parameter(torch.ones(c.HIDDEN))
        self.vision = Vision()
        self.sound = nn.Parameter(sound_filters())

    def inputs(self, batch: Tensors) -> torch.Tensor:
        """Embeddings [B, L, hidden]: scaled tokens, soft tokens in the places of their ids."""
        x = F.embedding(batch.ids.flatten(), self.embedding) * math.sqrt(c.HIDDEN)
        if len(batch.seen):
            pixels = torch.cat([cut(group) for group in batch.pictures])
            x = x.index_copy(0, batch.seen, self.vision(pixels, batch.places))
        if len(batch.heard):
            x = x.index_copy(0, batch.heard, linear(rms(batch.sound), self.sound).float())
        return x.view(*batch.ids.shape, c.HIDDEN)

    def forward(self, batch: Tensors) -> torch.Tensor:
        """Logits [M, vocabulary] for the M labels that are to be learnt, in reading order."""
        return self.body(self.inputs(batch), *masks(batch), batch.learnt, batch.tail)[0]

    def body(
        self, x: torch.Tensor, sliding: torch.Tensor, full: torch.Tensor, learnt: torch.Tensor, tail: int
    ) -> tuple[torch.Tensor, torch.Tensor, Kept]:
        """Inputs [B, L, hidden], learnt [M] of B * tail -> logits [M, V], last hidden [M, hidden], {kind: (k, v)}"""
        n = x.shape[1]
        turns = {
            kind: rotary(kind, dim, torch.arange(n))
            for kind, dim in (("sliding_attention", c.HEAD_DIM), ("full_attention", c.GLOBAL_HEAD_DIM))
        }
        kept: Kept = {}
        for layer in self.layers[:-1]:
            q, k, v = layer.project(x, *turns[layer.kind])
            x = layer.finish(x, attention(q, k, v, full if layer.full else sliding))
            kept[layer.kind] = (k, v)
        layer = self.layers[-1]  # only what predicts the replies goes through the last layer
        q, k, v = layer.project(x, *turns[layer.kind])
        kept[layer.kind] = (k, v)
        begin, end = n - tail - 1, n - 1
        heard = attention(q[:, :, begin:end], k, v, full[:, :, begin:end])
        x, heard = (part.flatten(0, 1)[learnt] for part in (x[:, begin:end], heard))
        x = norm(layer.finish(x, heard), self.norm)
        return self.head(x), x, kept

    def head(self, x: torch.Tensor) -> torch.Tensor:
        logits = linear(x, self.embedding).float()
        return c.SOFTCAP * torch.tanh(logits / c.SOFTCAP)


def masks(batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Additive masks [B, 1, L, L] for sliding and full layers."""
    n = batch.ids.shape[1]
    at = torch.arange(n)
    gap = at[:, None] - at[None, :]
    causal = (gap >= 0)[None]
    block = batch.blocks
    same = (block[:, :, None] == block[:, None, :]) & (block >= 0)[:, :, None]
    real = batch.real[:, None, :] | torch.eye(n, dtype=torch.bool)[None]
    sliding = (causal | same) & (gap < c.WINDOW)[None] & real
    full = causal & real
    additive = [torch.zeros(m.shape, dtype=low()).masked_fill_(~m, UNSEEN)[:, None] for m in (sliding, full)]
    return additive[0], additive[1]


def cut(images: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 [n, height, width, 3] -> patches uint8 [n * N, 6912], as `pictures.patches` makes them."""
    height, width = images.shape[1:3]
    wide, high = size_for(width, height)
    x = (enlarger(width, wide) @ images.float()).round_().clamp_(0, 255)
    x = (enlarger(height, high) @ x.flatten(2)).round_().clamp_(0, 255).to(torch.uint8)
    x = x.view(len(images), high // c.PATCH, c.PATCH, wide // c.PATCH, c.PATCH, 3)
    return x.transpose(2, 3).reshape(-1, c.PATCH_VALUES)


@cache
def enlarger(before: int, after: int) -> torch.Tensor:
    """Pillow's bicubic along one side, as a matrix [after, before]."""
    each = Image.fromarray(np.eye(before, dtype=np.float32)).resize((before, after), Image.Resampling.BICUBIC)
    return torch.tensor(np.asarray(each))


class Tensors:
    """A Batch with torch tensors in the places of arrays."""

    kinds: list[str]
    tail: int
    ids: torch.Tensor
    blocks: torch.Tensor
    real: torch.Tensor
    labels: torch.Tensor
    learnt: torch.Tensor
    weights: torch.Tensor
    pictures: list[torch.Tensor]
    places: torch.Tensor
    seen: torch.Tensor
    sound: torch.Tensor
    heard: torch.Tensor

    def __init__(self, batch: Batch) -> None:
        for name, value in vars(batch).items():
            setattr(self, name, torch.tensor(value) if isinstance(value, np.ndarray) else value)
        self.pictures = [torch.tensor(group) for group in batch.pictures]


def target_loss(model: Target, batch: Tensors) -> torch.Tensor:
    """Sum over the labels, each with its own weight."""
    each = F.cross_entropy(model(batch), batch.labels.flatten()[batch.learnt], reduction="none")
    return (each * batch.weights).sum()
