"""Read a bundle: complete GGUF files (sections) in one file, each starting at a multiple of 65,536 bytes.

A path comes in; sections with their keys, tensors and arrays go out. llama.cpp reads nothing after the last tensor of
the first section, so it takes a bundle for a plain text model. The file is untrusted. This module does not know what a
section must hold (see `validation`), and it does not use llama.cpp.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ..arguments import local_path
from ..errors import FormatError, InputError, MissingPartError
from .container import Allowance, Header, LazyStrings, TensorInfo, padded, read_header

TEXT, EMBEDDER, DRAFTER = "gemma4", "clip", "gemma4-assistant"  # general.architecture of each section, in order
ORDER = (TEXT, EMBEDDER, DRAFTER)
PARAMETERS = {EMBEDDER: "embedder", DRAFTER: "drafter"}  # of `tools.pack.pack`, and of its command as options
NAMES = {TEXT: "text model", EMBEDDER: "multimodal embedder", DRAFTER: "MTP drafter"}
SECTION_ALIGNMENT = 65_536  # bytes; a page on every system, so that each section can be memory-mapped
BUNDLE_VERSION = 1
KEY = "gemma4gguf.bundle."
COPY_BYTES = 8 << 20
LONGEST_NAME = 64  # characters of an architecture

UNHASHED = "0" * 64  # replaces the text section's own digest while that section is hashed

_STORED_AS_THEY_ARE = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}


def a_kind(architecture: str) -> str:
    """A section's kind with its article, such as "an MTP drafter", for messages."""
    what = NAMES.get(architecture, f"{architecture!r} model")
    return f"{'an' if what.startswith('MTP') else 'a'} {what}"


@dataclass(frozen=True)
class FileIdentity:
    """Tells an open file from other files, and from itself after a change."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> FileIdentity:
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Section:
    """One complete GGUF inside a file: `size` bytes from `offset`. `identity`: the file's, when its header was read."""

    path: Path
    architecture: str
    offset: int
    size: int
    header: Header
    identity: FileIdentity | None = None

    def open(self) -> BinaryIO:
        """Open the file. Raises InputError if it is gone, FormatError if it is not the file that was read before."""
        file = open_file(self.path)
        if self.identity is not None and FileIdentity.of(file) != self.identity:
            file.close()
            raise FormatError(f"{self.path}: was changed or replaced after it was opened; open it again")
        return file

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.header.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.header.tensors

    def check_unchanged(self) -> None:
        """Raise as `open` does, where the file has changed: a memory-mapped one ends the process if it has shrunk."""
        self.open().close()

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's stored bytes, uint8 [nbytes], memory-mapped read-only."""
        info = self.tensors[name]
        with self.open() as file:
            return np.memmap(file, np.uint8, "r", offset=self.header.data_start + info.offset, shape=(info.nbytes,))

    def array(self, name: str) -> NDArray[Any]:
        """A tensor in numpy's order. F32 and F16 are memory-mapped; every other type is converted to new float32.

        Raises FormatError if the section has no such tensor or its type cannot be converted.
        """
        if name not in self.tensors:
            what = NAMES.get(self.architecture, self.architecture)
            raise FormatError(f"{self.path}: the {what} has no tensor {name!r}; convert it again")
        info, raw = self.tensors[name], self.raw(name)
        dtype = _STORED_AS_THEY_ARE.get(info.type)
        if dtype is not None:
            view: NDArray[Any] = raw.view(dtype).reshape(info.shape)
            return view
        try:
            flat: NDArray[Any] = gguf.quants.dequantize(np.asarray(raw).reshape(info.shape[0], -1), info.type)
        except NotImplementedError:
            raise FormatError(f"{self.path}: {name!r} is stored as {info.type.name}, which cannot be read") from None
        return flat.reshape(info.shape).astype(np.float32, copy=False)

    def copy(self) -> Iterator[memoryview]:
        """The section's bytes, in pieces."""
        with self.open() as file:
            yield from pieces(file, self.offset, self.size)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, or a plain text GGUF, which is a bundle of one section.

    `missing`: sections that the metadata lists and the file lacks, because another tool rewrote it.
    """

    path: Path
    sections: tuple[Section, ...]
    missing: tuple[str, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the header of every section. Raises InputError (no such file) or FormatError (not a Gemma 4 bundle)."""
        path = local_path(path)
        sections = read_sections(path)
        found = [s.architecture for s in sections]
        expect_text(path, found[0])
        check_unsplit(path, sections[0].metadata)
        if found != [name for name in ORDER if name in found]:
            raise FormatError(
                f"{path}: sections {', '.join(map(repr, found))}: expected each of {', '.join(ORDER)} once, in order"
            )
        missing = (name for name in listed_sections(sections[0]) if name not in found)
        return cls(path, tuple(sections), tuple(missing))

    def section(self, architecture: str) -> Section | None:
        return next((s for s in self.sections if s.architecture == architecture), None)

    @property
    def text(self) -> Section:
        return self.sections[0]

    def require(self, architecture: str) -> Section:
        """The section. If it is missing, raises a MissingPartError that says why and what to do."""
        section = self.section(architecture)
        if section is not None:
            return section
        raise MissingPartError(f"{self.path}: {self.absence(architecture)}")

    def absence(self, architecture: str) -> str:
        """Why a section is missing and what to do about it, for messages."""
        what = NAMES.get(architecture, f"section {architecture!r}")
        if architecture in self.missing:
            return (
                f"the {what} that this file once had is gone: another tool rewrote the file, or it is one part of a "
                "bundle; put it back with `gemma4gguf pack`"
            )
        return f"has no {what}; convert the full checkpoint, or add one with `gemma4gguf pack`"


