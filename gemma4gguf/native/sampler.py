"""Choose a token id from a row of logits with llama.cpp's sampler chain.

A context that has just computed and a batch row come in; a token id goes out. Choosing changes that row's logits: see
`Sampler.sample`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import NativeError
from .context import Context
from .handle import Handle
from .library import C, started

GREEDY = 1e-6  # lower temperatures overflow float32; the likeliest token is the same
ANY_SIZE = (1 << 31) - 1  # of the vocabulary: llama.cpp asks for it, and uses it only where it samples on a GPU


CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # struct llama_token_data


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. `temperature` 0: the likeliest one.

    `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1, the other penalties 0: off. `logit_bias`: what is added to
    logits, by token id.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


class Allowed(Protocol):
    """Says which tokens may come next, at the answer's present place."""

    def fits(self, token: int) -> bool: ...

    def fitting(self) -> NDArray[np.bool_]:
        """Bool [vocabulary], at least one of them true."""


class Sampler(Handle):
    """Chooses one id from one row of logits with llama.cpp's chain; greedy at temperatures below GREEDY.

    The order is that of transformers (temperature, top-k, top-p, min-p), but with top-k first: it commutes with
    temperature and leaves less for the rest. `suppressed` ids are never chosen, whatever their bias. Before all of it
    come the bias, then a repetition penalty: logits of ids that the prompt (`history`) or the answer (up to `limit`
    ids) holds are divided by it where they are positive, else multiplied; then the two penalties of the OpenAI API: for
    an id that the answer holds n times, n times the one and once the other are taken from its logit.
    """

    def __init__(
        self, how: SamplingOptions, suppressed: Iterable[int], history: Sequence[int] = (), limit: int = 0
    ) -> None:
        self._suppressed = np.asarray(sorted(set(suppressed)), np.int64)
        self._biased = np.fromiter(how.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(how.logit_bias.values(), np.float32)
        greedy, repeated = how.temperature < GREEDY, how.repetition_penalty != 1
        counted = how.frequency_penalty != 0 or how.presence_penalty != 0
        self._plain = greedy and not repeated and not counted  # then no chain is needed
        self._greedy = greedy
        self._candidates = np.empty(0, CANDIDATE)
        self._ids = np.empty(0, np.int32)
        self._left = self._candidates
        started()
        chain = None if self._plain else C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        super().__init__("sampler", chain, C.llama_sampler_free)
        steps: list[tuple[bool, Callable[[], Any]]] = [
            (repeated, lambda: _repetition(how.repetition_penalty, history, limit)),
            (counted, lambda: _penalties(limit, 1.0, how.frequency_penalty, how.presence_penalty)),
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

    def sample(self, context: Context, row: int = -1, allowed: Allowed | None = None) -> int:
        """Choose from batch row `row` of the context's last call, and accept the choice.

        `allowed`: what may be chosen. One token is asked about first. Only where it is not allowed, all are, and the
        choice is made again among those that are.

        WRITES into llama.cpp's buffer of logits: biases are added, and suppressed ids get -inf there. So
        `context.logits(row)` also shows that, until the context's next call. Copy the row first if the model's own
        logits are needed. Raises NativeError if no logit is finite.
        """
        logits = context.logits(row)
        logits[self._biased] += self._bias
        logits[self._suppressed] = -np.inf
        token = self.choose(logits)
        if allowed and not allowed.fits(token):
            logits[~allowed.fitting()] = -np.inf
            token = self.choose(logits)
        self.accept(token)
        return token

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Choose from logits [vocabulary] as they are. Advances the chain's random state by one."""
        best = int(logits.argmax())  # the first NaN, if there is one
        if not np.isfinite(logits[best]):
            raise NativeError("the model computed no finite logit; the file may be damaged (`gemma4gguf verify`)")
        if self._plain:
            self._left = _certain(best)
            return best
        if len(self._candidates) != len(logits):
            self._candidates, self._ids = np.empty(len(logits), CANDIDATE), np.arange(len(logits), dtype=np.int32)
        found = self._candidates
        found["id"], found["logit"] = self._ids, logits
        data = found.ctypes.data_as(C.llama_token_data_p)
        array = C.llama_token_data_array(data=data, size=len(found), selected=-1, sorted=False)
        C.llama_sampler_apply(self.handle, ctypes.byref(array))
        at = int(array.selected)
        self._left = found[at : at + 1] if self._greedy else found[: array.size]
        return int(found["id"][at])

    def accept(self, token: int) -> None:
        """Count an id of the answer for the penalties."""
        if not self._plain:
            C.llama_sampler_accept(self.handle, token)

    def force(self, token: int) -> None:
        """Accept an id as if there had been no other."""
        self._left = _certain(token)
        self.accept(token)

    @property
    def left(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What the last id was drawn from: ids [n] and logits [n], as the chain left them. Views, until the next."""
        return self._left["id"], self._left["logit"]


def _certain(token: int) -> NDArray[np.void]:
    return np.array([(token, 0, 1)], CANDIDATE)


def _penalties(last: int, repetition: float, frequency: float, presence: float) -> Any:
    return C.llama_sampler_init_penalties(ANY_SIZE, last, repetition, frequency, presence)


def _repetition(penalty: float, history: Sequence[int], limit: int) -> Any:
    sampler = _penalties(len(history) + limit, penalty, 0.0, 0.0)
    for token in history:
        C.llama_sampler_accept(sampler, token)
    return sampler
