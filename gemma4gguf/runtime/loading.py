"""A section to weights: the only way from a file into llama.cpp.

In: a section. Out: loaded weights, of the very file whose header was checked. Raises FormatError for what llama.cpp
would end the process over, and where the file is no longer the one that was read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..bundle.reading import Section
from ..bundle.validation import check
from ..native.weights import Weights


def load(
    section: Section,
    text: Section | None = None,
    *,
    gpu_layers: int | None = None,
    vocab_only: bool = False,
    debug: bool = False,
) -> Weights:
    """Check a section and load it where it lies. `text`: the text model, where the section is its drafter.

    `gpu_layers`, `vocab_only` and `debug`: see `Weights`. Raises FormatError, InputError (the file is gone) and
    NativeError.
    """
    check(section, text or section)
    with section.open() as file, in_place(section, file) as (path, offset, descriptor):
        return Weights(
            path,
            offset=offset,
            descriptor=descriptor,
            gpu_layers=gpu_layers,
            vocab_only=vocab_only,
            debug=debug,
        )


@contextmanager
def in_place(
    section: Section, file: BinaryIO, *, copy: bool = os.name != "posix"
) -> Iterator[tuple[Path, int, int | None]]:
    """Path, byte offset and open descriptor that llama.cpp can load a section from: the bundle itself, or a copy.

    A copy is needed where a C FILE of another runtime library cannot be handed over.
    """
    if not copy:
        yield section.path, section.offset, file.fileno()
        return
    if not section.offset:
        yield section.path, 0, None
        return
    with tempfile.NamedTemporaryFile(suffix=".gguf", delete=False) as copied:
        for piece in section.copy():
            copied.write(piece)
    try:
        yield Path(copied.name), 0, None
    finally:
        with suppress(OSError):  # Windows keeps a mapped file: it goes with the folder of temporary files
            Path(copied.name).unlink()
