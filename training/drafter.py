"""The drafter: two narrow layers that read the target's keys and values and guess the next tokens of its replies.

In: a trained, fixed `network.Target` and batches. Out: the loss of chained guesses, or how many guesses the target
accepts. As the real one runs: input is the target's embedding of the last token beside a hidden state (the target's
after its final norm, then the drafter's own projection); the position stays at the last token through all steps;
sliding layers read the target's last sliding layer, the full one its last layer; no softcap. The labels are the
target's own greedy choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import config as c
from .batches import Batch
from .network import Kept, Layer, Target, Tensors, attention, linear, masks, matrix, rotary
from .passes import UNSEEN, low, norm

STEPS = 4


class Drafter(nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = [target]  # in a list: its weights are not the drafter's
        with torch.no_grad():  # start from the target's table, seen along its widest directions
            _, _, directions = torch.pca_lowrank(target.embedding, c.DRAFT_HIDDEN, center=False, niter=8)
            start = target.embedding @ directions
        self.embedding = nn.Parameter(start.clone())
        self.pre = matrix(c.DRAFT_HIDDEN, 2 * c.HIDDEN)
        self.post = matrix(c.HIDDEN, c.DRAFT_HIDDEN)
        self.layers = nn.ModuleList(
            Layer(kind, scalar, c.DRAFT_HIDDEN, c.DRAFT_FFN, own_kv=False)
            for kind, scalar in zip(c.DRAFT_KINDS, c.DRAFT_SCALARS, strict=True)
        )
        self.norm = nn.Parameter(torch.ones(c.DRAFT_HIDDEN))

    def step(
        self,
        tokens: torch.Tensor,
        hidden: torch.Tensor,
        kept: Kept,
        views: dict[str, torch.Tensor],
        turns: dict[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, T], hidden [B, T, 256] -> logits [B, T, V], the next hidden [B, T, 256]"""
        x = torch.cat([self.target[0].embedding.detach()[tokens] * math.sqrt(c.HIDDEN), hidden.float()], -1)
        x = linear(x, self.pre).float()
        for layer in self.layers:
            q, _, _ = layer.project(x, *turns[layer.kind])
            x = layer.finish(x, attention(q, *kept[layer.kind], views[layer.kind]))
        x = norm(x, self.norm)
        return linear(x, self.embedding).float(), linear(x, self.post)

    def forward(self, batch: Tensors, steps: int = STEPS) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """List of (logits [B, T, V], the target's choice [B, T], counts bool [B, T]), one for each step.

        Column t of T is a reply's token that the target has just chosen; step j guesses the token j + 1 columns later.
        """
        chosen, tail = batch.labels != -100, batch.tail
        with torch.no_grad():
            target = self.target[0]
            logits, states, kept = target.body(target.inputs(batch), *masks(batch), batch.learnt, tail)
            hidden = torch.zeros(chosen.numel(), c.HIDDEN, dtype=low()).index_copy(0, batch.learnt, states)
            hidden = hidden.view(*chosen.shape, c.HIDDEN)
            best = torch.full_like(batch.labels.flatten(), -100).index_copy(0, batch.learnt, logits.argmax(-1))
            best = best.view(chosen.shape)
        n = batch.ids.shape[1]
        at, keys = torch.arange(n - tail, n), torch.arange(n)
        past = (keys[None, :] < at[:, None])[None] & batch.real[:, None, :]
        near = past & (at[:, None] - keys[None, :] < c.WINDOW)[None]
        views = {
            kind: torch.zeros(seen.shape, dtype=low()).masked_fill_(~seen, UNSEEN)[:, None]
            for kind, seen in (("full_attention", past), ("sliding_attention", near))
        }
        turns = {
            "sliding_attention": rotary("sliding_attention", c.HEAD_DIM, at),
            "full_attention": rotary("full_attention", c.GLOBAL_HEAD_DIM, at),
        }
        tokens, out = batch.ids[:, -tail:], []
        for j in range(steps):
            logits, hidden = self.step(later(tokens, j, c.PAD), hidden, kept, views, turns)
            out.append((logits, later(best, j + 1, -100), chosen & later(chosen, j + 1, False)))
        return out


def later(x: torch.Tensor, by: int, fill: int | bool) -> torch.Tensor:
    """Columns moved `by` to the left."""
    return F.pad(x[:, by:], (0, min(by, x.shape[1])), value=fill)


def drafter_loss(model: Drafter, batch: Tensors) -> torch.Tensor:
    """Every token of a reply counts the same, as it does for the drafts that the target accepts."""
    parts = [
        F.cross_entropy(logits.flatten(0, 1), best.masked_fill(~counts, -100).flatten(), reduction="sum") * 0.8**j
        for j, (logits, best, counts) in enumerate(model(batch))
    ]
    return torch.stack(parts).sum() / 1000


@torch.no_grad()
def accepted(model: Drafter, held: Sequence[Batch], drafts: int = 3) -> dict[str, tuple[int, int]]:
    """{kind: (accepted, steps)} over held-out replies that the target gives itself, decoded as the runtime does it."""
    counts: dict[str, tuple[int, int]] = {}
    for plain in held:
        batch = Tensors(plain)
        steps = model(batch, drafts)
        right = torch.stack([(logits.argmax(-1) == best) & ok for logits, best, ok in steps])  # [drafts, B, T]
        taken = right.int().cumprod(0).sum(0).tolist()
        for row, kind in enumerate(batch.kinds):
            columns = np.flatnonzero(plain.labels[row] != -100)
            t, last = int(columns[0]), int(columns[-1])
            a, n = counts.get(kind, (0, 0))
            while t < last:
                a, n = a + taken[row][t], n + 1
                t += taken[row][t] + 1
            counts[kind] = (a, n)
    return counts
