"""One token id out of a row of logits, by llama.cpp's own chain.

In: a context that has just computed, and a row. Out: an id. A context manager; no finite logit is a NativeError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import NativeError
from .context import Context
from .library import C, started

GREEDY = 1e-6  # temperatures below overflow float32 and mean the likeliest token anyway


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. `temperature` 0: the likeliest. `top_k` 0, `top_p` 1, `min_p` 0: off."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


class Sampler:
    """One id out of one row of logits, by llama.cpp's own chain; greedy when the temperature is 0 or next to it.

    The order is transformers' (temperature, top-k, top-p, min-p); top-k goes first because it commutes with
    temperature and shortens the rest. `suppressed` ids are never chosen, in any mode.
    """

    def __init__(self, how: SamplingOptions, suppressed: Iterable[int]) -> None:
        self._suppressed = np.asarray(sorted(set(suppressed)), np.int64)
        self._chain: Any = None
        if how.temperature < GREEDY:
            return
        started()
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        steps: list[tuple[bool, Callable[[], Any]]] = [
            (how.top_k > 0, lambda: C.llama_sampler_init_top_k(how.top_k)),
            (how.temperature != 1, lambda: C.llama_sampler_init_temp(how.temperature)),
            (how.top_p < 1, lambda: C.llama_sampler_init_top_p(how.top_p, 1)),
            (how.min_p > 0, lambda: C.llama_sampler_init_min_p(how.min_p, 1)),
            (True, lambda: C.llama_sampler_init_dist(how.seed)),
        ]
        for wanted, make in steps:
            if wanted:
                C.llama_sampler_chain_add(self._chain, make())

    def sample(self, context: Context, row: int = -1) -> int:
        """Choose from batch row `row` of the context's last call; the chain's random state moves on by one."""
        logits = context.logits(row)
        logits[self._suppressed] = -np.inf
        best = int(logits.argmax())  # a NaN, where there is one
        if not np.isfinite(logits[best]):
            raise NativeError("the model computed no finite logit; the file may be damaged (`gemma4gguf verify`)")
        if self._chain is None:
            return best
        return int(C.llama_sampler_sample(self._chain, context.handle, row))

    def close(self) -> None:
        chain, self._chain = self._chain, None
        if chain:
            C.llama_sampler_free(chain)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
