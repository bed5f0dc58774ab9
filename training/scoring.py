"""Figures for held-out material: a reply counts when each of its tokens is the model's first choice.

In: a model and examples. Out: {kind: (right, all)}. That is the same as greedy decoding giving exactly the reply.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from . import batches, network, texts
from .tasks import TASKS


def held_out(
    material: texts.Material, tokenizer: Tokenizer, count: int, asked: Iterable[str] = TASKS, seed: int = 1234
) -> list[batches.Batch]:
    """Batches of held-out material, `count` examples a task."""
    rng = np.random.default_rng(seed)
    out = []
    for task in asked:
        items = [batches.item(TASKS[task](rng, material), tokenizer) for _ in range(count)]
        items.sort(key=lambda it: len(it.ids))
        for at in range(0, count, 32):
            out.append(batches.stack(items[at : at + 32]))
    return out


@torch.no_grad()
def score(model: network.Target, held: Sequence[batches.Batch]) -> dict[str, tuple[int, int]]:
    right: defaultdict[str, int] = defaultdict(int)
    every: defaultdict[str, int] = defaultdict(int)
    for batch in held:
        tensors = network.Tensors(batch)
        good = torch.ones(tensors.labels.numel(), dtype=torch.bool)
        good[tensors.learnt] = model(tensors).argmax(-1) == tensors.labels.flatten()[tensors.learnt]
        for kind, ok in zip(batch.kinds, good.view(tensors.labels.shape).all(1).tolist(), strict=True):
            right[kind] += ok
            every[kind] += 1
    return {kind: (right[kind], every[kind]) for kind in sorted(every)}


def table(figures: dict[str, tuple[int, int]]) -> str:
    """One line: each kind's ratio, and the one of all."""
    total = sum(a for a, _ in figures.values()), sum(n for _, n in figures.values())
    return " ".join(f"{k} {a / max(n, 1):.2f}" for k, (a, n) in [*figures.items(), ("ALL", total)])
