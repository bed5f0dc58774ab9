"""Is each tensor the source's? It is quantised again and compared byte by byte.

Where bytes differ, another quantiser may have made them: then the error against the source counts, beside the error
that our own quantising to the same type makes. Blocks that stand out are changed bytes, whoever quantised the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from numpy.typing import NDArray

from converters.gemma4 import MappedTensor
from converters.grid import Lattice
from converters.quantise import PlannedTensor, pieces
from converters.recovery import look

from ..bundle.container import TensorInfo
from ..bundle.reading import NAMES, Section
from ..bundle.settings import GRID_TENSORS
from ..errors import ConversionError
from ..native import quantizer

BLOCK = 256  # values whose error is looked at together
DEARER = 1.5  # times the error of our own quantising: more is not what the type costs
FEW = 0.01  # share of blocks that differ: below it nobody else has quantised the tensor, bytes were changed
STANDS_OUT = 0.5  # a block whose squared error is this much of its squared values holds something else
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TensorFinding:
    """One tensor. `equal`: byte for byte what our quantiser makes of the source.

    Else `error` is the root mean square of what it is off, by that of its values, and `cost` that of our own
    quantising. `fault`: why it is not the source's tensor; None where it is.
    """

    section: str
    name: str
    type: str
    equal: bool
    error: float = 0.0
    cost: float = 0.0
    fault: str | None = None

    def __str__(self) -> str:
        what = self.fault or ("equal" if self.equal else f"error {self.error:.4f}, {self.type} costs {self.cost:.4f}")
        return f"{self.section}: {self.name}: {what}"


def compare(
    section: Section,
    source: Sequence[MappedTensor],
    strangers: Collection[str],
    threads: int,
    report: Callable[[int], None],
) -> Iterator[TensorFinding]:
    """Tensors of the source, and `strangers`, which only the file has. `report` is called with bytes done."""
    what = NAMES[section.architecture]
    for tensor in source:
        info = section.tensors.get(tensor.name)
        if info is None:
            yield TensorFinding(what, tensor.name, "", False, fault="is missing")
        elif info.shape != tensor.shape:
            yield TensorFinding(
                what, tensor.name, info.type.name, False, fault=f"is {info.shape}, the source's {tensor.shape}"
            )
        else:
            yield _compared(section, info, tensor, threads)
            report(info.nbytes)
    for name in strangers:
        yield TensorFinding(what, name, section.tensors[name].type.name, False, fault="is not in the source")


def _compared(section: Section, info: TensorInfo, tensor: MappedTensor, threads: int) -> TensorFinding:
    found = TensorFinding(NAMES[section.architecture], info.name, info.type.name, equal=True)
    held, planned = section.raw(info.name), PlannedTensor(tensor, info.type, lattice=_lattice(section, info, tensor))
    try:
        if info.type not in (T.F32, T.F16, T.BF16) and quantizer.requires_importance(info.type):
            return replace(found, equal=False, fault=f"{info.type.name} cannot be made again without importance values")
        if all(np.array_equal(own, part) for own, part in _pieces(planned, held, threads)):
            return found
        error, cost, fault = _judged(planned, held, threads)
        return replace(found, equal=False, error=error, cost=cost, fault=fault)
    except (ConversionError, NotImplementedError) as error:
        return replace(found, equal=False, fault=f"cannot be compared ({error})")


def _lattice(section: Section, info: TensorInfo, tensor: MappedTensor) -> Lattice | None:
    """What a tensor lies on that the file says was stored on its grid."""
    on_grid = info.name in section.metadata.get(GRID_TENSORS, ())
    return look([tensor], [info.type]).lattices.get(info.name) if on_grid else None


def _pieces(planned: PlannedTensor, held: Bytes, threads: int) -> Iterator[tuple[Bytes, Bytes]]:
    """What our quantiser makes of the source, and what the file holds there, piece by piece."""
    done = 0
    for own in pieces([planned], threads):
        own = own[: len(held) - done]  # without the padding behind a tensor
        yield own, held[done : done + len(own)]
        done += len(own)


def _judged(planned: PlannedTensor, held: Bytes, threads: int) -> tuple[float, float, str | None]:
    """Error and cost of a tensor whose bytes differ, and the fault if they are no quantiser's."""
    values: list[Floats] = []  # of each block: squared values, squared errors of the file, of our own, what differs
    plain = pieces([replace(planned, type=T.F32, lattice=None)], threads)
    for (own, part), true in zip(_pieces(planned, held, threads), plain, strict=True):
        mine, theirs = _floats(own, planned.type), _floats(part, planned.type)
        source = true.view(np.float32)[: mine.size]
        each = source**2, (theirs - source) ** 2, (mine - source) ** 2, mine != theirs
        values.append(np.stack([_blocks(value) for value in each]))
    size, off, cost, differs = np.concatenate(values, axis=1)
    error, own_error = (float(np.sqrt(each.sum() / max(size.sum(), 1e-30))) for each in (off, cost))
    changed = differs > 0
    few = changed.mean() < FEW
    worse = changed & (off > DEARER**2 * cost + 1e-12 * size)
    apart = worse if few else changed & (off > STANDS_OUT * size) & (off > 4 * cost)
    fault = None
    if few and apart.any():
        fault = f"{int(apart.sum()):,} of its {len(changed):,} blocks hold other values than the source's"
    elif not np.isfinite(error) or error > DEARER * own_error + 1e-6:
        fault = f"is not the source's: error {error:.4f}, {planned.type.name} costs {own_error:.4f}"
    elif apart.any():
        fault = f"{int(apart.sum()):,} of its {len(changed):,} blocks hold something else"
    return error, own_error, fault


def _floats(raw: Bytes, kind: T) -> Floats:
    return np.asarray(gguf.quants.dequantize(raw, kind), np.float32).reshape(-1)


def _blocks(values: NDArray[np.generic]) -> Floats:
    """Sums over blocks; a last one may be shorter."""
    starts = np.arange(0, values.size, BLOCK)
    return np.asarray(np.add.reduceat(values.astype(np.float32), starts), np.float32)
