"""Pack a text model, an embedder and a drafter from any source into one bundle.

GGUF files come in. A bundle goes out whose sections equal them key by key and byte by byte, after checks that they
belong together. If the text model is a bundle, its other sections are kept unless they are replaced; if it is split
into several files, they are joined. This module loads nothing into llama.cpp and does not look at weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..arguments import local_path
from ..bundle import split
from ..bundle.projector import check_embedder
from ..bundle.reading import (
    DRAFTER,
    EMBEDDER,
    NAMES,
    ORDER,
    PARAMETERS,
    TEXT,
    Bundle,
    Section,
    a_kind,
    expect_text,
    read_sections,
)
from ..bundle.validation import check_drafter, check_text
from ..bundle.writing import Part, part_of, place_sections, planned_section, write_bundle
from ..errors import FormatError


@dataclass(frozen=True)
class Packed:
    """What was written. `sections`: architectures, in order; `sizes`: their bytes; `notes`: lines for people."""

    path: Path
    sections: tuple[str, ...]
    sizes: tuple[int, ...]
    size: int
    notes: tuple[str, ...]


def pack(
    text: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embedder: str | os.PathLike[str] | None = None,
    drafter: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Pack files into one bundle. `text`: a text model's GGUF, one of its files if it is split, or a bundle.

    `progress` is called with (bytes done, in all).
    Raises InputError (no such file), FormatError (a wrong kind of file, or parts of different models) and
    ConversionError (the output cannot be written). Then nothing new appears under the output's name.
    """
    bundle, joined = _opened(local_path(text))
    sections = {s.architecture: s for s in bundle.sections}
    for architecture, given in ((EMBEDDER, embedder), (DRAFTER, drafter)):
        if given is not None:
            sections[architecture] = only(given, architecture)
    parts = checked_parts(sections, joined)
    total = place_sections(parts).total
    out = local_path(out)
    layout = write_bundle(out, parts, force=force, progress=lambda done: progress(done, total))
    names = tuple(part.architecture for part in parts)
    return Packed(out, names, layout.sizes, layout.total, tuple(_notes(bundle, names)))


def _opened(text: Path) -> tuple[Bundle, Part | None]:
    """The text model. If it is split into several files, also the part that joins them."""
    if len(split.siblings(text.name)) < 2:
        return Bundle.open(text), None
    joined = split.join(split.read_files(text))
    expect_text(text, joined.architecture)
    return Bundle(text, (planned_section(joined, text),), ()), joined


def checked_parts(sections: Mapping[str, Section], joined: Part | None = None) -> list[Part]:
    """The parts of a bundle, in order, after checks that the sections are whole and belong together.

    Only keys and tensor tables are checked. `joined`: the part to write for a text model in several files.
    """
    text = sections[TEXT]
    check_text(text)
    if EMBEDDER in sections:
        check_embedder(text, sections[EMBEDDER])
    if DRAFTER in sections:
        check_drafter(text, sections[DRAFTER])
    parts = [part_of(sections[name]) for name in ORDER if name in sections]
    first = joined or parts[0]
    return [replace(first, pairs={k: v for k, v in first.pairs.items() if not k.startswith(split.KEY)}), *parts[1:]]


def _notes(bundle: Bundle, packed: tuple[str, ...]) -> Iterator[str]:
    for name in bundle.missing:
        if name not in packed and name in PARAMETERS:
            lost = f"the {NAMES[name]} that {bundle.path} once had is not in the new file"
            yield f"{lost}; give it with {PARAMETERS[name]}="
    if EMBEDDER not in packed:
        yield "NO EMBEDDER: the bundle reads text and cannot see pictures or hear sound; give one with embedder="


def only(path: str | os.PathLike[str], architecture: str) -> Section:
    """The only section of a file, which must have this architecture. Raises InputError and FormatError."""
    sections = read_sections(path)
    found = sections[0].architecture
    wanted = f"expected {a_kind(architecture)} (architecture {architecture!r}) for {PARAMETERS[architecture]}="
    if found == TEXT and len(sections) > 1:
        raise FormatError(
            f"{path}: is a whole bundle, {wanted}; "
            f"cut its parts out first with `gemma4gguf export {path} DIR --for llama.cpp`"
        )
    if found != architecture:
        raise FormatError(f"{path}: holds {a_kind(found)}, {wanted}")
    if len(sections) > 1:
        raise FormatError(f"{path}: holds {len(sections)} sections, {wanted} and nothing else")
    return sections[0]
