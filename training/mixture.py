"""What one step of training is made of, and the processes that draw it.

In: a seed and the number of the step. Out: the step's batches; the same seed and number always give the same ones.
Helpers draw ahead, each every n-th step, with numpy alone; who trains takes the steps in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

import numpy as np
from tokenizers import Tokenizer

from . import batches, texts, watching

# Of each kind, how many examples a step has, and the weight of their mean loss.
VIDEOS: list[tuple[texts.Make, int, float]] = [
    (watching.watch, 24, 1.0),
    (partial(watching.watch, long=True), 36, 3.0),
    (watching.watch_hear, 8, 0.5),
]
MIXTURE: list[tuple[texts.Make, int, float]] = [
    (texts.row, 128, 3.0),
    (texts.see, 24, 0.8),
    (texts.see_two, 8, 0.3),
    (texts.photo, 12, 0.4),
    (texts.hear, 96, 2.0),
    *VIDEOS,
    (texts.total, 72, 2.0),
    (partial(texts.total, think=True), 12, 0.5),
    (texts.use_tool, 44, 1.0),
    (texts.talk, 128, 1.6),
    (texts.plain, 2, 0.05),
]
PIPE_BYTES = 1 << 20


@dataclass(frozen=True)
class Amount:
    """`share`: of the examples of MIXTURE. `videos`: times as many of VIDEOS, with as much more weight.

    `batch`: the price of one more batch, in tokens; a CPU would rather have many than fill one up.
    """

    share: float
    videos: float
    batch: int

    def of(self, kind: tuple[texts.Make, int, float]) -> tuple[texts.Make, int, float]:
        make, count, weight = kind
        times = self.videos if kind in VIDEOS else 1.0
        return make, max(1, round(count * self.share * times)), weight * times


def cheapest_cuts(lengths: Sequence[int], overhead: int) -> list[int]:
    """Ends of the batches that pad ascending lengths least; `overhead`: the price of one more batch, in tokens."""
    begins = np.arange(len(lengths))
    best, before = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for end in range(1, len(lengths) + 1):
        costs = best[:end] + (end - begins[:end]) * lengths[end - 1] + overhead
        before[end] = costs.argmin()
        best[end] = costs[before[end]]
    cuts, end = [], len(lengths)
    while end:
        cuts.append(end)
        end = int(before[end])
    return cuts[::-1]


def draw(material: texts.Material, tokenizer: Tokenizer, seed: int, step: int, amount: Amount) -> list[batches.Batch]:
    """A step's batches, of like length each; the weights of a part's labels sum to the part's weight."""
    rng = np.random.default_rng([seed, step])
    pairs: list[tuple[batches.Item, float]] = []
    for make, count, weight in map(amount.of, MIXTURE):
        own = [batches.item(make(rng, material), tokenizer) for _ in range(count)]
        each = weight / sum(it.reply for it in own)
        pairs += [(it, each) for it in own]
    pairs.sort(key=lambda pair: len(pair[0].ids))
    ends = cheapest_cuts([len(it.ids) for it, _ in pairs], amount.batch)
    cut = [pairs[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return [batches.stack([it for it, _ in part], [w for _, w in part]) for part in cut]


class Artists:
    """Processes that draw the steps from `first` on. Start them before the GPU is touched: they are forks."""

    def __init__(
        self, material: texts.Material, tokenizer: Tokenizer, seed: int, first: int, count: int, amount: Amount
    ) -> None:
        context = multiprocessing.get_context("fork")
        self.pipes: list[Connection] = []
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            work = partial(_draw_for_ever, material, tokenizer, seed, first + rank, count, amount, sender)
            context.Process(target=work, daemon=True).start()
            sender.close()
            self.pipes.append(receiver)
        self.turn = 0

    def next(self) -> list[batches.Batch]:
        """The next step's batches."""
        pipe = self.pipes[self.turn % len(self.pipes)]
        self.turn += 1
        drawn: list[batches.Batch] = pickle.loads(pipe.recv_bytes())
        return drawn


def _draw_for_ever(
    material: texts.Material, tokenizer: Tokenizer, seed: int, step: int, stride: int, amount: Amount, pipe: Connection
) -> None:
    while True:
        drawn = pickle.dumps(draw(material, tokenizer, seed, step, amount), protocol=5)
        try:
            pipe.send_bytes(drawn)
        except OSError:
            return
        step += stride
