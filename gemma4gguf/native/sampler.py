"""Choose a token id from a row of logits with llama.cpp's sampler chain.

A context that has just computed and a batch row come in; a token id goes out. Choosing changes that row's logits: see
`Sampler.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import NativeError
from .context import Context
from .handle import Handle
from .library import C, started

GREEDY = 1e-6  # lower temperatures overflow float32; the likeliest token is the same


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. `temperature` 0: the likeliest one. `top_k` 0, `top_p` 1, `min_p` 0: off."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


class Sampler(Handle):
    """Chooses one id from one row of logits with llama.cpp's chain; greedy at temperatures below GREEDY.

    The order is that of transformers (temperature, top-k, top-p, min-p), but with top-k first: it commutes with
    temperature and leaves less for the rest. `suppressed` ids are never chosen.
    """

    def __init__(self, how: SamplingOptions, suppressed: Iterable[int]) -> None:
        self._suppressed = np.asarray(sorted(set(suppressed)), np.int64)
        self._greedy = how.temperature < GREEDY
        started()
        chain = None if self._greedy else C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        super().__init__("sampler", chain, C.llama_sampler_free)
        steps: list[tuple[bool, Callable[[], Any]]] = [
            (how.top_k > 0, lambda: C.llama_sampler_init_top_k(how.top_k)),
            (how.temperature != 1, lambda: C.llama_sampler_init_temp(how.temperature)),
            (how.top_p < 1, lambda: C.llama_sampler_init_top_p(how.top_p, 1)),
            (how.min_p > 0, lambda: C.llama_sampler_init_min_p(how.min_p, 1)),
            (True, lambda: C.llama_sampler_init_dist(how.seed)),
        ]
        for wanted, make in steps:
            if wanted and not self._greedy:
                C.llama_sampler_chain_add(chain, make())

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
        return best if self._greedy else int(C.llama_sampler_sample(self.handle, context.handle, row))
