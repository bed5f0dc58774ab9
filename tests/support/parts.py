"""A bundle's parts as files of their own, the way a user of another runtime would cut them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gemma4gguf.bundle.container import padded, place_tensors
from gemma4gguf.bundle.reading import Bundle, Section
from gemma4gguf.bundle.writing import Part, part_of

ARCHITECTURES = {"text": "gemma4", "embedder": "clip", "drafter": "gemma4-assistant"}


def cut(bundle: Path, architecture: str, out: Path) -> Path:
    """Write the section's bytes to out and return out."""
    section = Bundle.open(bundle).require(architecture)
    with open(bundle, "rb") as file:
        file.seek(section.offset)
        out.write_bytes(file.read(section.size))
    return out


def save(path: Path, *parts: Part) -> Path:
    """Sections as plain GGUF files, without a bundle's keys, one after the other at multiples of 65,536."""
    raw = b""
    for part in parts:
        raw += bytes(padded(len(raw), 65_536) - len(raw)) + b"".join([part.header(), *map(bytes, part.data())])
    path.write_bytes(raw)
    return path


def changed(section: Section, keys: Mapping[str, bytes] | None = None, *, without: str = "") -> Part:
    """A section with other keys, or without the tensor `without`."""
    part = part_of(section)
    pairs = {**part.pairs, **(keys or {})}
    kept = [t for t in part.tensors if t.name != without]
    if not without:
        return replace(part, pairs=pairs)
    table = place_tensors([(t.name, t.shape, t.type) for t in kept])
    raws = [section.raw(t.name).tobytes() for t in kept]
    return Part(part.architecture, pairs, table, lambda: [raw + bytes(padded(len(raw)) - len(raw)) for raw in raws])
