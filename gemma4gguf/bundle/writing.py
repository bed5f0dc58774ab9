"""Write a new bundle: complete GGUF files (sections) in one file, each starting at a multiple of 65,536 bytes.

Parts come in, each with its keys, its tensor table and a source of its data. A finished file goes out, or none if
something fails. The same parts give the same bytes. This module does not know what a section must hold, and it does
not use llama.cpp.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFValueType

from ..errors import ConversionError
from .container import DEFAULT_ALIGNMENT, TensorInfo, encode_array, encode_header, encode_pair, padded, read_header
from .newfile import new_file
from .reading import BUNDLE_VERSION, KEY, NAMES, SECTION_ALIGNMENT, UNHASHED, Section, pieces


@dataclass(frozen=True)
class Part:
    """A section to write: its encoded keys, its tensor table and a source of its data.

    `data()` yields the tensor data in the table's order, each tensor padded to `alignment`, in pieces of any size.
    """

    architecture: str
    pairs: Mapping[str, bytes]
    tensors: Sequence[TensorInfo]
    data: Callable[[], Iterable[Any]]
    alignment: int = DEFAULT_ALIGNMENT

    @property
    def data_size(self) -> int:
        return max((padded(t.offset + t.nbytes, self.alignment) for t in self.tensors), default=0)

    def header(self, extra: Iterable[bytes] = ()) -> bytes:
        pairs = [raw for key, raw in self.pairs.items() if not key.startswith(KEY)]
        return encode_header([*pairs, *extra], self.tensors, self.alignment)


def part_of(section: Section) -> Part:
    """A section of an existing file as a part of a new one, with its keys, table and data unchanged."""
    header = section.header

    tensors = list(header.tensors.values())

    def data() -> Iterator[Any]:
        held = header.end - header.data_start
        with section.open() as file:
            yield from pieces(file, header.data_start, held)
        yield bytes(part.data_size - held)  # a file may end without the padding after its last tensor

    part = Part(section.architecture, header.pairs, tensors, data, header.alignment)
    return part


def planned_section(part: Part, path: Path) -> Section:
    """The section that a part will become, for checks before it is written: keys and tensor table, no data."""
    header = read_header(encode_header(part.pairs.values(), [], part.alignment), 0, str(path))
    return Section(path, part.architecture, 0, 0, replace(header, tensors={t.name: t for t in part.tensors}))


def _bundle_pairs(parts: Sequence[Part], sizes: Sequence[int], digests: Sequence[str]) -> list[bytes]:
    return [
        encode_pair(KEY + "version", GGUFValueType.UINT32, BUNDLE_VERSION),
        encode_array(KEY + "sections", GGUFValueType.STRING, [p.architecture for p in parts]),
        encode_array(KEY + "sizes", GGUFValueType.UINT64, sizes),
        encode_array(KEY + "sha256", GGUFValueType.STRING, digests),
    ]


@dataclass(frozen=True)
class Placement:
    """The offset and the size of each part in bytes, known before anything is written."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.offsets[-1] + self.sizes[-1]


def place_sections(parts: Sequence[Part]) -> Placement:
    """Compute where each part goes. The first part's header also holds the bundle's own keys."""
    blank = _bundle_pairs(parts, [0] * len(parts), [UNHASHED] * len(parts))
    sizes = [len(p.header(blank if i == 0 else ())) + p.data_size for i, p in enumerate(parts)]
    offsets = [0]
    for size in sizes[:-1]:
        offsets.append(padded(offsets[-1] + size, SECTION_ALIGNMENT))
    return Placement(tuple(offsets), tuple(sizes))


def write_bundle(
    out: str | os.PathLike[str],
    parts: Sequence[Part],
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Placement:
    """Write `parts` (the text model first) as one bundle. `progress` is called with the bytes written so far.

    The file gets its name only when it is complete and synced. Raises ConversionError if the file exists (without
    `force`), the folder is missing, or the disk is full.
    """
    out = Path(out)
    plan = place_sections(parts)
    with new_file(out, plan.total, force=force) as file:
        # The text part is written last, because its header holds the digests of the others.
        digests, done = [""] * len(parts), 0
        for i in [*range(1, len(parts)), 0]:
            part = parts[i]
            extra = _bundle_pairs(parts, plan.sizes, [UNHASHED, *digests[1:]]) if i == 0 else []
            header = part.header(extra)
            sha = hashlib.sha256(header)
            file.seek(plan.offsets[i])
            file.write(header)
            written = len(header)
            for piece in part.data():
                sha.update(piece)
                file.write(piece)
                written += len(piece)
                progress(done + written)
            if written != plan.sizes[i]:
                raise ConversionError(
                    f"{out}: the {NAMES[part.architecture]} came to {written:,} bytes, planned {plan.sizes[i]:,}"
                )
            digests[i], done = sha.hexdigest(), done + written
        file.seek(0)
        file.write(parts[0].header(_bundle_pairs(parts, plan.sizes, digests)))
    return plan
