"""Pack a text model, an embedder and a drafter from any source into one bundle.

GGUF files come in. A bundle goes out whose sections equal them key by key and byte by byte, after checks that they
belong together. If the text model is a bundle, its other sections are kept unless they are replaced. This module loads
nothing into llama.cpp and does not look at weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.projector import check_embedder
from ..bundle.reading import DRAFTER, EMBEDDER, NAMES, ORDER, TEXT, Bundle, Section, a_kind, read_sections
from ..bundle.validation import check_drafter, check_text
from ..bundle.writing import part_of, place_sections, write_bundle
from ..errors import FormatError

OPTIONS = {EMBEDDER: "--embedder", DRAFTER: "--drafter"}
SPLIT = "split."  # keys of llama.cpp's gguf-split, meaningless in a whole file


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
    """Pack files into one bundle. `text`: a text model's GGUF, or a bundle.

    `progress` is called with (bytes done, in all).
    Raises InputError (no such file), FormatError (a wrong kind of file, or parts of different models) and
    ConversionError (the output cannot be written). Then nothing new appears under the output's name.
    """
    bundle = Bundle.open(text)
    check_text(bundle.text)
    sections = {s.architecture: s for s in bundle.sections}
    for architecture, given in ((EMBEDDER, embedder), (DRAFTER, drafter)):
        if given is not None:
            sections[architecture] = only(given, architecture)
    if EMBEDDER in sections:
        check_embedder(bundle.text, sections[EMBEDDER])
    if DRAFTER in sections:
        check_drafter(bundle.text, sections[DRAFTER])
    chosen = [sections[name] for name in ORDER if name in sections]
    parts = [part_of(section) for section in chosen]
    parts[0] = replace(parts[0], pairs={k: v for k, v in parts[0].pairs.items() if not k.startswith(SPLIT)})
    total = place_sections(parts).total
    layout = write_bundle(out, parts, force=force, progress=lambda done: progress(done, total))
    names = tuple(s.architecture for s in chosen)
    return Packed(Path(out), names, layout.sizes, layout.total, tuple(_notes(bundle, names)))


def _notes(bundle: Bundle, packed: tuple[str, ...]) -> Iterator[str]:
    for name in bundle.missing:
        if name not in packed and name in OPTIONS:
            yield f"the {NAMES[name]} that {bundle.path} once had is not in the new file; give it with {OPTIONS[name]}"
    if EMBEDDER not in packed:
        yield "NO EMBEDDER: the bundle reads text and cannot see pictures or hear sound; give one with --embedder"


def only(path: str | os.PathLike[str], architecture: str) -> Section:
    """The only section of a file, which must have this architecture. Raises InputError and FormatError."""
    sections = read_sections(path)
    found = sections[0].architecture
    wanted = f"expected {a_kind(architecture)} (architecture {architecture!r}) for {OPTIONS[architecture]}"
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
