"""Join a text model that llama-gguf-split or llama.cpp's converter wrote into several files.

The path of any of the files comes in; they are named NAME-00001-of-00003.gguf. One part to write goes out, with the
bytes of every tensor unchanged. This module knows the format and not what a model must hold.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import FormatError, InputError
from .container import padded, place_tensors, read_header
from .reading import FileIdentity, Section, open_file, pieces
from .writing import Part

KEY = "split."  # keys of no meaning in a whole file
_NAME = re.compile(r"(?P<stem>.+)-(?P<no>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def siblings(name: str) -> list[str]:
    """The names of all files of a split model, in order, by the name of one of them; empty for other names."""
    match = _NAME.fullmatch(name)
    count = int(match["count"]) if match else 0
    if not match or not 1 <= int(match["no"]) <= count:
        return []
    return [f"{match['stem']}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]


def read_files(path: Path) -> list[Section]:
    """The files of a split model, of which `path` is one. Raises InputError where one is missing, FormatError."""
    names = siblings(path.name)
    out = []
    for name in names:
        file = path.with_name(name)
        if not file.is_file():
            raise InputError(f"{file}: no such file; {path.name} is one of {len(names)} files, which are all needed")
        with open_file(file) as stream:
            identity = FileIdentity.of(stream)
            if not identity.size:
                raise FormatError(f"{file}: the file is empty")
            header = read_header(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), 0, str(file))
        out.append(Section(file, "", 0, header.end, header, identity))
    return out


def join(files: Sequence[Section]) -> Part:
    """The files of a split model as one part: the keys of the first, the tensors of all, in order.

    Raises FormatError where the files are not the parts of one model.
    """
    for i, file in enumerate(files):
        _check(file, i, files)
    first = files[0].header
    places = [(file, info) for file in files for info in file.tensors.values()]
    twice = len(places) - len({info.name for _, info in places})
    told = first.metadata.get(f"{KEY}tensors.count", len(places))
    if twice or told != len(places):
        detail = f"{twice:,} of them twice" if twice else f"expected {told}"
        raise FormatError(
            f"{files[0].path}: its {len(files)} files hold {len(places):,} tensors, {detail}; get them again"
        )
    table = place_tensors(((info.name, info.shape, info.type) for _, info in places), first.alignment)

    def data() -> Iterator[Any]:
        for file, info in places:
            with file.open() as stream:
                yield from pieces(stream, file.header.data_start + info.offset, info.nbytes)
            yield bytes(padded(info.nbytes, first.alignment) - info.nbytes)

    pairs = {key: raw for key, raw in first.pairs.items() if not key.startswith(KEY)}
    return Part(str(first.metadata.get("general.architecture")), pairs, table, data, first.alignment)


def _check(file: Section, number: int, files: Sequence[Section]) -> None:
    """Raise FormatError unless the file is the one of this number, from 0, in a model of as many files as `files`."""
    found = tuple(file.metadata.get(KEY + key) for key in ("no", "count"))
    if found != (number, len(files)):
        raise FormatError(
            f"{file.path}: split.no and split.count are {found[0]} and {found[1]}, expected {number} and {len(files)}; "
            "get the files again"
        )
    if file.header.alignment != files[0].header.alignment and file.tensors:
        raise FormatError(
            f"{file.path}: its tensors are aligned to {file.header.alignment} bytes, those of {files[0].path} "
            f"to {files[0].header.alignment}: not one model"
        )
