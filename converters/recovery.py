"""Looks whether a checkpoint's matrices lie on a grid, as those of quantisation-aware training do.

In: tensors of a checkpoint on disk. Out: for each the grid it lies on, by a sample of its blocks. What counts is what
the weights are, not what the repository is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
from gguf import GGMLQuantizationType as T

from . import mixture
from .gemma4 import MappedTensor
from .grid import BLOCK, GRIDS, HALF_STEP, FloatArray, Grid, Lattice, fit
from .rows import Rows, spread

SHARE = 0.9  # of a tensor's blocks, from which on it counts as lying on a grid
PLACES = 4  # of a tensor that are looked at, 32 rows each
FEW, MANY = 16, 512  # blocks that decide whether to look closer; blocks looked at then


@dataclass(frozen=True)
class Findings:
    """`lattices`: name -> what the tensor lies on. `by_channel`: tensors with a grid for each column or each row,
    which blocks along the rows cannot hold. `share`: of the weights looked at, those on a grid.
    """

    lattices: Mapping[str, Lattice] = field(default_factory=dict)
    by_channel: tuple[str, ...] = ()
    share: float = 0.0


def look(tensors: Sequence[MappedTensor], types: Sequence[T]) -> Findings:
    """Look at matrices stored as floats for grids of these types. Reads some rows of each."""
    grids = [grid for grid in GRIDS if grid.type in types]
    lattices, by_channel, seen = {}, list[str](), 0
    for tensor in tensors:
        if not mixture.quantisable(tensor.name, tensor.shape) or not _readable(tensor):
            continue
        seen += prod(tensor.shape)
        sample = _sample(tensor)
        half_step = _half_step(sample)
        grid = _which(sample.reshape(-1, BLOCK).T, half_step, grids)
        if grid is not None:
            lattices[tensor.name] = Lattice(grid, half_step)
        elif any(_which(blocks, half_step, grids) for blocks in _by_channel(sample)):
            by_channel.append(tensor.name)
    held = sum(prod(t.shape) for t in tensors if t.name in lattices)
    return Findings(lattices, tuple(by_channel), held / seen if seen else 0.0)


def _readable(tensor: MappedTensor) -> bool:
    """Whether the weights are the checkpoint's own floats, in rows of whole blocks."""
    stored = tensor.stored
    plain = tensor.change is None and tensor.columns is None and not tensor.transpose
    return plain and stored is not None and stored.type in HALF_STEP and tensor.shape[-1] % BLOCK == 0


def _sample(tensor: MappedTensor) -> FloatArray:
    """Runs of 32 rows from several places, float32 [rows, width]."""
    assert tensor.stored is not None
    stored, rows, reader = tensor.stored, prod(tensor.shape[:-1]), Rows()
    return np.concatenate([reader.read(stored, *piece).copy() for piece in spread(rows, BLOCK, PLACES)])


def _by_channel(sample: FloatArray) -> Iterator[FloatArray]:
    """Pieces of columns, and whole rows, as blocks: float32 [height, n]."""
    if len(sample) % BLOCK == 0:
        yield np.concatenate(np.split(sample, len(sample) // BLOCK), axis=1)
    yield sample.T


def _half_step(sample: FloatArray) -> int:
    """The precision that the weights were rounded to, whatever they are stored in."""
    used = int(np.bitwise_or.reduce(sample.view(np.uint32), axis=None))
    return next(half for half in HALF_STEP.values() if used % (2 * half) == 0 or half == 1)


def _which(blocks: FloatArray, half_step: int, grids: Sequence[Grid]) -> Grid | None:
    """The first grid that most of the blocks [height, n] lie on."""
    blocks = blocks[:, (blocks != 0).any(0)]  # empty blocks say nothing
    for grid in grids:
        if all(_share(blocks, half_step, grid, most) >= SHARE for most in (FEW, MANY)):
            return grid
    return None


def _share(blocks: FloatArray, half_step: int, grid: Grid, most: int) -> float:
    step = max(1, blocks.shape[1] // most)
    found = fit(np.ascontiguousarray(blocks[:, ::step]), half_step, grid).found
    return float(found.mean()) if found.size else 0.0
