"""Are the keys, the vocabulary and the template the source's? Values are compared, not the integers' widths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from ..bundle.container import LazyStrings
from ..bundle.reading import NAMES, Section

TEMPLATE = "tokenizer.chat_template"
# What a file's maker may say otherwise: names and origins, and the settings of this package alone.
FREE = ("general.", "gemma4gguf.", "quantize.", "split.")
RELATIVE = 1e-6  # of numbers: a float32 of a float64
# Keys that llama.cpp's own converter writes at some versions only, and what a reader takes without them.
OPTIONAL = ("tokenizer.ggml.suppress_tokens", "tokenizer.ggml.mask_token_id", "tokenizer.ggml.add_space_prefix")


def differences(section: Section, expected: Section) -> Iterator[str]:
    """What the file says otherwise than the source, one line each. `expected`: what a conversion would write."""
    what = NAMES[section.architecture]
    for key, value in expected.metadata.items():
        if key.startswith(FREE) or (key in OPTIONAL and key not in section.metadata):
            continue
        found = section.metadata.get(key)
        if not _same(found, value):
            yield f"{what}: {_told(key, found, value)}"


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, LazyStrings) and isinstance(found, LazyStrings):
        return found.stored == value.stored
    if isinstance(value, list) and isinstance(found, list):
        return len(found) == len(value) and all(map(_same, found, value))
    if isinstance(value, float) and isinstance(found, float):
        return abs(found - value) <= RELATIVE * abs(value)
    return bool(found == value)


def _told(key: str, found: Any, value: Any) -> str:
    if found is None:
        return f"{key} is missing, the source says {_short(value)}"
    if key == TEMPLATE:
        return f"the chat template is another one: SHA-256 {_digest(found)}, the source's {_digest(value)}"
    if isinstance(value, (list, LazyStrings)) and isinstance(found, (list, LazyStrings)):
        if len(found) != len(value):
            return f"{key} has {len(found):,} entries, the source {len(value):,}"
        other = [i for i, (a, b) in enumerate(zip(found, value, strict=True)) if not _same(a, b)]
        first = f"first {other[0]:,}: {_short(found[other[0]])}, the source says {_short(value[other[0]])}"
        return f"{key} differs in {len(other):,} of {len(value):,} entries, {first}"
    return f"{key} is {_short(found)}, the source says {_short(value)}"


def _digest(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    return f"{len(value):,} entries" if isinstance(value, (list, LazyStrings)) else f"{value!r:.60}"
