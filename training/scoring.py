"""Figures for held-out material: a reply counts when each of its tokens is the model's first choice.

In: a model and examples. Out: {kind: (right, all)}. That is the same as greedy decoding giving exactly the reply.
"""

from collections import defaultdict
from functools import partial

import numpy as np
import torch

from . import batches, network, texts


def held_out(material, tokenizer, count, seed=1234):
    """Batches of held-out material, `count` examples a task."""
    rng = np.random.default_rng(seed)
    makers = [partial(texts.row, count=n, think=False) for n in (1, 2, 3, 4)]
    makers += [
        texts.see,
        texts.see_two,
        texts.hear,
        texts.total,
        partial(texts.total, think=True),
        texts.use_tool,
        texts.talk,
    ]
    out = []
    for make in makers:
        items = [batches.item(make(rng, material), tokenizer) for _ in range(count)]
        items.sort(key=lambda it: len(it.ids))
        for at in range(0, count, 16):
            out.append(batches.stack(items[at : at + 16]))
    return out


@torch.no_grad()
def score(model, held):
    right, every = defaultdict(int), defaultdict(int)
    for batch in held:
        tensors = network.Tensors(batch)
        learnt = tensors.labels != -100
        good = torch.ones_like(learnt)
        good[learnt] = model(tensors).argmax(-1) == tensors.labels[learnt]
        good = good.all(1)
        for kind, ok in zip(batch.kinds, good.tolist(), strict=False):
            right[kind] += ok
            every[kind] += 1
    return {kind: (right[kind], every[kind]) for kind in sorted(every)}


def table(figures):
    """One line: each kind's ratio, and the one of all."""
    total = [sum(column) for column in zip(*figures.values(), strict=False)]
    return " ".join(f"{k} {a / max(n, 1):.2f}" for k, (a, n) in [*figures.items(), ("ALL", total)])