def listed_sections(text: Section) -> dict[str, tuple[int, str]]:
    """The sections that the text section's metadata lists: architecture -> (size in bytes, SHA-256 in hex).

    Empty if it lists none. Raises FormatError if the lists are malformed or differ in length.
    """
    lists = [text.metadata.get(KEY + name, []) for name in ("sections", "sizes", "sha256")]
    kinds = (str, int, str)
    for values, kind in zip(lists, kinds, strict=True):
        if not isinstance(values, (list, LazyStrings)) or not all(type(value) is kind for value in values):
            raise FormatError(f"{text.path}: the keys {KEY}* are damaged; get the file again, or convert again")
    names, sizes, digests = lists
    if not len(names) == len(sizes) == len(digests) == len(set(names)):
        raise FormatError(
            f"{text.path}: names {len(names)} sections, {len(sizes)} sizes and {len(digests)} hashes; "
            "get the file again, or convert again"
        )
    return {name: (size, sha) for name, size, sha in zip(names, sizes, digests, strict=True)}


def read_sections(path: str | os.PathLike[str]) -> list[Section]:
    """Every GGUF in the file, in order. Each starts at the first multiple of 65,536 after the end of the one before.

    Raises InputError if the file cannot be opened, FormatError if it is not a series of GGUFs.
    """
    path, allowance = local_path(path), Allowance()
    with open_file(path) as file:
        identity = FileIdentity.of(file)
        if not identity.size:
            raise FormatError(f"{path}: the file is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sections: list[Section] = []
    start = 0
    while start < len(data):
        if sections and data[start : start + 4] != b"GGUF":
            raise FormatError(f"{path}: unknown bytes at {start:,}, after the {sections[-1].architecture!r} section")
        if len(sections) == allowance.limits.sections:
            raise FormatError(f"{path}: more than {allowance.limits.sections} sections; get the file again")
        header = read_header(data, start, str(path), allowance)
        architecture = header.metadata.get("general.architecture")
        if not isinstance(architecture, str) or len(architecture) > LONGEST_NAME:
            check_unsplit(path, header.metadata)
            raise FormatError(f"{path}: the section at byte {start:,} names no general.architecture")
        sections.append(Section(path, architecture, start, header.end - start, header, identity))
        start = padded(header.end, SECTION_ALIGNMENT)
    return sections


def expect_text(path: Path, architecture: str) -> None:
    """Raise FormatError unless this is the architecture of a Gemma 4 text model."""
    if architecture != TEXT:
        parameter = PARAMETERS.get(architecture)
        cure = f"; join it with its text model: `gemma4gguf pack TEXT OUT --{parameter} {path}`" if parameter else ""
        raise FormatError(
            f"{path}: holds {a_kind(architecture)}, expected a Gemma 4 text model first (architecture {TEXT!r}){cure}"
        )


def check_unsplit(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise FormatError for one file of a model that llama-gguf-split cut into several."""
    count = metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        raise FormatError(
            f"{path}: is one of {count} parts; join them first with `gemma4gguf pack {path} OUT`, or, where they are "
            f"not named NAME-00001-of-{count:05d}.gguf, with `llama-gguf-split --merge`"
        )


def open_file(path: Path) -> BinaryIO:
    """Open an ordinary file for reading. Raises InputError for a missing file, a folder, a pipe or a device."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise InputError(f"{path}: is a folder, expected a .gguf file")
        if not stat.S_ISREG(kind):
            raise InputError(f"{path}: is a pipe or a device, expected a .gguf file")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def pieces(file: IO[bytes], offset: int, size: int) -> Iterator[memoryview]:
    """`size` bytes from `offset`, at most COPY_BYTES at a time. Raises FormatError if the file ends early."""
    file.seek(offset)
    while size:
        piece = file.read(min(COPY_BYTES, size))
        if not piece:
            raise FormatError(f"{file.name}: ended {size:,} bytes early; it changed while it was read")
        size -= len(piece)
        yield memoryview(piece)


def digest(section: Section) -> str:
    """A section's SHA-256 as the metadata stores it. The text section is hashed with zeros for its own digest."""
    sha = hashlib.sha256()
    with section.open() as file:
        file.seek(section.offset)
        header = file.read(section.header.data_start - section.offset)
        own = listed_sections(section).get(TEXT) if section.architecture == TEXT else None
        if own is not None:
            header = header.replace(own[1].encode(), UNHASHED.encode(), 1)
        sha.update(header)
        for piece in pieces(file, section.header.data_start, section.offset + section.size - section.header.data_start):
            sha.update(piece)
    return sha.hexdigest()
