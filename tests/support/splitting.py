"""A GGUF in several files, laid out as llama-gguf-split lays them out."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFValueType as V

from gemma4gguf.bundle.container import encode_header, encode_pair, padded, place_tensors
from gemma4gguf.bundle.reading import Section


def split(section: Section, stem: Path, count: int, *, empty_first: bool = False) -> list[Path]:
    """Write the section as `count` files named by `stem`; its keys go into the first, with `empty_first` alone."""
    names = list(section.tensors)
    at = [0, *([0] if empty_first else [])]
    at += [len(names) * i // (count - len(at) + 1) for i in range(1, count - len(at) + 2)]
    paths = [stem.with_name(f"{stem.name}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    for i, path in enumerate(paths):
        chosen = [section.tensors[name] for name in names[at[i] : at[i + 1]]]
        keys = [] if i else list(section.header.pairs.values())
        keys += [encode_pair("split.no", V.UINT16, i), encode_pair("split.count", V.UINT16, count)]
        keys += [encode_pair("split.tensors.count", V.INT32, len(names))]
        raws = [section.raw(t.name).tobytes() for t in chosen]
        header = encode_header(keys, place_tensors([(t.name, t.shape, t.type) for t in chosen]))
        path.write_bytes(header + b"".join(raw + bytes(padded(len(raw)) - len(raw)) for raw in raws))
    return paths
