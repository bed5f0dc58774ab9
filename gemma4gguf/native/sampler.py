"""Choose a token id from a row of logits with llama.cpp's sampler chain.

A context that has just computed and a batch row come in; a token id goes out. Choosing changes that row's logits: see
`Sampler.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import NativeError
from .context import Context
from .handle import Handle
from .library import C, started

GREEDY = 1e-6  # lower temperatures overflow float32; the likeliest token is the same
ANY_SIZE = (1 << 31) - 1  # of the vocabulary: llama.cpp asks for it, and uses it only where it samples on a GPU


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. `temperature` 0: the likeliest one.

    `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1: off.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    repetition_penalty: float = 1.0


class Sampler(Handle):
    """Chooses one id from one row of logits with llama.cpp's chain; greedy at temperatures below GREEDY.

    The order is that of transformers (temperature, top-k, top-p, min-p), but with top-k first: it commutes with
    temperature and leaves less for the rest. `suppressed` ids are never chosen. A repetition penalty comes first of
    all: logits of ids that the prompt (`history`) or the answer (up to `limit` ids) holds are divided by it where they
    are positive, else multiplied.
    """

    def __init__(
        self, how: SamplingOptions, suppressed: Iterable[int], history: Sequence[int] = (), limit: int = 0
    ) -> None:
        self._suppressed = np.asarray(sorted(set(suppressed)), np.int64)
        greedy, penalised = how.temperature < GREEDY, how.repetition_penalty != 1
        self._plain = greedy and not penalised  # then no chain is needed
        started()
        chain = None if self._plain else C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        super().__init__("sampler", chain, C.llama_sampler_free)
        last = len(history) + limit  # ids that the penalty remembers
        steps: list[tuple[bool, Callable[[], Any]]] = [
            (penalised, lambda: C.llama_sampler_init_penalties(ANY_SIZE, last, how.repetition_penalty, 0.0, 0.0)),
            (greedy, C.llama_sampler_init_greedy),
            (how.top_k > 0 and not greedy, lambda: C.llama_sampler_init_top_k(how.top_k)),
            (how.temperature != 1 and not greedy, lambda: C.llama_sampler_init_temp(how.temperature)),
            (how.top_p < 1 and not greedy, lambda: C.llama_sampler_init_top_p(how.top_p, 1)),
            (how.min_p > 0 and not greedy, lambda: C.llama_sampler_init_min_p(how.min_p, 1)),
            (not greedy, lambda: C.llama_sampler_init_dist(how.seed)),
        ]
        for wanted, make in steps:
            if wanted and chain:
                C.llama_sampler_chain_add(chain, make())
        for token in history if penalised else ():
            self.accept(token)

    def accept(self, token: int) -> None:
        """Take note of a token that was not chosen here, for the penalties."""
        if not self._plain:
            C.llama_sampler_accept(self.handle, token)

    def sample(self, context: Context, row: int = -1) -> int:
        """Choose from batch row `row` of the context's last call. Advances the chain's random state by one.

        WRITES into llama.cpp's buffer of logits: suppressed ids get -inf there. So `context.logits(row)` also shows
        -inf for them, until the context's next call. Copy the row first if the model's own logits are needed. Raises
        NativeError if no logit is finite.
        """
        logits = context.logits(row)
        logits[self._suppressed] = -np.inf
        best = int(logits.argmax())  # the first NaN, if there is one
        if not np.isfinite(logits[best]):
            raise NativeError("the model computed no finite logit; the file may be damaged (`gemma4gguf verify`)")
        return best if self._plain else int(C.llama_sampler_sample(self.handle, context.handle, row))
