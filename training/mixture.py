"""What one step of training is made of, and the processes that share its work.

In: a seed and the number of the step. Out: the sum of the step's gradients; the same seed and number always give the
same examples. A step has units; each process, of one thread, takes the next unit that nobody has taken. On cores that
others use too that is much faster than threads, which wait for each other at every matrix.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from . import batches, network, texts

# From which step on, how many examples of each kind a step has: what is learnt makes room for what is not.
MIXTURES = (
    (0, {"row": 14, "see": 6, "see_two": 1, "hear": 28, "tool": 7, "sums": 36, "talk": 8}),
    (276, {"row": 11, "see": 13, "see_two": 2, "hear": 28, "tool": 9, "sums": 40, "talk": 10}),
    (607, {"row": 8, "see": 12, "see_two": 3, "hear": 44, "tool": 12, "sums": 40, "talk": 12}),
    (849, {"row": 9, "see": 7, "see_two": 3, "hear": 40, "tool": 10, "sums": 64, "talk": 10}),
)


Loss = Callable[[Any, network.Tensors], Any]  # a model and a batch -> a tensor, or 0.0 where nothing is learnt


def _thinking_sum(rng: np.random.Generator, m: texts.Material) -> texts.Example:
    return texts.total(rng, m, True)


def units_at(step: int) -> list[list[tuple[texts.Make, int, float]]]:
    """A step's units: lists of (generator, examples, weight of the mean loss)."""
    n = [counts for first, counts in MIXTURES if step >= first][-1]
    late, last = step >= MIXTURES[1][0], step >= MIXTURES[3][0]
    return [
        [(texts.row, n["row"], 1.0)],
        [(texts.row, n["row"], 1.0), (texts.see, n["see"], 0.8 if late else 0.4)],
        [(texts.hear, n["hear"], 1.2 if late else 1.0), (texts.talk, n["talk"], 0.25), (_thinking_sum, 8, 0.5)],
        [(texts.use_tool, n["tool"], 0.5), (texts.see_two, n["see_two"], 0.2 if late else 0.1), (texts.plain, 1, 0.05)],
        [(texts.total, n["sums"], 3.0 if last else 1.2 if late else 1.0), (texts.talk, n["talk"], 0.25)],
    ]


def cheapest_cuts(lengths: Sequence[int], overhead: int = 200) -> list[int]:
    """Ends of the batches that pad ascending lengths least; `overhead`: the price of one more batch, in tokens."""
    best = [0.0] + [float("inf")] * len(lengths)
    cut: list[list[int]] = [[] for _ in best]
    for end in range(1, len(lengths) + 1):
        for begin in range(end):
            cost = best[begin] + (end - begin) * lengths[end - 1] + overhead
            if cost < best[end]:
                best[end], cut[end] = cost, cut[begin] + [end]
    return cut[-1]


def unit_batches(
    material: texts.Material, tokenizer: Tokenizer, seed: int, number: int, unit: int
) -> Iterator[batches.Batch]:
    """Batches of like length; the weights of a part's labels sum to the part's weight."""
    rng = np.random.default_rng([seed, number, unit])
    pairs: list[tuple[batches.Item, float]] = []
    for make, count, weight in units_at(number)[unit]:
        own = [batches.item(make(rng, material), tokenizer) for _ in range(count)]
        each = weight / sum(it.reply for it in own)
        pairs += [(it, each) for it in own]
    pairs.sort(key=lambda pair: len(pair[0].ids))
    begin = 0
    for end in cheapest_cuts([len(it.ids) for it, _ in pairs]):
        yield batches.stack([it for it, _ in pairs[begin:end]], [w for _, w in pairs[begin:end]])
        begin = end


class Team:
    """The main process and its helpers: `run(step)` leaves the sum of the gradients in the model's `.grad`."""

    def __init__(
        self, model: nn.Module, loss: Loss, material: texts.Material, tokenizer: Tokenizer, seed: int, size: int = 2
    ) -> None:
        self.loss = loss
        self.model, self.material, self.tokenizer, self.seed, self.size = model, material, tokenizer, seed, size
        model.share_memory()
        count = sum(p.numel() for p in model.parameters())
        self.sums = [torch.zeros(count).share_memory_() for _ in range(size)]
        self.losses = torch.zeros(len(units_at(0))).share_memory_()
        context = multiprocessing.get_context("fork")
        self.next, self.step = context.Value("i", 0), context.Value("q", 0)
        self.start, self.end = context.Barrier(size), context.Barrier(size)
        self.helpers = [context.Process(target=self._help, args=(rank,), daemon=True) for rank in range(1, size)]
        for helper in self.helpers:
            helper.start()

    def _help(self, rank: int) -> None:
        torch.set_num_threads(1)
        parent = os.getppid()
        while True:
            self.start.wait()
            if os.getppid() != parent:
                return
            self._work(rank)
            self.end.wait()

    def _work(self, rank: int) -> None:
        for p in self.model.parameters():
            p.grad = None
        while True:
            with self.next.get_lock():
                unit = self.next.value
                self.next.value += 1
            if unit >= len(self.losses):
                break
            loss = 0.0
            for batch in unit_batches(self.material, self.tokenizer, self.seed, self.step.value, unit):
                tensors = network.Tensors(batch)
                part = self.loss(self.model, tensors)
                if torch.is_tensor(part):  # a batch may hold nothing to learn
                    part.backward()
                    loss += part.item()
            self.losses[unit] = loss
        at = 0
        for p in self.model.parameters():
            piece = self.sums[rank][at : at + p.numel()]
            piece.zero_() if p.grad is None else piece.copy_(p.grad.flatten())
            at += p.numel()

    def run(self, step: int) -> list[float]:
        self.step.value, self.next.value = step, 0
        self.start.wait()
        self._work(0)
        self.end.wait()
        total = self.sums[0]
        for other in self.sums[1:]:
            total += other
        at = 0
        for p in self.model.parameters():
            p.grad = total[at : at + p.numel()].view(p.shape)
            at += p.numel()
        return list(self.losses.tolist())

    def close(self) -> None:
        for helper in self.helpers:
            helper.terminate()
