"""Reads a GGUF file as a source: its text model or drafter is quantised anew, its other sections are copied.

In: a file, untrusted. Out: `Contents`. Knows nothing of safetensors or config.json.
"""

from __future__ import annotations

from typing import Any

from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType

from gemma4gguf.bundle.container import encode_pair
from gemma4gguf.bundle.reading import DRAFTER, EMBEDDER, KEY, NAMES, TEXT, Bundle, Section, read_sections
from gemma4gguf.bundle.validation import check_family
from gemma4gguf.errors import ConversionError, FormatError

from .checkpoint import QAT
from .contents import Contents, SectionContents
from .gemma4 import MappedTensor
from .metadata import QUANTIZATION_VERSION, Pairs
from .origin import Origin
from .safetensors import StoredTensor

READABLE = {T.F32, T.BF16, T.F16, T.Q8_0}
FILE_TYPE, VERSION, ALIGNMENT = "general.file_type", "general.quantization_version", "general.alignment"


def read_gguf(origin: Origin, *, drafter: bool = False, text_only: bool = False) -> Contents:
    """Read a bundle or a text model's GGUF, or with `drafter` a drafter's GGUF or the drafter inside a bundle.

    Raises ConversionError for a file that holds something else.
    """
    try:
        bundle = None if drafter else Bundle.open(origin.path)
        sections = read_sections(origin.path) if bundle is None else bundle.sections
    except FormatError as error:
        raise ConversionError(str(error)) from None
    by_name = {s.architecture: s for s in sections}
    if bundle is None:
        if DRAFTER not in by_name:
            found = ", ".join(NAMES.get(a, repr(a)) for a in by_name)
            raise ConversionError(f"{origin.path}: holds no MTP drafter, only: {found}; give the drafter's own file")
        return Contents((_requantised(by_name[DRAFTER]),))
    carried = [by_name[a] for a in ((DRAFTER,) if text_only else (EMBEDDER, DRAFTER)) if a in by_name]
    notes = [f"the {NAMES[s.architecture]} of {origin.path.name} is carried over unchanged" for s in carried]
    if EMBEDDER not in (s.architecture for s in carried):
        why = "text_only=True leaves it out" if text_only else f"{origin.path.name}: {bundle.absence(EMBEDDER)}"
        notes.append(f"NO EMBEDDER: {why}; the bundle reads text and cannot see pictures or hear sound")
    notes += [f"{origin.path.name}: {bundle.absence(name)}" for name in bundle.missing if name != EMBEDDER]
    parts = (_requantised(by_name[TEXT]), *(SectionContents(s.architecture, (), _no_pairs, carried=s) for s in carried))
    named = [origin.name, str(by_name[TEXT].metadata.get("general.name") or "").replace(" ", "-")]
    trained_for = "Q4_0" if any(QAT.search(name) for name in named) else None
    return Contents(parts, tuple(notes), trained_for)


def _no_pairs(_: int) -> Pairs:
    return {}


def _requantised(section: Section) -> SectionContents:
    start = section.header.data_start
    tensors = tuple(
        MappedTensor(t.name, t.shape, StoredTensor(t.name, t.shape, t.type, section.path, start + t.offset))
        for t in section.tensors.values()
    )
    if not tensors:
        raise ConversionError(f"{section.path}: the {NAMES[section.architecture]} has no tensors; get the file again")
    _check_model(section)
    heads, kv_heads = (_first(section, f"attention.{key}") for key in ("head_count", "head_count_kv"))

    def pairs(file_type: int) -> Pairs:
        kept = {k: v for k, v in section.header.pairs.items() if not k.startswith((KEY, "split.", ALIGNMENT))}
        kept[FILE_TYPE] = encode_pair(FILE_TYPE, GGUFValueType.UINT32, file_type)
        kept[VERSION] = encode_pair(VERSION, GGUFValueType.UINT32, QUANTIZATION_VERSION)
        return kept

    return SectionContents(section.architecture, tensors, pairs, _first(section, "block_count"), heads // kv_heads)


def _check_model(section: Section) -> None:
    try:
        check_family(section)
    except FormatError as error:
        raise ConversionError(str(error)) from None


def _first(section: Section, key: str) -> int:
    """A number of the model; where there is one per layer, the first layer's."""
    key = f"{section.architecture}.{key}"
    value: Any = section.metadata.get(key)
    value = value[0] if isinstance(value, list) and value else value
    if type(value) is not int or value < 1:
        raise ConversionError(f"{section.path}: {key} is {value!r}, expected a positive number; convert it again")
    return value
