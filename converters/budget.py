"""Chooses a type for each matrix so that a file of a given size loses least.

In: matrices of a checkpoint on disk, importance values, how much each matrix matters, and a budget in bytes. Out: a
type for each. What a type costs a matrix is the error of its output: weights of sampled rows are quantised and read
back, and their squared errors weighed by the squares of what is multiplied with them, as a share of the output itself.
The mix is the one that loses least of all that fit. Knows nothing of sections or bundles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd, prod

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from numpy.typing import NDArray

from gemma4gguf.bundle.container import tensor_nbytes
from gemma4gguf.errors import ConversionError, InputError
from gemma4gguf.native import quantizer

from .gemma4 import MappedTensor
from .gguf_source import READABLE
from .grid import Lattice
from .imatrix import ImportanceMatrix
from .mixture import fitted, quantisable
from .rows import FloatArray, Rows, change_rows, spread

UNITS = 1 << 16  # that a budget is counted in, at most
SAMPLED = 1 << 17  # values of a matrix that are quantised to see what each type costs it
PLACES = 8  # where they are taken from
# Types that engines compute fast, from few bits to many, and what their errors count: a little more where llama.cpp
# does not repack the type for a processor.
PRICES = {T.Q2_K: 1.2, T.Q3_K: 1.2, T.IQ4_XS: 1.1, T.Q4_K: 1.0, T.Q5_K: 1.05, T.Q6_K: 1.05, T.Q8_0: 1.0}
# The lowest type for a part of a tensor's name. Every token's first and last step passes through the embedding.
FLOORS = (("token_embd", T.Q4_K), ("output.weight", T.Q4_K), ("attn_k.", T.Q3_K), ("attn_v.", T.Q3_K))
# Where nothing was measured. On the small model, an error of the embedding, which computes the logits too, matters
# eight times as much as one of a layer's matrix.
UNMEASURED = {"token_embd.weight": 8.0, "output.weight": 8.0}


@dataclass(frozen=True)
class Step:
    """A type that a matrix may have: its bytes, and the loss with it."""

    type: T
    nbytes: int
    loss: float


def steps(
    tensor: MappedTensor, imatrix: ImportanceMatrix | None, weight: float, lattice: Lattice | None = None
) -> list[Step]:
    """Types for a matrix. `weight`: loss per error. `lattice`: the grid that it lies on; its type loses nothing."""
    floor = next((kind for part, kind in FLOORS if part in tensor.name), T.Q2_K)
    allowed = list(PRICES)[list(PRICES).index(floor) :]
    sample = _sample(tensor)
    values = imatrix.of(tensor.name, tensor.shape[-1]) if imatrix is not None else None
    squares = np.square(sample, dtype=np.float64)
    found = []
    if lattice is not None:
        size = tensor_nbytes(tensor.shape, lattice.grid.type)
        found.append(Step(lattice.grid.type, size, 0.0))
    for kind in dict.fromkeys(fitted(kind, tensor.shape[-1]) for kind in allowed):
        near = dequantize(quantizer.quantize_rows(sample, kind, values), kind).reshape(sample.shape)
        errors = np.square(sample - near, dtype=np.float64)
        across = np.ones(sample.shape[1]) if values is None else values
        loss = weight * float((errors @ across).sum() / max((squares @ across).sum(), 1e-30))
        size = tensor_nbytes(tensor.shape, kind)
        asked = next(k for k in allowed if fitted(k, tensor.shape[-1]) is kind)
        found.append(Step(kind, size, loss * PRICES[asked]))
    return found


def spend(choices: Mapping[str, Sequence[Step]], budget: int) -> dict[str, T]:
    """A type for each matrix: of all mixes of at most `budget` bytes, the one that loses least.

    Sizes are counted in units, rounded up where there would be too many. Raises InputError where nothing fits.
    """
    unit = max(gcd(*(step.nbytes for options in choices.values() for step in options)), ceil(budget / UNITS))
    units = {name: [ceil(step.nbytes / unit) for step in options] for name, options in choices.items()}
    least, room = sum(map(min, units.values())), budget // unit
    if least > room:
        raise InputError(f"target: the matrices take at least {least * unit:,} bytes, expected at most {budget:,}")
    lost, picked = np.zeros(room + 1), list[NDArray[np.uint8]]()  # the least loss so far, by units that may be spent
    for name, options in choices.items():
        tried = np.full((len(options), room + 1), np.inf)
        for row, size, step in zip(tried, units[name], options, strict=True):
            row[size:] = lost[: max(0, room + 1 - size)] + step.loss
        picked.append(tried.argmin(0).astype(np.uint8))
        lost = tried.min(0)
    types = {}
    for (name, options), pick in zip(reversed(list(choices.items())), reversed(picked), strict=True):
        at = int(pick[room])
        types[name] = options[at].type
        room -= units[name][at]
    return dict(reversed(types.items()))


def mix(
    tensors: Sequence[MappedTensor],
    budget: int,
    imatrix: ImportanceMatrix | None,
    weights: Mapping[str, float],
    lattices: Mapping[str, Lattice],
) -> list[str]:
    """PATTERN=TYPE lines for the matrices among `tensors`, so that all `tensors` together take at most `budget` bytes.

    `weights`: how much a matrix's error matters, by name; for one that is not there, the mean of its sort.
    """
    matrices = [t for t in tensors if quantisable(t.name, t.shape)]
    rest = sum(tensor_nbytes(t.shape, T.F32) for t in tensors if not quantisable(t.name, t.shape))
    choices = {t.name: steps(t, imatrix, _weight(t.name, weights), lattices.get(t.name)) for t in matrices}
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
