"""Muon for the matrices inside the layers, Adam for tables, filters and norms, and a running mean of all weights.

In: named parameters with gradients. Out: the parameters, changed in place. State is a dictionary that torch.save can
hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .passes import low

NEWTON = ((3.4445, -4.7750, 2.0315),) * 5  # Keller Jordan's quintic; singular values end near 1


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """G [n, rows, columns] -> the nearest matrices whose singular values are all about 1."""
    x = g.to(low())
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
            self._muon(group, scale)
        self._adam([n for n in self.rest if self.named[n].grad is not None], scale)
        keep = min(self.mean, self.step_number / (self.step_number + 20))
        torch._foreach_lerp_(list(self.average.values()), [self.named[n].detach() for n in self.average], 1 - keep)
        for p in self.named.values():
            p.grad = None

    def _muon(self, names: list[str], scale: float) -> None:
        """Matrices of one shape."""
        own, grads = [self.named[n].detach() for n in names], self._grads(names)
        momentum = [self.momentum[n] for n in names]
        torch._foreach_lerp_(momentum, grads, 0.05)
        turned = orthogonal(torch.stack(torch._foreach_lerp(grads, momentum, 0.95)))
        rows, columns = turned.shape[1:]
        torch._foreach_mul_(own, 1 - self.lr_muon * scale * self.decay)
        torch._foreach_add_(own, list(turned), alpha=-self.lr_muon * scale * max(1.0, rows / columns) ** 0.5)

    def _adam(self, names: list[str], scale: float) -> None:
        own, grads = [self.named[n].detach() for n in names], self._grads(names)
        momentum, square = [self.momentum[n] for n in names], [self.square[n] for n in names]
        torch._foreach_lerp_(momentum, grads, 0.1)
        torch._foreach_mul_(square, 0.99)
        torch._foreach_addcmul_(square, grads, grads, value=0.01)
        spread = torch._foreach_sqrt(torch._foreach_div(square, 1 - 0.99**self.step_number))
        torch._foreach_add_(spread, 1e-8)
        rate = self.lr_adam * scale / (1 - 0.9**self.step_number)
        torch._foreach_addcdiv_(own, momentum, spread, value=-rate)

    def _grads(self, names: list[str]) -> list[torch.Tensor]:
        grads = [self.named[n].grad for n in names]
        return [g for g in grads if g is not None]

    def state(self) -> dict[str, Any]:
        return {"step": self.step_number, "momentum": self.momentum, "square": self.square, "average": self.average}

    def load(self, state: dict[str, Any]) -> None:
        self.step_number = state["step"]
        self.momentum, self.square, self.average = state["momentum"], state["square"], state["average"]
