"""Load a section: the only way from a file into llama.cpp.

A section comes in; weights go out, loaded from the same file whose header was checked. What would make llama.cpp abort
the process is a FormatError here, and so is a file that changed since it was read. This module does not know prompts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..bundle.reading import DRAFTER, Section
from ..bundle.validation import check
from ..native.library import started
from ..native.weights import Weights


def load(
    section: Section,
    text: Section | None = None,
    *,
    gpu_layers: int | None = None,
    repack: bool = True,
    vocab_only: bool = False,
    debug: bool = False,
) -> Weights:
    """Check a section and load it from inside its file. `text`: the text model, if the section is its drafter.

    `gpu_layers`, `repack`, `vocab_only` and `debug`: see `Weights`. Raises FormatError, InputError (the file is
    gone) and NativeError.
    """
    check(section, text or section)
    # Seen once, on a machine with CUDA, and not understood: loading crashed where llama.cpp started with the file
    # already open, and worked where it had started before.
    started(debug)
    instead: dict[str, int | str] = {}
    if section.architecture == DRAFTER:  # it has its target's vocabulary, and nobody asks for it here: half its time
        size = section.tensors["token_embd.weight"].shape[0]
        instead = {"tokenizer.ggml.model": "none", f"{DRAFTER}.vocab_size": size}
    with section.open() as file, in_place(section, file) as (path, offset, descriptor):
        return Weights(
            path,
            offset=offset,
            descriptor=descriptor,
            gpu_layers=gpu_layers,
            repack=repack,
            vocab_only=vocab_only,
            instead=instead,
            debug=debug,
        )


@contextmanager
def in_place(
    section: Section, file: BinaryIO, *, copy: bool = os.name != "posix"
) -> Iterator[tuple[Path, int, int | None]]:
    """Path, byte offset and open descriptor from which llama.cpp can load a section: of the bundle, or of a copy.

    Windows needs the copy, because a C FILE cannot be passed to another C runtime.
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
        with suppress(OSError):  # Windows cannot remove a mapped file: it stays among the temporary files
            Path(copied.name).unlink()
