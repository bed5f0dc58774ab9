"""Chooses a type for each matrix so that a file of a given size loses least.

In: matrices of a checkpoint on disk, importance values, how much each matrix matters, and a budget in bytes. Out: a
type for each. What a type costs a matrix is the error of its output: weights of sampled rows are quantised and read
back, and their squared errors weighed by the squares of what is multiplied with them, as a share of the output itself.
Bits go where they save most of that per byte. Knows nothing of sections or bundles.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

from gemma4gguf.bundle.container import tensor_nbytes
from gemma4gguf.errors import ConversionError, InputError
from gemma4gguf.native import quantizer

from .gemma4 import MappedTensor
from .gguf_source import READABLE
from .imatrix import ImportanceMatrix
from .mixture import fitted, quantisable
from .rows import FloatArray, Rows, change_rows, spread

SAMPLED = 1 << 17  # values of a matrix that are quantised to see what each type costs it
PLACES = 8  # where they are taken from
# Types that engines compute fast, from few bits to many, and what a byte of each costs: a little more where llama.cpp
# does not repack the type for a processor.
PRICES = {T.Q2_K: 1.1, T.Q3_K: 1.1, T.IQ4_XS: 1.05, T.Q4_K: 1.0, T.Q5_K: 1.02, T.Q6_K: 1.02, T.Q8_0: 1.0}
# The lowest type for a part of a tensor's name. Every token's first and last step passes through the embedding.
FLOORS = (("token_embd", T.Q4_K), ("output.weight", T.Q4_K), ("attn_k.", T.Q3_K), ("attn_v.", T.Q3_K))
# Where nothing was measured. On the small model, an error of the embedding, which computes the logits too, matters
# eight times as much as one of a layer's matrix.
UNMEASURED = {"token_embd.weight": 8.0, "output.weight": 8.0}


@dataclass(frozen=True)
class Step:
    """A type that a matrix may have: its bytes, their price, and the loss with it."""

    type: T
    nbytes: int
    price: float
    loss: float


def steps(tensor: MappedTensor, imatrix: ImportanceMatrix | None, weight: float) -> list[Step]:
    """Types for a matrix, each dearer and better than the one before, and none that is no use. `weight`: loss per
    error.
    """
    floor = next((kind for part, kind in FLOORS if part in tensor.name), T.Q2_K)
    allowed = list(PRICES)[list(PRICES).index(floor) :]
    sample = _sample(tensor)
    values = imatrix.of(tensor.name, tensor.shape[-1]) if imatrix is not None else None
    squares = np.square(sample, dtype=np.float64)
    found = []
    for kind in dict.fromkeys(fitted(kind, tensor.shape[-1]) for kind in allowed):
        near = dequantize(quantizer.quantize_rows(sample, kind, values), kind).reshape(sample.shape)
        errors = np.square(sample - near, dtype=np.float64)
        across = np.ones(sample.shape[1]) if values is None else values
        loss = weight * float((errors @ across).sum() / max((squares @ across).sum(), 1e-30))
        size = tensor_nbytes(tensor.shape, kind)
        asked = next(k for k in allowed if fitted(k, tensor.shape[-1]) is kind)
        found.append(Step(kind, size, size * PRICES[asked], loss))
    return _hull(found)


def _hull(found: Iterable[Step]) -> list[Step]:
    """The steps at which loss falls ever more slowly for its price: no mix of two others is better than any of them."""
    kept: list[Step] = []
    for step in sorted(found, key=lambda s: (s.price, s.loss)):
        if kept and step.loss >= kept[-1].loss:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], step):
            kept.pop()
        kept.append(step)
    return kept


def _slope(low: Step, high: Step) -> float:
    """Loss saved per price."""
    return (low.loss - high.loss) / max(high.price - low.price, 1e-9)


def spend(choices: Mapping[str, Sequence[Step]], budget: int) -> dict[str, T]:
    """A type for each matrix, at most `budget` bytes in all. Raises InputError where the lowest types take more."""
    at = dict.fromkeys(choices, 0)
    spent = sum(options[0].nbytes for options in choices.values())
    if spent > budget:
        raise InputError(f"target: the matrices take at least {spent:,} bytes, expected at most {budget:,}; give more")
    waiting = [(-_slope(o[0], o[1]), name) for name, o in choices.items() if len(o) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        options, i = choices[name], at[name]
        more = options[i + 1].nbytes - options[i].nbytes
        if spent + more > budget:
            continue  # a smaller matrix may still fit
        at[name], spent = i + 1, spent + more
        if i + 2 < len(options):
            heapq.heappush(waiting, (-_slope(options[i + 1], options[i + 2]), name))
    return {name: choices[name][i].type for name, i in at.items()}


def mix(
    tensors: Sequence[MappedTensor], budget: int, imatrix: ImportanceMatrix | None, weights: Mapping[str, float]
) -> list[str]:
    """PATTERN=TYPE lines for the matrices among `tensors`, so that all `tensors` together take at most `budget` bytes.

    `weights`: how much a matrix's error matters, by name; for one that is not there, the mean of its sort.
    """
    matrices = [t for t in tensors if quantisable(t.name, t.shape)]
    rest = sum(tensor_nbytes(t.shape, T.F32) for t in tensors if not quantisable(t.name, t.shape))
    choices = {t.name: steps(t, imatrix, _weight(t.name, weights)) for t in matrices}
    return lines(spend(choices, budget - rest))


def _weight(name: str, weights: Mapping[str, float]) -> float:
    if name in weights:
        return weights[name]
    alike = [value for other, value in weights.items() if _sort(other) == _sort(name)]
    return float(np.mean(alike)) if alike else UNMEASURED.get(name, 1.0)


def _sort(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "", name)


def lines(types: Mapping[str, T]) -> list[str]:
    """The mix as PATTERN=TYPE lines, layers of one sort and type together; `--type` takes them."""
    found: dict[tuple[str, T], list[str]] = {}
    for name, kind in types.items():
        layer = re.match(r"blk\.(\d+)\.", name)
        found.setdefault((_sort(name), kind), []).append(layer[1] if layer else "")
    return [
        rf"^blk\.({'|'.join(layers)})\.{re.escape(sort)}$={kind.name}"
        if layers[0]
        else f"^{re.escape(sort)}$={kind.name}"
        for (sort, kind), layers in sorted(found.items(), key=lambda item: (item[0][0], item[0][1].name))
    ]


def _sample(tensor: MappedTensor) -> FloatArray:
    """Whole rows from several places, float32 [n, width]."""
    assert tensor.stored is not None
    if tensor.stored.type not in READABLE:
        raise ConversionError(
            f"{tensor.stored.path}: {tensor.stored.name!r} is {tensor.stored.type.name}, which was rounded already; "
            "for a target, start from the checkpoint or a BF16 or Q8_0 file"
        )
    rows, width, reader = prod(tensor.shape[:-1]), tensor.shape[-1], Rows()
    each = max(1, min(rows, SAMPLED // width) // PLACES)
    parts = []
    for start, stop in spread(rows, each, PLACES):
        part = reader.read(tensor.stored, start, stop).copy()
        parts.append(part if tensor.change is None else part + change_rows(tensor.change, start, stop))
    return np.ascontiguousarray(np.concatenate(parts))
