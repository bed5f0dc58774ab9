"""The passes of a layer in plain torch: float32 for the residual stream, `low()` beside matrix products.

In and out: tensors. `low`, `norm`, `add_norm`, `geglu`, `heads`, `attend`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

EPS = 1e-6
UNSEEN = -1e9  # what a mask adds where nothing is seen
ROWS = 512  # that a CPU attends for at a time


def low() -> torch.dtype:
    """The type of matrix products: float32 on a CPU, since those without bfloat16 take nine times as long in it."""
    return torch.bfloat16 if torch.get_default_device().type == "cuda" else torch.float32


def rms(x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), weight, EPS)


def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return rms(x, w).to(low())


def add_norm(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, scalar: float = 1.0) -> torch.Tensor:
    """(x + rms(y) * w) * scalar"""
    total = x + rms(y, w)
    return total if scalar == 1.0 else total * scalar


def geglu(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, -1)
    return (F.gelu(gate.float(), approximate="tanh") * up).to(low())


def heads(
    parts: torch.Tensor,
    q_norm: torch.Tensor,
    k_norm: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    count: int,
    kv: int,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Parts [B, L, P, D] -> q [B, H, L, D], k and v [B, KV, L, D]; where there is no part for v, v comes from k's.

    Cos and sin [L, D / 2].
    """

    def turn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        one, two = rms(x, w).chunk(2, -1)
        c, s = cos[:, None], sin[:, None]
        return torch.cat([one * c - two * s, two * c + one * s], -1).to(low()).transpose(1, 2)

    q = turn(parts[:, :, :count], q_norm)
    if k_norm is None:
        return q, None, None
    k = parts[:, :, count : count + kv]
    v = parts[:, :, count + kv :] if parts.shape[2] > count + kv else k
    return q, turn(k, k_norm), rms(v).to(low()).transpose(1, 2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Q [B, H, M, D], k and v [B, KV, L, D], additive mask [B, 1, M, L] -> [B, H, M, D]"""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    heard = []  # a CPU works out what the mask hides, too: so some rows at a time, and only the keys that they see
    for rows, near in zip(q.split(ROWS, 2), mask.split(ROWS, 2), strict=True):
        seen = (near > UNSEEN).any(2).any(0)[0].nonzero()
        keys = slice(int(seen[0]), int(seen[-1]) + 1)
        part = near[..., keys]
        heard.append(F.scaled_dot_product_attention(rows, k[:, :, keys], v[:, :, keys], attn_mask=part, scale=1.0))
    return torch.cat(heard, 2)
