"""The whole model: passages of token ids and soft tokens become states, layer by layer, and logits.

All passages go through a layer together, so that each matrix is read once. Only attention looks at them one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .arithmetic import BLOCK, Floats, Whole, attend, frequencies, gelu, rms_norm, rotate, visible
from .weights import Numbers, Weights

SLAB = 16_384  # rows of the embedding, or of the output matrix, in memory at a time


@dataclass(frozen=True)
class Soft:
    """A picture's or a clip's soft tokens, float32 [n, hidden], at positions from `start` on."""

    start: int
    rows: Floats
    picture: bool


@dataclass(frozen=True)
class Passage:
    """A prompt: `ids` int64 [n], the placeholders' where soft tokens go."""

    ids: Whole
    soft: Sequence[Soft] = ()

    def pictures(self) -> Whole:
        """The number of the picture that each position belongs to, int64 [n]; 0 is none."""
        numbers = np.zeros(len(self.ids), np.int64)
        for number, soft in enumerate((s for s in self.soft if s.picture), 1):
            numbers[soft.start : soft.start + len(soft.rows)] = number
        return numbers


@dataclass(frozen=True)
class Cached:
    """Keys after rotation and values of one layer for one passage, float32 [n, key heads, head]."""

    keys: Floats
    values: Floats


@dataclass
class Layer:
    """Layer `number` of a model or of a drafter: its tensors, and what is read off their shapes and the config."""

    weights: Weights
    number: int
    sliding: bool = field(init=False)

    def __post_init__(self) -> None:
        self.sliding = self.weights.numbers.sliding[self.number]

    @property
    def numbers(self) -> Numbers:
        return self.weights.numbers

    def tensor(self, name: str) -> Floats:
        return self.weights.whole(f"layers.{self.number}.{name}")

    def norm(self, x: Floats, name: str) -> Floats:
        return rms_norm(x, self.numbers.epsilon, self.tensor(f"{name}.weight"))

    def times(self, x: Floats, name: str) -> Floats:
        """X [n, columns] by a matrix [rows, columns] -> [n, rows]."""
        product: Floats = x @ self.tensor(f"{name}.weight").T
        return product

    def heads(self, x: Floats) -> Floats:
        """[n, heads * head] -> [n, heads, head]."""
        return x.reshape(len(x), -1, *self.weights.shape(f"layers.{self.number}.self_attn.q_norm.weight"))

    def turned(self, x: Floats, positions: Whole) -> Floats:
        numbers = self.numbers
        theta, fraction = (numbers.sliding_theta, 1.0) if self.sliding else (numbers.theta, numbers.fraction)
        return rotate(x, positions, frequencies(x.shape[-1], theta, fraction))

    def queries(self, x: Floats, positions: Whole) -> Floats:
        return self.turned(self.norm(self.heads(self.times(x, "self_attn.q_proj")), "self_attn.q_norm"), positions)

    def cached(self, x: Floats, positions: Whole) -> Cached:
        """Full layers have no v_proj: their values are the keys before norm and rotation. Values are normed too."""
        raw = self.heads(self.times(x, "self_attn.k_proj"))
        own = f"layers.{self.number}.self_attn.v_proj.weight" in self.weights
        values = self.heads(self.times(x, "self_attn.v_proj")) if own else raw
        keys = self.turned(self.norm(raw, "self_attn.k_norm"), positions)
        return Cached(keys, self.values(values))

    def values(self, x: Floats) -> Floats:
        return rms_norm(x, self.numbers.epsilon)

    def after(self, h: Floats, attended: Floats) -> Floats:
        """What follows attention: its output matrix, the feed-forward step, and the layer's scalar."""
        h = h + self.norm(self.times(attended, "self_attn.o_proj"), "post_attention_layernorm")
        x = self.norm(h, "pre_feedforward_layernorm")
        gate = gelu(self.times(x, "mlp.gate_proj"))
        x = np.multiply(gate, self.times(x, "mlp.up_proj"), out=gate)
        h = h + self.norm(self.times(x, "mlp.down_proj"), "post_feedforward_layernorm")
        return h * self.tensor("layer_scalar")


class Model:
    """A text model and what embeds pictures and sound for it: see `embedder`."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.layers = [Layer(weights, i) for i in range(len(weights.numbers.sliding))]
        self.vocabulary, self.hidden = weights.shape("embed_tokens.weight")

    def embed(self, passage: Passage) -> Floats:
        """float32 [n, hidden]. Token rows are scaled by sqrt(hidden); soft tokens are not."""
        out: Floats = self.rows(passage.ids) * np.float32(np.sqrt(self.hidden))
        for soft in passage.soft:
            out[soft.start : soft.start + len(soft.rows)] = soft.rows
        return out

    def rows(self, ids: Whole) -> Floats:
        """Rows of the embedding as they are stored, float32 [n, hidden]."""
        rows = [self.weights.rows("embed_tokens.weight", int(i), int(i) + 1).copy() for i in ids]
        found: Floats = np.concatenate(rows)
        return found

    def layer(
        self, number: int, states: Sequence[Floats], passages: Sequence[Passage]
    ) -> tuple[list[Floats], list[Cached]]:
        """One layer: the state [n, hidden] of each passage before it -> after it, and the layer's cache."""
        layer = self.layers[number]
        window = layer.numbers.window if layer.sliding else None
        lengths = [len(p.ids) for p in passages]
        ends = np.cumsum(lengths)[:-1]
        h, positions = np.concatenate(list(states)), np.concatenate([np.arange(n) for n in lengths])
        x = layer.norm(h, "input_layernorm")
        queries, cached = layer.queries(x, positions), layer.cached(x, positions)
        kept = [Cached(k, v) for k, v in zip(*(np.split(a, ends) for a in (cached.keys, cached.values)), strict=True)]
        attended = []
        for q, own, passage in zip(np.split(queries, ends), kept, passages, strict=True):
            every, pictures = np.arange(len(q)), passage.pictures()
            for start in range(0, len(q), BLOCK):
                block = every[start : start + BLOCK]
                attended.append(attend(q[block], own.keys, own.values, visible(block, every, pictures, window)))
        return list(np.split(layer.after(h, np.concatenate(attended)), ends)), kept

    def run(self, passages: Sequence[Passage]) -> Iterator[tuple[list[Floats], list[Cached]]]:
        """The states and caches of every layer, in order."""
        states = [self.embed(p) for p in passages]
        for number in range(len(self.layers)):
            states, cached = self.layer(number, states, passages)
            yield states, cached

    def final(self, states: Floats) -> Floats:
        """The norm behind the last layer: what the logits, and a drafter, are computed from."""
        return rms_norm(states, self.weights.numbers.epsilon, self.weights.whole("norm.weight"))

    def logits(self, final: Floats) -> Floats:
        """float32 [n, vocabulary] of `final` states [n, hidden]."""
        return capped(self.weights, final)


def capped(weights: Weights, final: Floats) -> Floats:
    """Logits by the output matrix, which is the embedding where there is no other, with the softcap if there is one."""
    name = "lm_head.weight" if "lm_head.weight" in weights else "embed_tokens.weight"
    out = np.empty((len(final), weights.shape(name)[0]), np.float32)
    for start in range(0, out.shape[1], SLAB):
        stop = min(start + SLAB, out.shape[1])
        np.matmul(final, weights.rows(name, start, stop).T, out=out[:, start:stop])
    cap = weights.numbers.softcap
    return out if cap is None else np.float32(cap) * np.tanh(out / np.float32(cap))
