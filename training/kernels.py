"""The fused passes of kernels.c as torch functions; plain torch where there is no C compiler.

In and out: tensors, float32 for the residual stream, bfloat16 beside matrix products. `norm`, `add_norm`, `geglu`,
`heads`, `attend`.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

EPS, LOW = 1e-6, torch.bfloat16
SOURCE = Path(__file__).with_name("kernels.c")


def compile_library() -> ctypes.CDLL:
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    library = Path(tempfile.gettempdir()) / f"tiny-kernels-{key}.so"
    if not library.exists():
        part = library.with_suffix(".part")
        subprocess.run(
            [
                "gcc",
                "-Ofast",
                "-march=native",
                "-mprefer-vector-width=512",
                "-fopenmp",
                "-shared",
                "-fPIC",
                str(SOURCE),
                "-o",
                str(part),
                "-lm",
            ],
            check=True,
            capture_output=True,
        )
        part.replace(library)
    return ctypes.CDLL(str(library))


try:
    _c: ctypes.CDLL | None = compile_library()
except (OSError, subprocess.CalledProcessError):
    _c = None


def call(name: str, *arguments: torch.Tensor | float | None) -> None:
    """Tensors go as pointers, whole numbers as long, floats as float; the number of threads comes last."""

    def of_c(a: torch.Tensor | float | None) -> Any:
        if isinstance(a, int):
            return ctypes.c_long(a)
        if isinstance(a, float):
            return ctypes.c_float(a)
        return ctypes.c_void_p(None if a is None else a.data_ptr())

    getattr(_c, name)(*map(of_c, arguments), ctypes.c_int(torch.get_num_threads()))


def rms(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = EPS) -> torch.Tensor:
    x = x.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return x if weight is None else x * weight


class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        n, d = x.numel() // x.shape[-1], x.shape[-1]
        out, inv = torch.empty(x.shape, dtype=LOW), torch.empty(n)
        call("norm_forward", x, w, out, inv, n, d, EPS)
        ctx.save_for_backward(x, w, inv)
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w, inv = ctx.saved_tensors
        n, d, g = len(inv), x.shape[-1], g.contiguous()
        gx, gw = torch.empty_like(x), torch.zeros(torch.get_num_threads(), d)
        call("norm_backward", x, w, inv, g, gx, gw, n, d)
        return gx, gw.sum(0)


class AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, scalar: float) -> torch.Tensor:
        x, y = x.contiguous(), y.contiguous()
        n, d = x.numel() // x.shape[-1], x.shape[-1]
        out, inv = torch.empty_like(x), torch.empty(n)
        call("add_forward", x, y, w, out, inv, n, d, EPS, scalar)
        ctx.save_for_backward(y, w, inv)
        ctx.scalar = scalar
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        y, w, inv = ctx.saved_tensors
        n, d, g = len(inv), y.shape[-1], g.contiguous()
        gx, gy, gw = torch.empty_like(g), torch.empty_like(y), torch.zeros(torch.get_num_threads(), d)
        call("add_backward", y, w, inv, g, gx, gy, gw, n, d, ctx.scalar)
        return gx, gy, gw.sum(0), None


class Geglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        f = x.shape[-1] // 2
        out = torch.empty(*x.shape[:-1], f, dtype=LOW)
        call("geglu_forward", x, out, x.numel() // (2 * f), f)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        f, gx = x.shape[-1] // 2, torch.empty_like(x)
        call("geglu_backward", x, g.contiguous(), gx, x.numel() // (2 * f), f)
        return (gx,)


class Heads(torch.autograd.Function):
    """parts [B, L, P, D] -> q [B, H, L, D], k and v [B, KV, L, D]; where there is no part for v, v comes from k's."""

    @staticmethod
    def forward(
        ctx: Any,
        parts: torch.Tensor,
        q_norm: torch.Tensor,
        k_norm: torch.Tensor | None,
        cos: torch.Tensor,
        sin: torch.Tensor,
        count: int,
        kv: int,
    ) -> tuple[torch.Tensor, ...]:
        parts = parts.contiguous()
        b, n, p, d = parts.shape
        jobs: list[tuple[int, int, torch.Tensor | None]] = [(0, count, q_norm)]
        if kv:
            jobs += [(count, kv, k_norm), (count if p == count + kv else count + kv, kv, None)]
        outs, invs = [], []
        for first, heads, w in jobs:
            out, inv = torch.empty(b, heads, n, d, dtype=LOW), torch.empty(b, heads, n)
            call("head_forward", parts, w, cos, sin, out, inv, b, n, p, first, heads, d, EPS)
            outs.append(out)
            invs.append(inv)
        ctx.save_for_backward(parts, cos, sin, *[w for *_, w in jobs if w is not None], *invs)
        ctx.jobs = [(first, heads, w is not None) for first, heads, w in jobs]
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        parts, cos, sin = saved[:3]
        weights, invs = saved[3 : -len(ctx.jobs)], saved[-len(ctx.jobs) :]
        b, n, p, d = parts.shape
        gx = torch.zeros(parts.shape)
        gws: list[torch.Tensor] = []
        for (first, heads, has_weight), inv, g in zip(ctx.jobs, invs, grads, strict=False):
            gw = torch.zeros(torch.get_num_threads(), d) if has_weight else None
            w = weights[len(gws)] if has_weight else None
            call("head_backward", parts, w, cos, sin, inv, g.contiguous(), gx, gw, b, n, p, first, heads, d)
            if gw is not None:
                gws.append(gw.sum(0))
        return (gx.to(LOW), *gws, *([None] * (2 - len(gws))), None, None, None, None)


class Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        b, h, m, d = q.shape
        kv, n = k.shape[1], k.shape[2]
        rows = q.reshape(b, kv, h // kv * m, d)  # heads that share keys are further rows
        p = rows @ k.transpose(2, 3)  # [B, KV, G * M, L]
        call("softmax_forward", p, mask, b, h, m, n)
        ctx.save_for_backward(rows, k, v, p)
        return (p @ v).view(b, h, m, d)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, k, v, p = ctx.saved_tensors
        shape, g = g.shape, g.reshape(rows.shape)
        gv = p.transpose(2, 3) @ g
        gs = g @ v.transpose(2, 3)
        call("softmax_backward", p, gs, gs.numel() // gs.shape[-1], gs.shape[-1])
        return (gs @ k).view(shape), gs.transpose(2, 3) @ rows, gv, None


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Q [B, H, M, D], k and v [B, KV, L, D], additive bfloat16 mask [B, 1, M, L] -> [B, H, M, D]"""
    if _c:
        return Attend.apply(q, k, v, mask.contiguous())
    groups = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(
        q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), attn_mask=mask, scale=1.0
    )


def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return Norm.apply(x, w) if _c else rms(x, w).to(LOW)


def add_norm(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, scalar: float = 1.0) -> torch.Tensor:
    """(x + rms(y) * w) * scalar"""
    return AddNorm.apply(x, y, w, scalar) if _c else (x + rms(y, w)) * scalar


def geglu(x: torch.Tensor) -> torch.Tensor:
    if _c:
        return Geglu.apply(x)
    gate, up = x.float().chunk(2, -1)
    return (F.gelu(gate, approximate="tanh") * up).to(LOW)


def heads(
    parts: torch.Tensor,
    q_norm: torch.Tensor,
    k_norm: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    count: int,
    kv: int,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Cos and sin [L, D / 2]."""
    if _c:
        out = Heads.apply(parts, q_norm, k_norm, cos, sin, count, kv)
        return out if kv else (*out, None, None)

    def turn(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        x = rms(x, w)
        one, two = x.chunk(2, -1)
        c, s = cos[:, None], sin[:, None]
        return torch.cat([one * c - two * s, two * c + one * s], -1).to(LOW).transpose(1, 2)

    q = turn(parts[:, :, :count], q_norm)
    if not kv:
        return q, None, None
    k = parts[:, :, count : count + kv]
    v = parts[:, :, count + kv :] if parts.shape[2] > count + kv else k
    return q, turn(k, k_norm), rms(v).to(LOW).transpose(1, 2)
