"""Figures for held-out material: a reply counts when each of its tokens is the model's first choice.

In: a model and examples. Out: {kind: (right, all)}. That is the same as greedy decoding giving exactly the reply.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer

from . import batches, network, texts, watching

HELD: dict[str, texts.Make] = {
    **{f"row{n}": partial(texts.row, count=n, think=False) for n in (1, 2, 3, 4)},
    "see": texts.see,
    "see_two": texts.see_two,
    "photo": texts.photo,
    "hear": texts.hear,
    "watch": watching.watch,
    "watch_long": partial(watching.watch, long=True),
    "watch_known": partial(watching.watch, known=True),
    "watch_long_known": partial(watching.watch, long=True, known=True),
    "watch_hear": watching.watch_hear,
    "sum": texts.total,
    "sum_think": partial(texts.total, think=True),
    "tool": texts.use_tool,
    "talk": texts.talk,
}


def held_out(
    material: texts.Material, tokenizer: Tokenizer, count: int, tasks: Iterable[str] = HELD, seed: int = 1234
) -> list[batches.Batch]:
    """Batches of held-out material, `count` examples a task."""
    rng = np.random.default_rng(seed)
    out = []
    for task in tasks:
        items = [batches.item(HELD[task](rng, material), tokenizer) for _ in range(count)]
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
