"""Muon for the matrices inside the layers, Adam for tables, filters and norms, and a running mean of all weights.

In: named parameters with gradients. Out: the parameters, changed in place. State is a dictionary that torch.save can
hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

NEWTON = ((3.4445, -4.7750, 2.0315),) * 5  # Keller Jordan's quintic; singular values end near 1


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """G [n, rows, columns] -> the nearest matrices whose singular values are all about 1."""
    x = g.to(torch.bfloat16)
    flip = x.shape[1] > x.shape[2]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in NEWTON:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if flip else x).float()


class Optimizer:
    def __init__(
        self,
        model: nn.Module,
        muon_names: Sequence[str],
        lr_muon: float = 0.02,
        lr_adam: float = 0.003,
        decay: float = 0.1,
        mean: float = 0.998,
    ) -> None:
        self.named: dict[str, torch.Tensor] = dict(model.named_parameters())
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name, p in self.named.items():
            if any(part in name for part in muon_names) and p.ndim == 2:
                shapes.setdefault(tuple(p.shape), []).append(name)
        self.groups = list(shapes.values())
        grouped = {n for g in self.groups for n in g}
        self.rest = [n for n in self.named if n not in grouped]
        self.lr_muon, self.lr_adam, self.decay, self.mean = lr_muon, lr_adam, decay, mean
        self.step_number = 0
        self.momentum = {n: torch.zeros_like(p) for n, p in self.named.items()}
        self.square = {n: torch.zeros_like(self.named[n]) for n in self.rest}
        self.average = {n: p.detach().clone() for n, p in self.named.items()}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One step at `scale` (0 to 1) of the full learning rates; clears the gradients."""
        self.step_number += 1
        for group in self.groups:
            updates: list[torch.Tensor] = []
            for name in group:
                g, m = self.named[name].grad, self.momentum[name]
                m.lerp_(g, 0.05)
                updates.append(g.lerp(m, 0.95))
            turned = orthogonal(torch.stack(updates))
            rows, columns = turned.shape[1:]
            lr = self.lr_muon * scale * max(1.0, rows / columns) ** 0.5
            for name, update in zip(group, turned, strict=False):
                self.named[name].mul_(1 - self.lr_muon * scale * self.decay).add_(update, alpha=-lr)
        fix1, fix2 = 1 - 0.9**self.step_number, 1 - 0.99**self.step_number
        for name in self.rest:
            p, m, s = self.named[name], self.momentum[name], self.square[name]
            if p.grad is None:
                continue
            m.lerp_(p.grad, 0.1)
            s.mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
            p.addcdiv_(m, (s / fix2).sqrt_().add_(1e-8), value=-self.lr_adam * scale / fix1)
        keep = min(self.mean, self.step_number / (self.step_number + 20))
        names = list(self.named)
        torch._foreach_lerp_([self.average[n] for n in names], [self.named[n].detach() for n in names], 1 - keep)
        for p in self.named.values():
            p.grad = None

    def state(self) -> dict[str, Any]:
        return {"step": self.step_number, "momentum": self.momentum, "square": self.square, "average": self.average}

    def load(self, state: dict[str, Any]) -> None:
        self.step_number = state["step"]
        self.momentum, self.square, self.average = state["momentum"], state["square"], state["average"]
