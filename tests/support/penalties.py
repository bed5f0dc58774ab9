"""Penalties, biases and what a token is drawn from, in numpy: the slow twins of llama.cpp's samplers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemma4gguf.native.sampler import SamplingOptions


def penalised(logits: NDArray[np.float32], ids: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """Logits [vocabulary] with those of `ids` divided by the penalty where positive, else multiplied by it.

    As transformers defines it.
    """
    out: NDArray[np.float32] = logits.copy()
    seen, factor = sorted(set(ids)), np.float32(penalty)
    out[seen] = np.where(out[seen] > 0, out[seen] / factor, out[seen] * factor)
    return out


def counted(
    logits: NDArray[np.float32], answer: Sequence[int], frequency: float, presence: float
) -> NDArray[np.float32]:
    """Logits less the penalties of the OpenAI API, which count the ids of the answer alone."""
    out: NDArray[np.float32] = logits.copy()
    for token, times in Counter(answer).items():
        out[token] -= times * frequency + presence
    return out


def distribution(
    logits: NDArray[np.float32], how: SamplingOptions, prompt: Sequence[int], answer: Sequence[int]
) -> NDArray[np.float64]:
    """The probabilities [vocabulary] that a token is drawn from."""
    logits = logits.copy()
    for token, bias in how.logit_bias.items():
        logits[token] += np.float32(bias)
    logits = penalised(logits, [*prompt, *answer], how.repetition_penalty)
    scores = counted(logits, answer, how.frequency_penalty, how.presence_penalty).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    order = order[: how.top_k or len(order)]
    scores[order] /= how.temperature
    odds = softmax(scores[order])
    if how.top_p < 1:
        order = order[: int(np.searchsorted(np.cumsum(odds), how.top_p)) + 1]
    if how.min_p > 0:
        order = order[scores[order] >= scores[order[0]] + np.log(how.min_p)]
    out = np.zeros(len(scores))
    out[order] = softmax(scores[order])
    return out


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(scores - scores.max())
    return np.asarray(odds / odds.sum())
